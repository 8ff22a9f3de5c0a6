//! Servers and clients that give the demo something to show, one role a process. A server prints a line for each accept that
//! returned, `accepted PID LOCAL PEER` as `getsockname` and `getpeername` have them: what acceptd says is held against that.
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
        /// Where it listens
        address: SocketAddr,
        /// How many ports, from that one on
        #[arg(long, default_value_t = 1)]
        ports: u16,
    },
    /// A server that lets each client wait for 300 ms
    Slow { address: SocketAddr },
    /// A server with room for two that wait, and more who come at once
    Crowded { address: SocketAddr },
    /// A server that runs out of descriptors (give it `ulimit -n 16`), and is as if restarted after a while
    Exhausted { address: SocketAddr },
    /// A server on a UNIX socket
    Unix { path: PathBuf },
    /// Who connects to all of these
    Clients(clients::Servers),
    /// Who connects to each of a host's ports, again and again
    Scanner {
        /// A name or an address
        host: String,
        #[arg(long, default_value_t = 8000)]
        first: u16,
        #[arg(long, default_value_t = 8199)]
        last: u16,
    },
    /// Many clients in a known number, for a measurement
    Crowd(clients::Crowd),
    /// Says where backends are, which of them is away, and when it is back
    Backends {
        /// Which of Compose's profiles they are of; the environment has to have chosen it
        #[arg(long)]
        profile: Option<String>,
        /// NAME=HOST:PORT[/PATH][,URL]; how it is, is asked by GET
        #[arg(required = true)]
        backends: Vec<backends::Backend>,
    },
}

fn main() -> ExitCode {
    let ended = match Cli::parse().role {
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
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
