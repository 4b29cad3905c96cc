//! Settings of traces: where spans go, and how many.

use super::Reader;
use secrecy::SecretString;

/// `telemetry.otlp_…`, `telemetry.service_name` and `telemetry.sample_ratio`.
#[derive(Debug, Clone)]
pub struct TracesConfig {
    /// With the path.
    pub endpoint: String,
    /// Sent with each request; their values are secrets.
    pub headers: Vec<(String, SecretString)>,
    /// `service.name`.
    pub service_name: String,
    /// From 0 to 1.
    pub sample_ratio: f64,
}

/// The path that OTLP over HTTP gives traces (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

impl TracesConfig {
    /// Faults are told also when no endpoint is set.
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        let endpoint =
            reader.parse("telemetry.otlp_endpoint", String::new(), "a URL such as http://127.0.0.1:4318", endpoint);
        let headers =
            reader.parse("telemetry.otlp_headers", Vec::new(), "name=value pairs, separated by commas", headers);
        let sample_ratio = reader.parse("telemetry.sample_ratio", 1.0, "a number from 0 to 1", |text| {
            text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
        });
        let service_name = reader.text("telemetry.service_name").unwrap_or_else(|| "chartgate".to_owned());
        (!endpoint.is_empty()).then_some(Self { endpoint, headers, service_name, sample_ratio })
    }
}

/// The collector's address, or that of its traces; empty: none.
fn endpoint(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(String::new());
    }
    let url = url::Url::parse(text).ok()?;
    let is_plain = ["http", "https"].contains(&url.scheme()) && url.query().is_none() && url.fragment().is_none();
    if !is_plain || !url.has_host() {
        return None;
    }
    let base = text.trim_end_matches('/');
    Some(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

/// `name=value,name=value`, values percent-encoded (W3C Baggage without properties, as OpenTelemetry asks).
fn headers(text: &str) -> Option<Vec<(String, SecretString)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = name.trim();
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let value = decoded(value.trim())?;
            (!name.is_empty() && name.bytes().all(is_token) && value.bytes().all(|byte| (32..127).contains(&byte)))
                .then(|| (name.to_lowercase(), SecretString::from(value)))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let (pair, after) = after.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn the_path_of_traces_is_put_behind_the_address_of_the_collector() {
        for (given, taken) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/base/", "https://otel.example/base/v1/traces"),
            ("https://otel.example/v1/traces", "https://otel.example/v1/traces"),
        ] {
            assert_eq!(endpoint(given).unwrap(), taken);
        }
        for bad in ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", "http://x/?key=1", "nonsense"] {
            assert!(endpoint(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn headers_are_pairs_whose_values_do_not_print() {
        let taken = headers("Authorization=Bearer%20abc, x-tenant = 7").unwrap();
        let pairs: Vec<_> = taken.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(pairs, [("authorization", "Bearer abc"), ("x-tenant", "7")]);
        assert!(!format!("{taken:?}").contains("abc"));
        for bad in ["authorization", "=x", "a b=x", "a=%zz", "a=%0a", "a=%2"] {
            assert!(headers(bad).is_none(), "{bad}");
        }
    }
}
