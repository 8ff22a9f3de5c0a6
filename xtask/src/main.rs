//! acceptd's tasks: install, build, generate, test, and start the suites. `cargo xtask demo` and `cargo xtask
//! test` are all that a newcomer needs.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod build;
mod ci;
mod codegen;
mod elasticsearch;
mod externals;
mod fuzz;
mod go;
mod kubernetes;
mod language;
mod lint;
mod npm;
mod setup;
mod soak;
mod structure;
mod suites;
mod termtosvg;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask_support::{Extent, Workspace};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "acceptd's tasks", version)]
struct Cli {
    #[command(subcommand)]
    task: XtaskCommand,
}

#[derive(Subcommand)]
enum XtaskCommand {
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
    /// Run the tests; without root, all but those that load eBPF programs
    Test,
    /// Compare the records at a real Collector with the logs of nginx and other servers (root)
    E2e(Extent),
    /// Measure the agent (root)
    Bench(Extent),
    /// Check that nothing is lost silently while the agent, its disk and its Collector fail (root)
    Soak(Extent),
    /// Ask real backends every query of docs/queries.md and every expression of the dashboards (root)
    Backends(Extent),
    /// Draw the README's pictures again (root)
    Pictures,
    /// Check what packaging/kubernetes renders against the schemas of Kubernetes
    Kubernetes,
    /// Run the scenarios on other kernels, in virtual machines
    Vm(vm::Options),
    /// Fuzz the parsers of input from outside with libFuzzer
    Fuzz(Extent),
    /// Generate names.rs, docs/attributes.md and otel-config/elastic/*.json from otel-config/registry
    Codegen {
        /// Write nothing; fail if a generated file differs
        #[arg(long)]
        check: bool,
    },
    /// Check that comments and pages are in plain technical English
    Language,
    /// Check that no files of a crate depend on each other in a circle
    Structure,
    /// Run everything that CI runs
    Ci,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The error with its causes on one line, without a backtrace even if RUST_BACKTRACE is set.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: XtaskCommand) -> anyhow::Result<()> {
    let workspace = Workspace::from_manifest_dir()?;
    match task {
        XtaskCommand::Setup => setup::run(&workspace),
        XtaskCommand::Build => {
            build::release(&workspace).map(|binary| println!("built {}", binary.display()))
        }
        XtaskCommand::Dist { all } => build::dist(&workspace, build::RELEASE, all),
        XtaskCommand::Demo => suites::demo(&workspace),
        XtaskCommand::Test => test::run(&workspace),
        XtaskCommand::E2e(extent) => suites::e2e(&workspace, extent),
        XtaskCommand::Bench(extent) => bench::run(&workspace, extent),
        XtaskCommand::Soak(extent) => soak::run(&workspace, extent),
        XtaskCommand::Backends(extent) => suites::backends(&workspace, extent),
        XtaskCommand::Pictures => suites::pictures(&workspace),
        XtaskCommand::Kubernetes => kubernetes::run(&workspace),
        XtaskCommand::Vm(options) => vm::run(&workspace, &options),
        XtaskCommand::Fuzz(extent) => fuzz::run(&workspace, extent),
        XtaskCommand::Codegen { check } => codegen::run(&workspace, check),
        XtaskCommand::Language => language::run(&workspace),
        XtaskCommand::Structure => structure::run(&workspace),
        XtaskCommand::Ci => ci::run(&workspace),
    }
}
