//! Connections of the clients: TCP, with TLS on top where the endpoint says https.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::error_chain::error_chain;

/// TLS settings. The default trusts the system's certificate authorities and has no client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate with its chain, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, if it differs from the host of the endpoint.
    pub server_name: Option<String>,
}

/// A certificate, a key or a server name that is unusable.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file cannot be read, or is not PEM of the expected kind.
    #[error("{path} cannot be used as {what}: {cause}; it has to be a PEM file that acceptd can read")]
    File {
        /// The path of the file.
        path: String,
        /// The content that is expected in the file.
        what: &'static str,
        /// Why it is unusable.
        cause: String,
    },
    /// The system has no certificate authorities.
    #[error(
        "the system has no certificate authorities ({0}); install ca-certificates, or set export.tls.ca_file"
    )]
    NoAuthorities(String),
    /// The client certificate and its key do not belong together, or are unusable.
    #[error("the certificate {path} cannot be used with its key: {cause}")]
    Identity {
        /// The path of the certificate.
        path: String,
        /// Why it is unusable.
        cause: String,
    },
    /// The configured name is neither a host name nor an IP address.
    #[error("`{0}` is not the name of a server; set export.tls.server_name to a host name or an IP address")]
    ServerName(String),
}

/// The connector of both clients.
pub(super) type Connector = HttpsConnector<HttpConnector>;

/// The connection that [`Connector`] makes.
pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The HTTP version to negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Makes the connector for `uri`. It reads the certificates once, here, and only if `uri` is https.
pub(super) fn connector(
    uri: &http::Uri,
    tls: &Tls,
    version: Version,
    timeout: Duration,
) -> Result<Connector, TlsError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(timeout));
    tcp.set_keepalive(Some(KEEPALIVE));
    let is_secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    let config = if is_secure { client_config(tls)? } else { without_authorities()? };
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    let builder = match tls.server_name.as_deref() {
        Some(name) => {
            let bad = |_| TlsError::ServerName(name.to_owned());
            let name = ServerName::try_from(name.to_owned()).map_err(bad)?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
        None => builder,
    };
    Ok(match version {
        Version::One => builder.enable_http1().wrap_connector(tcp),
        Version::Two => builder.enable_http2().wrap_connector(tcp),
    })
}

/// Interval of TCP keepalive probes on an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::NoAuthorities(error.to_string()))
}

/// The TLS configuration for an endpoint without TLS: the connector needs one, but does not use it.
fn without_authorities() -> Result<ClientConfig, TlsError> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let builder = builder()?.with_root_certificates(authorities(tls.ca_file.as_deref())?);
    let Some((certificate, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate, "the client certificate")?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unusable(key, "the key of the client certificate", &error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| TlsError::Identity {
        path: certificate.display().to_string(),
        cause: error_chain(&error),
    })
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(file) = file {
        for certificate in certificates(file, "certificate authorities")? {
            store.add(certificate).map_err(|error| unusable(file, "certificate authorities", &error))?;
        }
        return Ok(store);
    }
    let found = rustls_native_certs::load_native_certs();
    // `add_parsable_certificates` skips certificates of the system's list that rustls cannot parse.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoAuthorities(reasons.join(", ")));
    }
    Ok(store)
}

fn certificates(file: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let open = File::open(file).map_err(|error| unusable(file, what, &error))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(open)).collect();
    let found = read.map_err(|error| unusable(file, what, &error))?;
    if found.is_empty() {
        return Err(unusable(file, what, &io::Error::other("there is no certificate in it")));
    }
    Ok(found)
}

fn unusable(file: &Path, what: &'static str, error: &dyn std::error::Error) -> TlsError {
    TlsError::File { path: file.display().to_string(), what, cause: error_chain(error) }
}
