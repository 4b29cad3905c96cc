//! TLS of the listener: certificate and key from PEM files, read again when they change or at SIGHUP, without a restart.
//! TLS 1.2 and 1.3 with rustls' own choice of ciphers.

use crate::config::TlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The files are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A pair that cannot be used, in one line.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's file.
    #[error("tls.certificate: {} {fault}", path.display())]
    Certificate {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The key's file.
    #[error("tls.key: {} {fault}", path.display())]
    Key {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// Both together.
    #[error("tls.certificate and tls.key do not belong together: {0}")]
    Pair(#[source] rustls::Error),
}

/// What tells whether a file is another one: of each file its device, inode, size and time of change.
type Version = [Option<(u64, u64, u64, i64, i64)>; 2];

/// The pair in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsConfig,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Read the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let config = RwLock::new(Arc::new(read(files)?));
        Ok(Arc::new(Self { files: files.clone(), config }))
    }

    /// For the next handshake.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Read the files again; connections that are open keep what they have.
    ///
    /// # Errors
    /// [`TlsError`]; the old pair stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn version(&self) -> Version {
        [&self.files.certificate, &self.files.key].map(|path| {
            let facts = std::fs::metadata(path).ok()?;
            Some((facts.dev(), facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec()))
        })
    }

    /// Read again at SIGHUP and when the files change, until cancelled.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut hang_up = signal(SignalKind::hangup()).ok();
        let mut known = self.version();
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = async { match hang_up.as_mut() {
                    Some(hang_up) => { hang_up.recv().await; }
                    None => std::future::pending().await,
                } } => true,
            };
            let now = self.version();
            if !asked && now == known {
                continue;
            }
            match self.reload() {
                Ok(()) => {
                    known = now;
                    tracing::info!("the listener's certificate and key were read again");
                }
                // While the two files are replaced one after the other, they do not fit: look again.
                Err(error) => {
                    tracing::warn!(%error, "the listener's certificate and key cannot be read again; the old ones stay");
                    known = now;
                }
            }
        }
    }
}

fn read(files: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let bad_certificate = |fault: String| TlsError::Certificate { path: files.certificate.clone(), fault };
    let bad_key = |fault: String| TlsError::Key { path: files.key.clone(), fault };
    let pem = bytes_of(&files.certificate).map_err(bad_certificate)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_certificate(format!("is no PEM file: {error}")))?;
    if chain.is_empty() {
        return Err(bad_certificate("holds no certificate in PEM form".to_owned()));
    }
    let pem = bytes_of(&files.key).map_err(bad_key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        bad_key("holds no private key in PEM form (PKCS #8, PKCS #1 or SEC1, not encrypted)".to_owned())
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))
}
