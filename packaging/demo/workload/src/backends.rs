//! Says where the backends are, which of them is away, and when it is back.

use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Error, Result};

const INTERVAL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);

/// `NAME=HOST:PORT[,URL]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Backend {
    name: String,
    /// Where it listens, as seen from here.
    address: String,
    /// What a person opens.
    url: Option<String>,
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("not NAME=HOST:PORT[,URL]")?;
        let (address, url) = rest.split_once(',').map_or((rest, None), |(address, url)| (address, Some(url)));
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        port.context("no port after HOST:")?;
        Ok(Self { name: name.to_owned(), address: address.to_owned(), url: url.map(str::to_owned) })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => write!(out, "{}: {url}", self.name),
            None => write!(out, "{} answers", self.name),
        }
    }
}

/// Says so at the start, and with each change.
pub(crate) fn watch(backends: &[Backend]) -> Result<()> {
    let mut known = vec![None; backends.len()];
    loop {
        for (backend, known) in backends.iter().zip(&mut known) {
            let answer = answers(&backend.address);
            let is_there = answer.is_ok();
            if known.replace(is_there) != Some(is_there) {
                match answer {
                    Ok(()) => println!("{backend}"),
                    Err(error) => {
                        println!("{} is away: {}: {error:#}; trying again", backend.name, backend.address);
                    }
                }
            }
        }
        sleep(INTERVAL);
    }
}

fn answers(address: &str) -> Result<()> {
    let resolved = address.to_socket_addrs().context("its name has no address")?.next();
    TcpStream::connect_timeout(&resolved.context("its name has no address")?, PATIENCE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Backend;

    #[test]
    fn what_a_backend_is() {
        let parsed = |text: &str| {
            text.parse::<Backend>().map(|backend| (backend.address.clone(), backend.to_string()))
        };
        let full =
            parsed("Jaeger=jaeger:16686,http://localhost:16686").expect("a name, an address and a page");
        assert_eq!(full, ("jaeger:16686".to_owned(), "Jaeger: http://localhost:16686".to_owned()));
        assert_eq!(parsed("Loki=loki:3100").expect("no page").1, "Loki answers");
        for wrong in ["Loki", "Loki=loki", "Loki=loki:", "Loki=loki:http"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
