//! Measures the cost of each BPF program per accept, with the kernel's own statistics (`BPF_ENABLE_STATS`,
//! kernel/bpf/syscall.c).

use std::{
    fmt,
    net::{TcpListener, TcpStream},
};

use acceptd::bpf::{
    self, LoadError, LoadSettings, OptionalHooks, Programs, Tier, TraceSettings,
    filter::EventFilter,
    offsets,
    program_stats::{self, ProgramStats},
};

/// The cost of one program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProgramCost {
    /// The program's name.
    pub program: &'static str,
    /// Runs per accepted connection, including those for its connect and its two closes.
    pub runs_per_accept: f64,
    /// Nanoseconds per run.
    pub ns_per_run: f64,
    /// See [`ProgramStats::verified_instructions`]; 0 before Linux 5.16, which does not report it.
    pub verified_instructions: u64,
}

impl fmt::Display for ProgramCost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, runs_per_accept, ns_per_run, verified_instructions } = self;
        write!(
            out,
            "{program}: {runs_per_accept:.2} runs an accept, {ns_per_run:.0} ns a run, {verified_instructions} instructions verified"
        )
    }
}

/// Loads the programs of `tier`, accepts `accepts` IPv4 connections from this process, and returns the cost
/// of each program.
///
/// # Errors
/// If the kernel refuses the programs.
///
/// # Panics
/// If a connection fails, or the kernel's statistics cannot be switched on (root privileges).
#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
pub fn measure(tier: Tier, accepts: u32) -> Result<Vec<ProgramCost>, LoadError> {
    let settings = LoadSettings {
        tier: Some(tier),
        skip: Vec::new(),
        ring_bytes: 16 << 20,
        record_self: true,
        failure_budget: 0,
        service_names: true,
        optional: OptionalHooks::default(),
        filter: EventFilter::for_process(std::process::id()),
        traces: TraceSettings::DISABLED,
    };
    let Programs { attached, mut ring, .. } = bpf::load(&settings, &offsets::resolve(offsets::VMLINUX)?)?;
    let statistics = program_stats::enable_run_stats().expect("root privileges");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let before = attached.stats();
    for _ in 0..accepts {
        let client = TcpStream::connect(address).expect("the listener is up");
        let accepted = listener.accept().expect("a connection");
        drop((client, accepted));
        while ring.next().is_some() {}
    }
    let after = attached.stats();
    drop(statistics);
    let since = |before: Option<u64>, after: Option<u64>| after.unwrap_or(0) - before.unwrap_or(0);
    let cost = |((program, before), (_, after)): (&(&'static str, ProgramStats), &(_, ProgramStats))| {
        let runs = since(before.runs, after.runs);
        ProgramCost {
            program,
            runs_per_accept: runs as f64 / f64::from(accepts),
            ns_per_run: since(before.run_time_ns, after.run_time_ns) as f64 / runs.max(1) as f64,
            verified_instructions: after.verified_instructions.unwrap_or(0),
        }
    };
    Ok(before.iter().zip(&after).map(cost).collect())
}
