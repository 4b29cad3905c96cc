//! Settings of outbound callbacks: what may be called, and how patient we are.

use super::Reader;
use ipnet::IpNet;
use std::path::PathBuf;
use std::time::Duration;

/// `callbacks.*`.
#[derive(Debug, Clone)]
pub struct CallbackConfig {
    /// `http` is accepted beside `https`.
    pub allow_http: bool,
    /// Special-purpose networks that may be called all the same.
    pub allow_private: Vec<IpNet>,
    /// Ports that may be called, as inclusive ranges.
    pub ports: Vec<(u16, u16)>,
    /// PEM file of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Failures on end for so long disable a callback.
    pub disable_after: Duration,
    /// How long messages and their deliveries are kept after their end.
    pub keep: Duration,
    /// Where others reach the API, put before the paths of links; without a slash at its end.
    pub public_url: String,
}

/// `443,1024-65535`
fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ranges: Option<Vec<(u16, u16)>> = parts
        .map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (low > 0 && low <= high).then_some((low, high))
        })
        .collect();
    ranges.filter(|ranges| !ranges.is_empty())
}

/// `10.1.0.0/16, fd00::/8`, or single addresses.
fn networks(text: &str) -> Option<Vec<IpNet>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().ok().or_else(|| part.parse().ok().map(|one: std::net::IpAddr| one.into()))).collect()
}

pub(super) fn read(reader: &mut Reader) -> CallbackConfig {
    let days = |text: &str| text.parse::<u64>().ok().filter(|days| (1..=3650).contains(days));
    CallbackConfig {
        allow_http: reader.parse("callbacks.allow_http", false, "true or false", |text| text.parse().ok()),
        allow_private: reader.parse(
            "callbacks.allow_private",
            Vec::new(),
            "networks such as 10.1.0.0/16, separated by commas",
            networks,
        ),
        ports: reader.parse(
            "callbacks.ports",
            vec![(443, 443), (1024, u16::MAX)],
            "ports or ranges such as 443,8000-8999",
            ports,
        ),
        ca_file: reader.text("callbacks.ca_file").map(PathBuf::from),
        disable_after: Duration::from_hours(
            24 * reader.parse("callbacks.disable_after_days", 5, "a number of days from 1 to 3650", days),
        ),
        keep: Duration::from_hours(
            24 * reader.parse("callbacks.keep_days", 30, "a number of days from 1 to 3650", days),
        ),
        public_url: reader.parse(
            "callbacks.public_url",
            String::new(),
            "a URL such as https://chartgate.example",
            |text| {
                let text = text.trim_end_matches('/');
                (text.is_empty() || text.starts_with("https://") || text.starts_with("http://"))
                    .then(|| text.to_owned())
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_networks_are_lists() {
        assert_eq!(ports("443, 8000-8999").unwrap(), [(443, 443), (8000, 8999)]);
        for bad in ["", "0", "9-8", "https", "443,,x", "70000"] {
            assert!(ports(bad).is_none(), "{bad}");
        }
        assert_eq!(networks("10.1.0.0/16, ::1").unwrap().len(), 2);
        assert!(networks("").unwrap().is_empty());
        assert!(networks("10.1.0.0/33").is_none() && networks("intranet").is_none());
    }
}
