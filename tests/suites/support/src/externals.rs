//! The external programs of a suite: servers, Collectors and tools that xtask builds or fetches. xtask passes
//! their paths as `--external NAME=PATH`.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// A program or folder that a suite runs beside the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum External {
    /// Bun, of the npm registry.
    Bun,
    /// The Collector with the components that configurations for one host name.
    Collector,
    /// The Collector with the components that configurations for many hosts name.
    CollectorContrib,
    /// The Collector with Elasticsearch's exporter.
    CollectorElastic,
    /// Docker Compose.
    Compose,
    /// Deno, of the npm registry.
    Deno,
    /// The unpacked distribution of Elasticsearch, a folder.
    Elasticsearch,
    /// The listener of tests/golistener.
    GoListener,
    /// Jaeger.
    Jaeger,
    /// Loki.
    Loki,
    /// Prometheus.
    Prometheus,
    /// The Python package termtosvg, a folder.
    Termtosvg,
    /// `VictoriaLogs`.
    VictoriaLogs,
}

impl External {
    const ALL: [Self; 13] = [
        Self::Bun,
        Self::Collector,
        Self::CollectorContrib,
        Self::CollectorElastic,
        Self::Compose,
        Self::Deno,
        Self::Elasticsearch,
        Self::GoListener,
        Self::Jaeger,
        Self::Loki,
        Self::Prometheus,
        Self::Termtosvg,
        Self::VictoriaLogs,
    ];

    /// The name in `--external NAME=PATH`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bun => "bun",
            Self::Collector => "collector",
            Self::CollectorContrib => "collector-contrib",
            Self::CollectorElastic => "collector-elastic",
            Self::Compose => "compose",
            Self::Deno => "deno",
            Self::Elasticsearch => "elasticsearch",
            Self::GoListener => "golistener",
            Self::Jaeger => "jaeger",
            Self::Loki => "loki",
            Self::Prometheus => "prometheus",
            Self::Termtosvg => "termtosvg",
            Self::VictoriaLogs => "victoria-logs",
        }
    }
}

/// External programs and their paths.
#[derive(Debug, Default)]
pub struct Externals(BTreeMap<External, PathBuf>);

impl Externals {
    /// Adds an external program.
    pub fn insert(&mut self, external: External, path: PathBuf) {
        self.0.insert(external, path);
    }

    /// The path of an external program.
    ///
    /// # Errors
    /// When xtask did not pass it.
    pub fn path(&self, external: External) -> Result<&Path> {
        let path = self.0.get(&external).map(PathBuf::as_path);
        path.with_context(|| {
            format!("there is no --external {}=PATH: start the suites by `cargo xtask`", external.name())
        })
    }

    /// The arguments that pass these paths to a suite.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let argument = |(external, path): (&External, &PathBuf)| {
            let mut pair = OsString::from(external.name());
            pair.push("=");
            pair.push(path);
            [OsString::from("--external"), pair]
        };
        self.0.iter().flat_map(argument).collect()
    }

    /// Reads the values of `--external`.
    ///
    /// # Errors
    /// When a value is not NAME=PATH, or the name is unknown.
    pub fn parse(pairs: &[OsString]) -> Result<Self> {
        pairs.iter().map(|pair| parse_pair(pair)).collect::<Result<_>>().map(Self)
    }
}

fn parse_pair(pair: &OsStr) -> Result<(External, PathBuf)> {
    let text = pair.to_str().with_context(|| format!("--external {}: not UTF-8", pair.display()))?;
    let Some((name, path)) = text.split_once('=') else { bail!("--external {text}: not NAME=PATH") };
    let external = External::ALL.into_iter().find(|external| external.name() == name);
    Ok((
        external.with_context(|| format!("--external {text}: no external program is called {name}"))?,
        path.into(),
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{External, Externals};

    #[test]
    fn arguments_are_read_as_they_were_written() {
        let mut externals = Externals::default();
        for external in External::ALL {
            externals.insert(external, format!("/a=b/{}", external.name()).into());
        }
        let pairs: Vec<_> = externals.arguments().into_iter().filter(|one| one != "--external").collect();
        let parsed = Externals::parse(&pairs).expect("all are pairs");
        assert_eq!(parsed.path(External::Loki).expect("it is there"), Path::new("/a=b/loki"));
        assert_eq!(pairs.len(), External::ALL.len());
    }

    #[test]
    fn other_pairs_are_errors() {
        for pair in ["loki", "lok=/a", "=/a"] {
            assert!(Externals::parse(&[pair.into()]).is_err(), "{pair}");
        }
        assert!(Externals::default().path(External::Jaeger).is_err());
    }
}
