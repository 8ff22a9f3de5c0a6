//! Prints where the backends are, which of them does not answer, and when it answers again.

use std::{fmt, str::FromStr, thread::sleep, time::Duration};

use anyhow::{Context, Error, Result, ensure};
use ureq::Agent;

/// The variable by which Compose selects profiles.
pub(crate) const PROFILES: &str = "COMPOSE_PROFILES";
const INTERVAL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);

/// `NAME=HOST:PORT[/PATH][,URL]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Backend {
    name: String,
    /// The URL of the health check, as this container resolves it.
    checked: String,
    /// The page to open in a browser on the host.
    url: Option<String>,
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("not NAME=HOST:PORT[/PATH][,URL]")?;
        let (checked, url) = rest.split_once(',').map_or((rest, None), |(checked, url)| (checked, Some(url)));
        let (address, path) = checked.split_once('/').unwrap_or((checked, ""));
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        port.context("no port after HOST:")?;
        let checked = format!("http://{address}/{path}");
        Ok(Self { name: name.to_owned(), checked, url: url.map(str::to_owned) })
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

/// Checks that the variable selects the profile: if it was selected in another way, the Collector's
/// configuration does not include it, and the backend would get no data.
pub(crate) fn require(profile: Option<&str>, chosen: Option<&str>) -> Result<()> {
    let Some(profile) = profile else { return Ok(()) };
    ensure!(
        chosen == Some(profile),
        "the backends of the profile {profile} would receive no data: start with {PROFILES}={profile} docker compose up, not with --profile"
    );
    Ok(())
}

/// Prints the state at the start, and each change.
pub(crate) fn watch(backends: &[Backend]) -> Result<()> {
    let agent = Agent::config_builder().proxy(None).timeout_global(Some(PATIENCE)).build().new_agent();
    let mut known = vec![None; backends.len()];
    loop {
        for (backend, known) in backends.iter().zip(&mut known) {
            let answer = agent.get(&backend.checked).call();
            let is_up = answer.is_ok();
            if known.replace(is_up) != Some(is_up) {
                match answer {
                    Ok(_) => println!("{backend}"),
                    Err(error) => {
                        println!("{} is down: {}: {}; retrying", backend.name, backend.checked, why(&error));
                    }
                }
            }
        }
        sleep(INTERVAL);
    }
}

fn why(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        ureq::Error::StatusCode(status) => format!("it answers with {status}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Backend, require};

    #[test]
    fn a_backend_is_parsed_and_shown() {
        let parsed = |text: &str| {
            text.parse::<Backend>().map(|backend| (backend.checked.clone(), backend.to_string()))
        };
        let full =
            parsed("Jaeger=jaeger:16686,http://localhost:16686").expect("a name, an address and a page");
        assert_eq!(full, ("http://jaeger:16686/".to_owned(), "Jaeger: http://localhost:16686".to_owned()));
        let without = parsed("Loki=loki:3100/ready").expect("a backend without a page");
        assert_eq!(without, ("http://loki:3100/ready".to_owned(), "Loki answers".to_owned()));
        for wrong in ["Loki", "Loki=loki", "Loki=loki:", "Loki=loki:http"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_profile_must_be_in_the_environment() {
        assert!(require(None, None).is_ok());
        assert!(require(Some("elastic"), Some("elastic")).is_ok());
        assert!(require(Some("elastic"), Some("victorialogs")).is_err());
        let error = require(Some("elastic"), None).expect_err("no profile");
        assert!(error.to_string().contains("COMPOSE_PROFILES=elastic docker compose up"), "{error}");
    }
}
