//! `limits.*` and `tls.*`: what one caller, and all of them together, may take of this process.

use super::Reader;
use std::path::PathBuf;
use std::time::Duration;

/// Bounds of the HTTP edge. docs/operations.md says what to set them to.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Open connections.
    pub connections: usize,
    /// Of one address (IPv6: of one /64).
    pub connections_per_address: usize,
    /// For a handshake, for a request's whole head, and between two requests.
    pub header: Duration,
    /// A body brings at least so many bytes a second in every window of [`BODY_WINDOW`].
    pub body_bytes_per_second: u64,
    /// Bytes of bodies in memory at once, received or inflated.
    pub body_bytes_total: u64,
    /// A write that makes no progress for so long ends the connection.
    pub write: Duration,
    /// `validateOnly` computations at once.
    pub validations: usize,
    /// Of one organization; 0: no limit.
    pub requests_per_second: u32,
    /// Requests of one organization at once after quiet; 0: those of one second.
    pub burst: u32,
    /// Of one address; 0: no limit.
    pub failed_authentications_per_minute: u32,
    /// Jobs of one organization in the queue; 0: no limit.
    pub queue_organization: u64,
    /// Jobs in the queue; 0: no limit.
    pub queue_total: u64,
    /// How long a process that stops still answers.
    pub drain_grace: Duration,
}

/// A body's speed is looked at over so long.
pub const BODY_WINDOW: Duration = Duration::from_secs(10);

/// Certificate and key of the listener.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// PEM, the listener's own first, then the chain.
    pub certificate: PathBuf,
    /// PEM (PKCS #8, PKCS #1 or SEC1).
    pub key: PathBuf,
}

impl LimitsConfig {
    /// `body_max`: `intake.max_body_bytes`.
    pub(super) fn read(reader: &mut Reader, body_max: usize) -> Self {
        let body_max = body_max as u64;
        // A compressed body stands in memory beside what comes out of it.
        let total_min = 2 * body_max;
        Self {
            connections: size(reader, "limits.connections", 4096, 8, 1_000_000),
            connections_per_address: size(reader, "limits.connections_per_address", 1024, 1, 1_000_000),
            header: Duration::from_secs(number(reader, "limits.header_seconds", 10, 1, 600)),
            body_bytes_per_second: number(reader, "limits.body_bytes_per_second", 32_768, 1, 1 << 30),
            body_bytes_total: number(reader, "limits.body_bytes_total", total_min.max(256 << 20), total_min, 1 << 40),
            write: Duration::from_secs(number(reader, "limits.write_seconds", 10, 1, 3600)),
            validations: size(reader, "limits.validations", 4, 1, 10_000),
            requests_per_second: count(reader, "limits.requests_per_second", 0),
            burst: count(reader, "limits.burst", 0),
            failed_authentications_per_minute: count(reader, "limits.failed_authentications_per_minute", 300),
            queue_organization: number(reader, "limits.queue_organization", 1_000_000, 0, 1 << 40),
            queue_total: number(reader, "limits.queue_total", 5_000_000, 0, 1 << 40),
            drain_grace: Duration::from_secs(number(reader, "limits.drain_grace_seconds", 0, 0, 600)),
        }
    }
}

impl TlsConfig {
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        match (reader.text("tls.certificate"), reader.text("tls.key")) {
            (Some(certificate), Some(key)) => {
                Some(Self { certificate: PathBuf::from(certificate), key: PathBuf::from(key) })
            }
            (None, None) => None,
            _ => {
                reader.faults.push("tls.certificate and tls.key: give both or neither".to_owned());
                None
            }
        }
    }
}

fn number(reader: &mut Reader, key: &str, default: u64, min: u64, max: u64) -> u64 {
    let expected = format!("a number from {min} to {max}");
    reader.parse(key, default, &expected, |text| text.parse().ok().filter(|value| (min..=max).contains(value)))
}

fn size(reader: &mut Reader, key: &str, default: u64, min: u64, max: u64) -> usize {
    usize::try_from(number(reader, key, default, min, max)).unwrap_or(usize::MAX)
}

fn count(reader: &mut Reader, key: &str, default: u64) -> u32 {
    u32::try_from(number(reader, key, default, 0, 1_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn with(pairs: &'static [(&'static str, &'static str)]) -> Result<Config, crate::config::ConfigError> {
        Config::from_sources(None, &|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_budget_for_bodies_follows_the_largest_body() {
        assert_eq!(with(&[]).unwrap().limits.body_bytes_total, 256 << 20);
        let large = with(&[("CHARTGATE_INTAKE_MAX_BODY_BYTES", "1073741824")]).unwrap();
        assert_eq!(large.limits.body_bytes_total, 2 << 30);
        let faults = with(&[("CHARTGATE_LIMITS_BODY_BYTES_TOTAL", "1000000")]).unwrap_err();
        assert!(faults.0[0].contains("a number from 33554432"), "{faults}");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let faults = with(&[("CHARTGATE_TLS_CERTIFICATE", "/a.pem")]).unwrap_err();
        assert_eq!(faults.0, ["tls.certificate and tls.key: give both or neither"]);
        let both = with(&[("CHARTGATE_TLS_CERTIFICATE", "/a.pem"), ("CHARTGATE_TLS_KEY", "/b.pem")]).unwrap();
        assert_eq!(both.tls.unwrap().key.to_str(), Some("/b.pem"));
    }

    #[test]
    fn zero_means_no_limit_only_where_that_is_said() {
        let off = with(&[("CHARTGATE_LIMITS_QUEUE_TOTAL", "0"), ("CHARTGATE_LIMITS_BURST", "0")]).unwrap();
        assert_eq!((off.limits.queue_total, off.limits.burst), (0, 0));
        assert_eq!(with(&[("CHARTGATE_LIMITS_CONNECTIONS", "0")]).unwrap_err().0.len(), 1);
    }
}
