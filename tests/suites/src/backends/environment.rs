//! Reads .env, which has the images and ports of docker-compose.yml.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::{host, suite::Suite};

/// The variables of .env. Each variable `*_PORT` has a free port of this host instead of the usual one.
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(super) fn read(suite: &Suite) -> Result<Self> {
        let text = std::fs::read_to_string(suite.path(".env")).context("reading .env")?;
        let mut variables = parse(&text)?;
        for (name, value) in &mut variables {
            if name.ends_with("_PORT") {
                *value = host::free_port()?.to_string();
            }
        }
        Ok(Self(variables))
    }

    pub(super) fn value(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!(".env has no {name}"))
    }

    pub(super) fn port(&self, name: &str) -> Result<u16> {
        self.value(name)?.parse().with_context(|| format!("{name} is not a port"))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, String>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) =
                line.split_once('=').with_context(|| format!(".env: {line:?} is not NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_is_a_variable_a_comment_or_wrong() {
        let variables = parse("# one\n\nA=b:1=2\n#B=c\n").expect("good");
        assert_eq!(variables.into_iter().collect::<Vec<_>>(), [("A".to_owned(), "b:1=2".to_owned())]);
        assert!(parse("A\n").is_err());
    }
}
