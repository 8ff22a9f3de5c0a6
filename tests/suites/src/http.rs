//! An HTTP client for servers on 127.0.0.1.

use std::{sync::LazyLock, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::Agent;

/// Elasticsearch on a busy machine takes some seconds for the first query of a kind.
const TIMEOUT: Duration = Duration::from_secs(30);

static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    Agent::config_builder()
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build()
        .new_agent()
});

/// Sends a GET; returns status and body.
pub(crate) fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let about = || format!("GET http://127.0.0.1:{port}{path}");
    let mut answer = AGENT.get(url(port, path)).call().with_context(about)?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_string().with_context(about)?))
}

/// Sends a GET; returns the JSON of the answer. A status other than 2xx is an error.
pub(crate) fn get_json(port: u16, path: &str) -> Result<Value> {
    let (status, body) = get(port, path)?;
    json(path, status, &body)
}

/// Sends JSON by POST or PUT; returns the JSON of the answer. A status other than 2xx is an error.
pub(crate) fn send_json(method: &str, port: u16, path: &str, body: &Value) -> Result<Value> {
    let about = || format!("{method} http://127.0.0.1:{port}{path}");
    let request = match method {
        "POST" => AGENT.post(url(port, path)),
        "PUT" => AGENT.put(url(port, path)),
        other => bail!("{other} is neither POST nor PUT"),
    };
    let sent = request.content_type("application/json").send(body.to_string());
    let mut answer = sent.with_context(about)?;
    let (status, body) = (answer.status().as_u16(), answer.body_mut().read_to_string().with_context(about)?);
    json(path, status, &body)
}

fn url(port: u16, path: &str) -> String {
    format!("http://127.0.0.1:{port}{path}")
}

fn json(path: &str, status: u16, body: &str) -> Result<Value> {
    let about = || format!("{path} was answered {status}: {}", body.trim_end());
    if !(200..300).contains(&status) {
        bail!(about());
    }
    serde_json::from_str(body).with_context(about)
}

/// Percent-encodes a value for the query string of a path.
pub(crate) fn encoded(value: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn characters_that_end_a_parameter_are_encoded() {
        assert_eq!(encoded("a b&c=d/\u{e9}+~"), "a%20b%26c%3Dd%2F%C3%A9%2B~");
    }
}
