//! Servers and clients that give the demo something to show, one role in each process. A server prints a line
//! for each accept that returned, `accepted PID LOCAL PEER` with the addresses of `getsockname` and
//! `getpeername`; the suites compare acceptd's records with these lines.
#![forbid(unsafe_code)]

mod backends;
mod clients;
mod servers;

use std::{env, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "workload", about = "Servers and clients for acceptd's demo", version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// A server that accepts at once, on one port or several
    Fast {
        /// Address and port to listen on
        address: SocketAddr,
        /// How many consecutive ports, from that one on
        #[arg(long, default_value_t = 1)]
        ports: u16,
    },
    /// A server that makes each client wait for 300 ms
    Slow { address: SocketAddr },
    /// A server with room for two waiting clients, while more connect at once
    Crowded { address: SocketAddr },
    /// A server that runs out of descriptors (run it with `ulimit -n 16`), and recovers after a while as if
    /// restarted
    Exhausted { address: SocketAddr },
    /// A server on a UNIX socket
    Unix { path: PathBuf },
    /// Clients that connect to all of these
    Clients(clients::Servers),
    /// A scanner that connects to each port of a host, again and again
    Scanner {
        /// Host name or address
        host: String,
        #[arg(long, default_value_t = 8000)]
        first: u16,
        #[arg(long, default_value_t = 8199)]
        last: u16,
    },
    /// A known number of clients, for a measurement
    Crowd(clients::Crowd),
    /// Prints where backends are, which of them does not answer, and when it answers again
    Backends {
        /// The Compose profile of these backends; `COMPOSE_PROFILES` must select it
        #[arg(long)]
        profile: Option<String>,
        /// NAME=HOST:PORT[/PATH][,URL]; its health is checked with GET
        #[arg(required = true)]
        backends: Vec<backends::Backend>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().role {
        Role::Fast { address, ports } => servers::fast(address, ports),
        Role::Slow { address } => servers::slow(address),
        Role::Crowded { address } => servers::crowded(address),
        Role::Exhausted { address } => servers::exhausted(address),
        Role::Unix { path } => servers::unix(&path),
        Role::Clients(servers) => {
            clients::all(&servers);
            Ok(())
        }
        Role::Crowd(crowd) => clients::crowd(&crowd),
        Role::Backends { profile, backends } => {
            backends::require(profile.as_deref(), env::var(backends::PROFILES).ok().as_deref())
                .and_then(|()| backends::watch(&backends))
        }
        Role::Scanner { host, first, last } => clients::scan(&host, first..=last),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
