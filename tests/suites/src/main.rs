//! acceptd beside real servers, Collectors and backends; `cargo xtask` builds those and starts this program.
#![forbid(unsafe_code)]

mod agent;
mod backends;
mod collector;
mod demo;
mod docker;
mod e2e;
mod guests;
mod host;
mod http;
mod jaeger;
mod ledger;
mod process;
mod records;
mod suite;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use xtask_support::Extent;

use crate::suite::Suite;

#[derive(Parser)]
#[command(name = "suites", about = "acceptd's suites; `cargo xtask` starts them", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make connections and show their records as they arrived over OTLP
    Demo(Built),
    /// nginx and other servers, the agent and a real Collector
    E2e {
        #[command(flatten)]
        extent: Extent,
        /// Run only this part
        #[arg(long)]
        only: Option<e2e::Part>,
        #[command(flatten)]
        built: Built,
    },
    /// Real backends, asked every query of docs/queries.md and every expression of the dashboards
    Backends {
        #[command(flatten)]
        extent: Extent,
        #[command(flatten)]
        built: Built,
    },
    /// Draw the README's pictures
    Pictures(Built),
    /// Read the log of a virtual machine; print its outcome as JSON
    GuestOutcome { log: PathBuf },
    /// Judge a virtual machine, described by a JSON file; print the verdict as JSON
    GuestVerdict { guest: PathBuf },
    /// Print docs/kernels.md for the virtual machines that a JSON file describes
    GuestTable { guests: PathBuf },
    /// Accept one connection under a hostile thread name (a process of the suite e2e)
    #[command(hide = true)]
    AcceptOnce,
    /// Accept one connection slowly (a process of the suite e2e)
    #[command(hide = true)]
    AcceptSlowly,
}

/// The arguments with the paths of what xtask has built.
#[derive(Args)]
struct Built {
    /// The folder of this workspace's programs
    #[arg(long, value_name = "FOLDER")]
    programs: PathBuf,
    /// A program that the suite runs beside the agent
    #[arg(long = "external", value_name = "NAME=PATH")]
    externals: Vec<OsString>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The error with its causes on one line, without a backtrace even if RUST_BACKTRACE is set.
            eprintln!("suites: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(built) => demo::run(&built.suite()?),
        Command::E2e { extent, only, built } => e2e::run(&built.suite()?, extent, only),
        Command::Backends { extent, built } => backends::run(&built.suite()?, extent),
        Command::Pictures(built) => backends::pictures::run(&built.suite()?),
        Command::GuestOutcome { log } => guests::print_outcome(&log),
        Command::GuestVerdict { guest } => guests::print_verdict(&guest),
        Command::GuestTable { guests } => guests::print_table(&guests),
        Command::AcceptOnce => e2e::hostile::accept_once(),
        Command::AcceptSlowly => e2e::jaeger::accept_slowly(),
    }
}

impl Built {
    fn suite(self) -> Result<Suite> {
        Suite::new(self.programs, &self.externals)
    }
}
