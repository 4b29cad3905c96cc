//! Whose certificates of receivers are believed: the system's authorities, and beside them those of `callbacks.ca_file`; and
//! what was wrong with one that was not.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, RootCertStore};
use std::path::{Path, PathBuf};

/// Why callbacks cannot be sent by TLS, in one line.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of authorities.
    #[error("callbacks.ca_file: {} {fault}", path.display())]
    File {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// TLS itself.
    #[error("TLS for callbacks cannot be set up: {0}")]
    Tls(#[from] reqwest::Error),
}

/// The certificates of a PEM file, each good for an authority.
///
/// # Errors
/// [`TrustError::File`].
pub fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, TrustError> {
    let bad = |fault: String| TrustError::File { path: path.to_owned(), fault };
    let text = std::fs::read(path).map_err(|error| bad(format!("cannot be read: {}", error.kind())))?;
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(format!("is no PEM file: {error}")))?;
    if found.is_empty() {
        return Err(bad("holds no certificate in PEM form".to_owned()));
    }
    let mut store = RootCertStore::empty();
    let mut trusted = Vec::with_capacity(found.len());
    for (index, certificate) in found.into_iter().enumerate() {
        let number = index + 1;
        let unusable = |_| bad(format!("holds as number {number} what is no certificate of an authority"));
        store.add(certificate.clone()).map_err(unusable)?;
        trusted.push(reqwest::Certificate::from_der(&certificate).map_err(TrustError::Tls)?);
    }
    Ok(trusted)
}

/// Why a receiver's certificate is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// No authority that we trust stands behind it.
    Authority,
    /// It is for another host.
    Name,
    /// It has expired, or is not good yet.
    Time,
    /// Anything else: damaged, revoked, for another purpose.
    Other,
}

impl Distrust {
    /// A fixed clause for the message of the step.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "its authority is not known here",
            Self::Name => "it is for another host",
            Self::Time => "it has expired, or is not good yet",
            Self::Other => "it cannot be used for this",
        }
    }

    /// Out of one link of an error's chain of causes.
    #[must_use]
    pub fn of(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = cause;
        // An error of input and output, of which there may be several around it, does not name what it wraps among its sources.
        while let Some(inner) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            cause = inner;
        }
        let Some(rustls::Error::InvalidCertificate(reason)) = cause.downcast_ref() else { return None };
        Some(match reason {
            // One of the same name as one of ours, but not that one, makes signatures that are bad.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Authority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Time,
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_bare_and_inside_an_error_of_input_and_output() {
        let expired = || rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(Distrust::of(&expired()), Some(Distrust::Time));
        let wrapped = std::io::Error::other(expired());
        assert_eq!(Distrust::of(&wrapped), Some(Distrust::Time));
        assert_eq!(Distrust::of(&std::io::Error::other(wrapped)), Some(Distrust::Time));
        assert_eq!(Distrust::of(&std::io::Error::other("broken")), None);
        assert_eq!(Distrust::of(&rustls::Error::DecryptError), None);
    }

    #[test]
    fn what_is_wrong_with_a_file_of_authorities_is_said_in_one_line() {
        let directory = std::env::temp_dir().join(format!("chartgate-trust-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("ca.pem");
        for (text, said) in [
            (None, "cannot be read: entity not found"),
            (Some(""), "holds no certificate in PEM form"),
            (Some("-----BEGIN CERTIFICATE-----\nAAAA"), "is no PEM file"),
            (
                Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                "holds as number 1 what is no certificate",
            ),
        ] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = authorities(&path).unwrap_err().to_string();
            assert!(error.starts_with("callbacks.ca_file: ") && error.contains(said), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
