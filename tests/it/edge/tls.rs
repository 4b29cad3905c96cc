//! HTTPS: real certificates, made here; the pair is replaced while the listener runs.

use super::{PATIENCE, address, exchange, until_closed};
use crate::support::app::{Setup, TestApp};
use crate::support::directory::TestDirectory;
use chartgate::config::TlsConfig;
use chartgate::http::server::tls::Tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A fresh self-signed certificate (PEM) and its key (PEM).
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn write(directory: &Path, (certificate, key): &(String, String)) -> TlsConfig {
    let files = TlsConfig { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") };
    // As tools do it: the new file takes the old one's place at once.
    for (path, text) in [(&files.certificate, certificate), (&files.key, key)] {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }
    files
}

fn client(certificate: &str) -> reqwest::Client {
    let trusted = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    // Each request its own handshake.
    let client = reqwest::Client::builder().no_proxy().add_root_certificate(trusted).pool_max_idle_per_host(0);
    client.build().unwrap()
}

async fn served(pair: &(String, String)) -> (TestApp, TestDirectory) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = TestDirectory::new();
    let tls = Tls::load(&write(directory.path(), pair)).unwrap();
    let limits = Box::new(|limits: &mut chartgate::config::LimitsConfig| limits.header = Duration::from_secs(2));
    // As `serve` would be told; the files themselves were read above.
    let configure = |config: &mut chartgate::config::Config| {
        config.tls = Some(TlsConfig { certificate: "certificate.pem".into(), key: "key.pem".into() });
    };
    let setup = Setup { configure, tls: Some(tls), limits, ..Setup::default() };
    (TestApp::with(setup).await, directory)
}

#[tokio::test]
async fn the_listener_speaks_tls_1_2_and_1_3_and_nothing_in_the_clear() {
    let pair = pair();
    let (app, _directory) = served(&pair).await;
    let ready = client(&pair.0).get(format!("{}/health/ready", app.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    assert_eq!(ready.headers()["strict-transport-security"], "max-age=31536000");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pair.0.as_bytes()).unwrap()).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = rustls::ClientConfig::builder_with_protocol_versions(&[version]);
        let mut config = config.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(address(&app)).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let connection = stream.get_ref().1;
        assert_eq!(connection.protocol_version(), Some(version.version));
        assert_eq!(connection.alpn_protocol(), Some(b"http/1.1".as_slice()));
    }
    let (answer, _) = exchange(address(&app), b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.contains("HTTP/"), "{answer}");
    // TLS 1.1, as an old client begins: a fatal alert (21), nothing else.
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    let (answer, _) = exchange(address(&app), &hello).await;
    assert!(answer.is_empty() || answer.as_bytes()[0] == 21, "{answer:?}");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_off() {
    let (app, _directory) = served(&pair()).await;
    let mut silent = TcpStream::connect(address(&app)).await.unwrap();
    let (answer, time) = until_closed(&mut silent).await.expect("it is cut off");
    assert!(answer.is_empty() && time < Duration::from_secs(10), "{time:?}");
}

#[tokio::test]
async fn a_new_certificate_is_in_force_without_a_restart_and_a_bad_one_is_not() {
    let (old, new) = (pair(), pair());
    let (app, directory) = served(&old).await;
    let url = format!("{}/health/live", app.url);
    assert_eq!(client(&old.0).get(&url).send().await.unwrap().status(), 200);
    // The new certificate with the old key, as in the moment between two writes: the old pair stays.
    write(directory.path(), &(new.0.clone(), old.1.clone()));
    assert_eq!(client(&old.0).get(&url).send().await.unwrap().status(), 200);
    write(directory.path(), &new);
    let started = Instant::now();
    while client(&new.0).get(&url).send().await.is_err() {
        assert!(started.elapsed() < PATIENCE, "the new certificate is not in force");
    }
    assert!(client(&old.0).get(&url).send().await.is_err());
}

#[test]
fn what_is_wrong_with_the_files_is_said_in_one_line() {
    let directory = TestDirectory::new();
    let (good, other) = (pair(), pair());
    let nothing = String::new();
    for (certificate, key, said) in [
        (&nothing, &good.1, "tls.certificate: "),
        (&good.1, &good.1, "holds no certificate in PEM form"),
        (&good.0, &nothing, "tls.key: "),
        (&good.0, &good.0, "holds no private key in PEM form"),
        (&good.0, &other.1, "do not belong together"),
    ] {
        let error = Tls::load(&write(directory.path(), &(certificate.clone(), key.clone()))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said) && text.lines().count() == 1, "{text}");
    }
    let absent = TlsConfig { certificate: directory.path().join("absent.pem"), key: directory.path().join("key.pem") };
    let text = Tls::load(&absent).unwrap_err().to_string();
    assert!(text.contains("absent.pem cannot be read: "), "{text}");
}
