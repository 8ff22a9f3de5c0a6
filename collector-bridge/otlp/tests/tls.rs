//! TLS over both transports: which servers the exporter trusts, and its client certificate.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

mod shared;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use acceptd_otlp::{
    Compression, Exporter, ExporterConfig, Signal, Target, Tls, TransportSettings, check_target,
};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use shared::{batch, finish};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A certificate authority, and a folder for the certificates that it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Self { issuer, folder }
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for `name`, and returns the files of the certificate and of its key.
    fn sign(&self, name: &str, is_expired: bool) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        if is_expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let [certificate_file, key_file] =
            ["cert", "key"].map(|kind| self.folder.path().join(format!("{name}-{is_expired}.{kind}.pem")));
        std::fs::write(&certificate_file, certificate.pem()).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        (certificate_file, key_file)
    }

    /// Starts a TLS server with a certificate for `name`. It forwards to the OTLP/gRPC server `grpc`, or is
    /// an OTLP/HTTP server that accepts everything. With `requires_client_certificate` it refuses clients
    /// without one.
    async fn server(
        &self,
        name: &str,
        is_expired: bool,
        requires_client_certificate: bool,
        grpc: Option<SocketAddr>,
    ) -> SocketAddr {
        let (certificate, key) = self.sign(name, is_expired);
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if requires_client_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.expect("a connection");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(connection).await else { return };
                    if let Some(grpc) = grpc {
                        let mut server = TcpStream::connect(grpc).await.expect("a server");
                        _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                    } else {
                        let service = service_fn(accept_all);
                        let builder = http1::Builder::new();
                        _ = builder.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        address
    }
}

/// Accepts every request.
async fn accept_all(_: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, std::convert::Infallible> {
    let answer = Response::builder().header("content-type", "application/x-protobuf").body(Full::default());
    Ok(answer.expect("an answer"))
}

fn settings(tls: Tls) -> TransportSettings {
    TransportSettings { tls, timeout: Duration::from_secs(5), ..TransportSettings::default() }
}

async fn check(address: SocketAddr, tls: Tls) -> Result<(), String> {
    let target = Target::Http(format!("https://localhost:{}/v1/logs", address.port()));
    check_target(&target, &settings(tls), Signal::Logs, Duration::from_secs(5)).await
}

#[tokio::test]
async fn a_server_with_the_right_name_is_trusted_over_http() {
    let authority = Authority::new();
    let address = authority.server("localhost", false, false, None).await;
    let tls = Tls { ca_file: Some(authority.ca_file()), ..Tls::default() };
    let target = Target::Http(format!("https://localhost:{}/v1/logs", address.port()));
    let config = ExporterConfig { settings: settings(tls), ..shared::config(target) };
    let exporter = Exporter::spawn(config).expect("certificates");
    exporter.push(batch(1..=3, 10));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.retries), (3, 0), "{ledger:?}");
}

#[tokio::test]
async fn a_server_with_the_right_name_is_trusted_over_grpc() {
    let collector = shared::Collector::default();
    let authority = Authority::new();
    let address = authority.server("localhost", false, true, Some(collector.start())).await;
    let tls = Tls {
        ca_file: Some(authority.ca_file()),
        identity: Some(authority.sign("agent", false)),
        server_name: None,
    };
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let target = Target::Grpc(format!("https://localhost:{}", address.port()));
        let settings = TransportSettings { compression, ..settings(tls.clone()) };
        let exporter = Exporter::spawn(ExporterConfig { settings, ..shared::config(target) });
        let exporter = exporter.expect("certificates");
        exporter.push(batch(1..=3, 1000));
        let ledger = finish(exporter).await;
        assert_eq!((ledger.acknowledged, ledger.retries), (3, 0), "{compression:?}: {ledger:?}");
    }
    assert_eq!(collector.accepted(), [1, 1, 1, 2, 2, 2, 3, 3, 3]);
}

#[tokio::test]
async fn other_servers_are_not_trusted_and_the_message_has_the_reason() {
    let authority = Authority::new();
    let ours = || Tls { ca_file: Some(authority.ca_file()), ..Tls::default() };
    let wrong_name = authority.server("elsewhere.example", false, false, None).await;
    let expired = authority.server("localhost", true, false, None).await;
    let good = authority.server("localhost", false, false, None).await;
    let stranger = Authority::new();
    for (address, tls, words) in [
        (wrong_name, ours(), "not valid for name"),
        (expired, ours(), "expired"),
        (good, Tls { ca_file: Some(stranger.ca_file()), ..Tls::default() }, "invalid peer certificate"),
    ] {
        let error = check(address, tls).await.expect_err(words);
        assert!(error.contains(words), "{words}: {error}");
    }
    // `server_name` sets the name that the certificate must have.
    let tls = Tls { server_name: Some("elsewhere.example".to_owned()), ..ours() };
    assert_eq!(check(wrong_name, tls).await, Ok(()));
}

/// An expired certificate may be renewed: the records wait.
#[tokio::test]
async fn a_server_that_is_not_trusted_is_retried() {
    let authority = Authority::new();
    let address = authority.server("localhost", true, false, None).await;
    for target in [
        Target::Http(format!("https://localhost:{}/v1/logs", address.port())),
        Target::Grpc(format!("https://localhost:{}", address.port())),
    ] {
        let tls = Tls { ca_file: Some(authority.ca_file()), ..Tls::default() };
        let config = ExporterConfig { settings: settings(tls), ..shared::config(target) };
        let exporter = Exporter::spawn(config).expect("certificates");
        exporter.push(batch([1], 0));
        let ledger = shared::until(&exporter, "retried", |ledger| ledger.retries >= 2).await;
        assert_eq!(ledger.dropped_total(), 0, "{ledger:?}");
    }
}

#[tokio::test]
async fn a_server_that_requires_a_client_certificate_gets_it() {
    let authority = Authority::new();
    let address = authority.server("localhost", false, true, None).await;
    let ours = Tls { ca_file: Some(authority.ca_file()), ..Tls::default() };
    let error = check(address, ours.clone()).await.expect_err("no client certificate");
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let identity = Some(authority.sign("agent", false));
    assert_eq!(check(address, Tls { identity, ..ours }).await, Ok(()));
}

#[tokio::test]
async fn unusable_files_are_named() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("agent", false);
    let (other, _) = authority.sign("other", false);
    let missing = PathBuf::from("/nonexistent/ca.pem");
    for (tls, words) in [
        (Tls { ca_file: Some(missing.clone()), ..Tls::default() }, "/nonexistent/ca.pem"),
        (Tls { ca_file: Some(key.clone()), ..Tls::default() }, "no certificate in it"),
        (
            Tls { identity: Some((certificate.clone(), certificate)), ..Tls::default() },
            "the key of the client certificate",
        ),
        (Tls { identity: Some((other, key)), ..Tls::default() }, "cannot be used with its key"),
        (Tls { server_name: Some("a b".to_owned()), ..Tls::default() }, "not the name of a server"),
    ] {
        let target = Target::Http("https://localhost:1/v1/logs".to_owned());
        let config = ExporterConfig { settings: settings(tls), ..shared::config(target) };
        let error = Exporter::spawn(config).expect_err(words).to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}
