//! What each program costs an accept, as the kernel counts it (`BPF_ENABLE_STATS`, kernel/bpf/syscall.c).

use std::{
    fmt,
    net::{TcpListener, TcpStream},
};

use acceptd::bpf::{
    LoadError, Programs, Settings, Tier, Traces, Wanted,
    figures::{
        Figures, {self},
    },
    filter::Filter,
    offsets, {self},
};

/// One program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Its name.
    pub program: &'static str,
    /// How often it ran for an accept, with the connect and the two closes that belong to it.
    pub runs_per_accept: f64,
    /// Nanoseconds of one run.
    pub ns_per_run: f64,
    /// See [`Figures::verified_instructions`]; 0 where the kernel does not tell (before 5.16).
    pub verified_instructions: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, runs_per_accept, ns_per_run, verified_instructions } = self;
        write!(
            out,
            "{program}: {runs_per_accept:.2} runs an accept, {ns_per_run:.0} ns a run, {verified_instructions} instructions verified"
        )
    }
}

/// Accepts `accepts` connections of this process over IPv4, with the programs of `tier` recording them.
///
/// # Errors
/// When the kernel refuses the programs.
///
/// # Panics
/// When nothing can be accepted, or the kernel's statistics cannot be switched on.
#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
pub fn measure(tier: Tier, accepts: u32) -> Result<Vec<Cost>, LoadError> {
    let settings = Settings {
        tier: Some(tier),
        skip: Vec::new(),
        ring_bytes: 16 << 20,
        record_self: true,
        failure_budget: 0,
        wanted: Wanted::default(),
        filter: Filter::of_process(std::process::id()),
        traces: Traces::NONE,
    };
    let Programs { hooks, mut ring, .. } = bpf::load(&settings, &offsets::resolve(offsets::VMLINUX)?)?;
    let statistics = figures::count_runs().expect("root may");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let before = hooks.figures();
    for _ in 0..accepts {
        let client = TcpStream::connect(address).expect("somebody listens");
        let accepted = listener.accept().expect("a connection");
        drop((client, accepted));
        while ring.next().is_some() {}
    }
    let after = hooks.figures();
    drop(statistics);
    let since = |before: Option<u64>, after: Option<u64>| after.unwrap_or(0) - before.unwrap_or(0);
    let cost = |((program, before), (_, after)): (&(&'static str, Figures), &(_, Figures))| {
        let runs = since(before.runs, after.runs);
        Cost {
            program,
            runs_per_accept: runs as f64 / f64::from(accepts),
            ns_per_run: since(before.run_time_ns, after.run_time_ns) as f64 / runs.max(1) as f64,
            verified_instructions: after.verified_instructions.unwrap_or(0),
        }
    };
    Ok(before.iter().zip(&after).map(cost).collect())
}
