//! Sends a query to a backend over the HTTP API that docs/queries.md names for that backend.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::answer::{self, Row};
use crate::http::{self, encoded};

/// Sends a query to the backend that listens on this port of 127.0.0.1, and returns the rows of its answer.
/// Fails if the backend refuses the query or its answer is not in the expected format.
pub(super) fn ask(backend: &str, port: u16, query: &str) -> Result<Vec<Row>> {
    match backend {
        "prometheus" => {
            answer::series(&http::get_json(port, &format!("/api/v1/query?query={}", encoded(query)))?)
        }
        "loki" => {
            let path = if query.starts_with('{') { "query_range" } else { "query" };
            let path = format!("/loki/api/v1/{path}?limit=1000&query={}", encoded(query));
            answer::series(&http::get_json(port, &path)?)
        }
        "jaeger" => {
            let path = query.strip_prefix("GET ").context("a Jaeger query must start with GET")?;
            let answer = http::get_json(port, path)?;
            if path.starts_with("/api/v3/") { answer::otlp(&answer) } else { answer::traces(&answer) }
        }
        "elasticsearch" => {
            let (line, body) = query.split_once('\n').context("no body")?;
            let (method, path) = line.split_once(' ').context("no method and path")?;
            let body: Value = serde_json::from_str(body).context("the body is not JSON")?;
            answer::search(&http::send_json(method, port, path, &body)?)
        }
        "victorialogs" => {
            let (status, body) = http::get(port, &format!("/select/logsql/query?query={}", encoded(query)))?;
            if status != 200 {
                bail!("{status}: {}", body.trim_end());
            }
            answer::lines(&body)
        }
        other => bail!("there is no backend {other}"),
    }
}
