//! `acceptd status`: asks the agent that runs on this host how it is.

use std::{
    io::{
        Write as _, {self},
    },
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

use super::{failed, unusable};
use crate::{
    cmd::cli::StatusArgs,
    health::status::{State, Status},
};

/// Exit code for an agent that works in part.
const EXIT_DEGRADED: u8 = 2;

/// How long the agent may take to answer: a probe asks again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Larger answers are not the agent's.
const LONGEST: usize = 1 << 20;

/// Asks, prints the answer, and ends with 0 (ok), 2 (degraded) or 1 (failed, or there is no agent).
pub fn run(args: &StatusArgs) -> ExitCode {
    let loaded = match args.source.load() {
        Ok(loaded) => loaded,
        Err(error) => return unusable(error.problems()),
    };
    let Some(address) = loaded.config.admin.listen else {
        return unusable(["admin.listen = none: an agent with this configuration shows no status"]);
    };
    match ask(args, address) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn ask(args: &StatusArgs, address: SocketAddr) -> anyhow::Result<ExitCode> {
    let path = match (args.live, args.ready) {
        (true, _) => "/livez",
        (_, true) => "/readyz",
        _ => "/status",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async { time::timeout(PATIENCE, get(address, path)).await });
    let no_agent = || format!("no agent answers at {address} (admin.listen); is it running?");
    let (status, body) =
        asked.with_context(|| format!("no answer within {PATIENCE:?}")).flatten().with_context(no_agent)?;
    if args.live || args.ready {
        print(&String::from_utf8_lossy(&body));
        return Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let Ok(read) = serde_json::from_slice::<Status>(&body) else {
        bail!("what answers at {address} (admin.listen) is no acceptd: HTTP {status}");
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
    let body =
        Limited::new(answer.into_body(), LONGEST).collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok((status, body.to_bytes()))
}

fn print(text: &str) {
    // Nobody is left to tell when the standard output is gone.
    _ = io::stdout().write_all(text.as_bytes());
}
