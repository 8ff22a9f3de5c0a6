//! acceptd's tasks. `cargo xtask demo` and `cargo xtask test` are all that a newcomer needs.
#![forbid(unsafe_code)]

mod agent;
mod apt;
mod backends;
mod bench;
mod build;
mod ci;
mod codegen;
mod collector;
mod command;
mod demo;
mod docker;
mod e2e;
mod fuzz;
mod go;
mod host;
mod http;
mod jaeger;
mod kubernetes;
mod ledger;
mod libraries;
mod process;
mod records;
mod results;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "acceptd's tasks", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build: the eBPF crate's toolchain and bpf-linker
    Setup,
    /// Build the release binary, target/release/acceptd
    Build,
    /// Build static programs for images, into target/image
    Dist {
        /// Also for the other architecture
        #[arg(long)]
        all: bool,
    },
    /// Make connections and show their records as they arrived over OTLP (root)
    Demo,
    /// Run the tests; without root those that load eBPF programs are left out
    Test,
    /// nginx, the agent and a real Collector: compare what arrived with nginx's own log (root)
    E2e(Extent),
    /// Measure the agent (root)
    Bench(Extent),
    /// Kill, cut and fill whatever the agent needs: nothing may be lost silently (root)
    Soak(Extent),
    /// Real backends show what the demo's workload did: each query of docs/queries.md, each expression of the dashboards (root)
    Backends(Extent),
    /// Make the README's pictures anew (root)
    Pictures,
    /// Hold what packaging/kubernetes renders against Kubernetes' schemas
    Kubernetes,
    /// Run the scenarios on other kernels, in virtual machines
    Vm(vm::Options),
    /// Feed every parser with what libFuzzer makes up
    Fuzz(Extent),
    /// Generate names.rs and docs/attributes.md from otel-config/registry
    Codegen {
        /// Write nothing; fail when a generated file differs
        #[arg(long)]
        check: bool,
    },
    /// Everything that CI runs
    Ci,
    /// A process of the end-to-end suite
    #[command(hide = true)]
    AcceptOnce,
    /// Likewise
    #[command(hide = true)]
    AcceptSlowly,
}

/// How much of a suite to run.
#[derive(Args, Clone, Copy)]
#[group(required = true, multiple = false)]
pub(crate) struct Extent {
    /// What CI runs, a minute or two
    #[arg(long)]
    quick: bool,
    /// Everything; writes its figures to docs/results
    #[arg(long)]
    full: bool,
}

impl Extent {
    /// How the suite's programs are built: what is measured for good is what is shipped.
    fn profile(self) -> &'static str {
        if self.full { build::RELEASE } else { build::QUICK }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence with its causes, and no backtrace even where RUST_BACKTRACE is set.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup => setup::run(&workspace),
        Task::Build => build::release(&workspace).map(|binary| println!("built {}", binary.display())),
        Task::Dist { all } => build::dist(&workspace, build::RELEASE, all),
        Task::Demo => demo::run(&workspace),
        Task::Test => test::run(&workspace),
        Task::E2e(extent) => e2e::run(&workspace, extent),
        Task::Bench(extent) => bench::run(&workspace, extent),
        Task::Soak(extent) => soak::run(&workspace, extent),
        Task::Backends(extent) => backends::run(&workspace, extent),
        Task::Pictures => backends::pictures::run(&workspace),
        Task::Kubernetes => kubernetes::run(&workspace),
        Task::Vm(options) => vm::run(&workspace, &options),
        Task::Fuzz(extent) => fuzz::run(&workspace, extent),
        Task::Codegen { check } => codegen::run(&workspace, check),
        Task::Ci => ci::run(&workspace),
        Task::AcceptOnce => e2e::hostile::accept_once(),
        Task::AcceptSlowly => e2e::jaeger::accept_slowly(),
    }
}
