//! Asking each backend as docs/queries.md says.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::answer::{
    Row, {self},
};
use crate::http::{
    encoded, {self},
};

/// Asks the backend that answers on `port`.
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
            let path = query.strip_prefix("GET ").context("only GET is known of Jaeger")?;
            let answer = http::get_json(port, path)?;
            if path.starts_with("/api/v3/") { answer::otlp(&answer) } else { answer::traces(&answer) }
        }
        "elasticsearch" => {
            let (line, body) = query.split_once('\n').context("no body")?;
            let (method, path) = line.split_once(' ').context("no method and path")?;
            let body: Value = serde_json::from_str(body).context("the body is no JSON")?;
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
