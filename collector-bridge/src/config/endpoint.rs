//! The endpoint of an OTLP server: how it is read, checked, shown and redacted.

use std::{fmt, net::Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::uri::Authority;

use super::{
    kind::ValueKind,
    pairs::{REDACTED, percent_decode},
    raw::Raw,
};

/// The value that unsets the endpoint of a lower layer.
pub(super) const NO_ENDPOINT: &str = "none";

/// The address of an OTLP server.
///
/// `Display` is the URL for messages, with `***` for credentials. `Debug` is the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    is_secure: bool,
    /// A name or an address; IPv6 addresses are in brackets.
    host: String,
    port: u16,
    /// Empty, or a path with a leading slash and without a trailing one.
    path: String,
    /// `user:password` as it was written, percent-encoded.
    credentials: Option<String>,
}

impl Endpoint {
    /// `http(s)://host:port/path`, for the connection. It has no credentials; these are in the headers.
    pub(crate) fn uri(&self) -> String {
        format!("{}://{}:{}{}", self.scheme(), self.host, self.port, self.path)
    }

    /// `host:port`
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The port; never 0.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Whether it has a path, which is an error with OTLP/gRPC.
    pub(super) fn has_path(&self) -> bool {
        !self.path.is_empty()
    }

    fn scheme(&self) -> &'static str {
        if self.is_secure { "https" } else { "http" }
    }

    /// The credentials of the URL as the value of an `authorization` header.
    pub(super) fn authorization(&self) -> Option<String> {
        let decoded = percent_decode(self.credentials.as_deref()?)?;
        Some(format!("Basic {}", BASE64.encode(decoded)))
    }

    /// Reads `host:port` or `http[s]://[user:password@]host[:port][/path]`.
    fn parse(text: &str) -> Result<Self, String> {
        let (is_secure, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err("the scheme is unknown; use http://, https:// or host:port".to_owned()),
        };
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "the path contains characters that a path cannot have; write %3F for ? and %23 for #"
                    .to_owned(),
            );
        }
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials.to_owned()), address),
            None => (None, authority),
        };
        if credentials.as_deref().is_some_and(|text| percent_decode(text).is_none()) {
            return Err("the credentials before '@' are not percent-encoded (write %25 for a %)".to_owned());
        }
        let (host, port) = parse_address(address, is_secure)?;
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { is_secure, host, port, path, credentials })
    }
}

/// The port of an https URL without a port.
const HTTPS_PORT: u16 = 443;

/// Reads `host[:port]`, without credentials: [`Authority`] finds the host and the port.
fn parse_address(address: &str, is_secure: bool) -> Result<(String, u16), String> {
    let authority: Authority = address.parse().map_err(|_| invalid_address(address))?;
    let after_host = &address[authority.host().len()..];
    let port = match (after_host.strip_prefix(':'), authority.port_u16()) {
        (Some(_), Some(0)) => {
            return Err(
                "port 0 cannot be connected to; use the port the Collector listens on (4317 for gRPC)"
                    .to_owned(),
            );
        }
        (Some(_), Some(port)) => port,
        (Some(text), None) => return Err(invalid_port(text)),
        // `Authority` accepts any text after an IPv6 address in brackets.
        (None, _) if !after_host.is_empty() => return Err(INVALID_HOST.to_owned()),
        // Vendors document their https endpoints without a port.
        (None, _) if is_secure => HTTPS_PORT,
        (None, _) => {
            return Err(
                "the port is missing; receivers listen on 4317 for gRPC, so write host:4317".to_owned()
            );
        }
    };
    Ok((check_host(authority.host())?, port))
}

const INVALID_HOST: &str = "the host is neither a name nor an address";

/// The cause for an address that is not an [`Authority`], whose error does not say which part is wrong.
fn invalid_address(address: &str) -> String {
    match address.split_once(':') {
        Some((_, rest)) if rest.contains(':') && !address.starts_with('[') => {
            "an IPv6 address must be in brackets: [::1]:4317".to_owned()
        }
        Some((host, port)) if check_host(host).is_ok() => invalid_port(port),
        _ => INVALID_HOST.to_owned(),
    }
}

fn invalid_port(text: &str) -> String {
    if text.is_empty() {
        return "the port is missing; gRPC receivers listen on 4317".to_owned();
    }
    format!("port {} is not a number from 1 to 65535", text.escape_debug())
}

/// Checks the host of an [`Authority`], and writes an IPv6 address in its short form. `Authority` accepts any
/// text in brackets, and characters that no host name contains.
fn check_host(text: &str) -> Result<String, String> {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| "the text in [ ] is not an IPv6 address")?;
        return Ok(format!("[{address}]"));
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_name_byte) {
        return Err(INVALID_HOST.to_owned());
    }
    Ok(text.to_owned())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.credentials.is_some() { "***@" } else { "" };
        write!(f, "{}://{mark}{}:{}{}", self.scheme(), self.host, self.port, self.path)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An [`Endpoint`], or [`NO_ENDPOINT`].
pub(super) struct OptionalEndpoint;

impl ValueKind<Option<Endpoint>> for OptionalEndpoint {
    fn expects(&self) -> String {
        format!("host:port, http://host:port, https://host:port, or {NO_ENDPOINT}")
    }

    fn read(&self, raw: &Raw) -> Result<Option<Endpoint>, String> {
        match raw.text().ok_or_else(|| self.mismatch(raw))? {
            NO_ENDPOINT => Ok(None),
            text => Endpoint::parse(text).map(Some).map_err(|cause| format!("{:?}: {cause}", redact(text))),
        }
    }

    fn write(&self, value: &Option<Endpoint>) -> toml::Value {
        value.as_ref().map_or_else(|| NO_ENDPOINT.to_owned(), Endpoint::to_string).into()
    }
}

/// A mistyped endpoint for a message: text between the scheme and the last `@` could be a password, and is
/// replaced.
fn redact(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    format!("{scheme}{REDACTED}@{after}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_that_are_accepted() {
        for (text, uri) in [
            ("collector:4317", "http://collector:4317"),
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("http://collector:4317/", "http://collector:4317"),
            ("[::1]:4317", "http://[::1]:4317"),
            ("[0:0::2:3:4]:1", "http://[::2:3:4]:1"),
            ("[1:2:3:4:5:6:7::]:1", "http://[1:2:3:4:5:6:7:0]:1"),
            ("https://[::1]", "https://[::1]:443"),
            ("http://_a-b.c:1", "http://_a-b.c:1"),
            ("http://user:pa%40ss@h:1", "http://h:1"),
            // Passwords that `http::Uri` refuses.
            ("http://user:[{^}]\"<@h:1", "http://h:1"),
            ("https://h:4317", "https://h:4317"),
            ("https://otlp.vendor.example/otlp/", "https://otlp.vendor.example:443/otlp"),
            ("http://h:4318/v1/logs", "http://h:4318/v1/logs"),
        ] {
            assert_eq!(Endpoint::parse(text).map(|endpoint| endpoint.uri()), Ok(uri.to_owned()), "{text}");
        }
    }

    #[test]
    fn forms_that_are_refused_say_what_to_write() {
        for (text, cause) in [
            ("h:0", "port 0 cannot be connected to"),
            ("h:70000", "port 70000 is not a number from 1 to 65535"),
            ("h:grpc", "port grpc is not a number from 1 to 65535"),
            ("h", "write host:4317"),
            ("h:", "the port is missing"),
            ("[::1]", "write host:4317"),
            ("unix:///run/otel.sock", "the scheme is unknown"),
            ("http://h:4317/a?b", "a path cannot have"),
            ("::1:4317", "in brackets"),
            ("[x]:4317", "not an IPv6 address"),
            ("[::1%eth0]:4317", "not an IPv6 address"),
            ("[::1]80:443", "neither a name nor an address"),
            ("https://[::1]443", "neither a name nor an address"),
            ("[::1:4317", "neither a name nor an address"),
            ("a:b:4317", "in brackets"),
            ("http://:pass@:1", "neither a name nor an address"),
            ("https://", "neither a name nor an address"),
            ("h,i:4317", "neither a name nor an address"),
            ("h%20:4317", "neither a name nor an address"),
            ("h:43 17", "port 43 17 is not a number"),
            ("h:4317 ", "port 4317  is not a number"),
            (":4317", "neither a name nor an address"),
            ("a b:4317", "neither a name nor an address"),
            ("a%zz@h:4317", "not percent-encoded"),
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    #[test]
    fn credentials_become_a_header_and_are_never_shown() {
        let endpoint = Endpoint::parse("http://Aladdin:open%20sesame@h:1").unwrap();
        // The example of RFC 7617.
        assert_eq!(endpoint.authorization().as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(endpoint.to_string(), "http://***@h:1");
        assert_eq!(format!("{endpoint:?}"), "http://***@h:1");
        let bad = OptionalEndpoint.read(&Raw::Word("http://u:hunter2@h".to_owned())).unwrap_err();
        assert!(bad.starts_with("\"http://***@h\": the port"), "{bad}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = Endpoint::parse(&text);
        }

        #[test]
        fn a_printed_endpoint_reads_back(host in "[a-z][a-z0-9.-]{0,20}", port in 1_u16..) {
            let endpoint = Endpoint::parse(&format!("{host}:{port}")).unwrap();
            prop_assert_eq!(Endpoint::parse(&endpoint.to_string()).unwrap(), endpoint);
        }
    }
}
