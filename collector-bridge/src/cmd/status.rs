//! `acceptd status`: queries the agent that runs on this host for its health and counters.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

use super::{failure, usage_error};
use crate::{
    cmd::cli::StatusArgs,
    health::status::{State, Status},
};

/// Exit code if the agent is degraded.
const EXIT_DEGRADED: u8 = 2;

/// How long the agent may take to answer. Short, because probes retry.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of an answer in bytes. A larger answer does not come from the agent.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Queries the agent and prints the answer. The exit code is 0 (ok), 2 (degraded), 1 (failed, or no agent
/// answers) or 64 (unusable configuration).
pub fn run(args: &StatusArgs) -> ExitCode {
    let loaded = match args.source.load() {
        Ok(loaded) => loaded,
        Err(error) => return usage_error(error.problems()),
    };
    let Some(address) = loaded.config.admin.listen else {
        return usage_error([
            "admin.listen = none: an agent with this configuration has no status server; set admin.listen",
        ]);
    };
    match query(args, address) {
        Ok(code) => code,
        Err(error) => failure(&error),
    }
}

fn query(args: &StatusArgs, address: SocketAddr) -> anyhow::Result<ExitCode> {
    let path = match (args.live, args.ready) {
        (true, _) => "/livez",
        (_, true) => "/readyz",
        _ => "/status",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { time::timeout(ANSWER_TIMEOUT, get(address, path)).await });
    let no_agent = || {
        format!(
            "no agent answers at {address} (admin.listen); check that the agent runs, and with the same admin.listen"
        )
    };
    let (status, body) = answer
        .with_context(|| format!("no answer within {ANSWER_TIMEOUT:?}"))
        .flatten()
        .with_context(no_agent)?;
    if args.live || args.ready {
        print(&String::from_utf8_lossy(&body));
        return Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let Ok(read) = serde_json::from_slice::<Status>(&body) else {
        bail!("the server at {address} (admin.listen) is not acceptd: HTTP {status}; check admin.listen");
    };
    if args.output == "json" {
        print(&(serde_json::to_string(&read)? + "\n"));
    } else {
        print(&read.to_string());
    }
    Ok(match read.state {
        State::Ok => ExitCode::SUCCESS,
        State::Degraded => ExitCode::from(EXIT_DEGRADED),
        State::Failed => ExitCode::FAILURE,
    })
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(anyhow::Error::from_boxed)?;
    Ok((status, body.to_bytes()))
}

fn print(text: &str) {
    // If standard output is closed, the exit code still has the result.
    _ = io::stdout().write_all(text.as_bytes());
}
