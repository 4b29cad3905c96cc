//! Web origins (RFC 6454) as browsers send them: `https://ehr.example`, `http://localhost:3000`, and those of browser
//! extensions. One canonical form, so that two of them are the same origin exactly if the texts are equal.

/// The canonical form of an origin: scheme and host in lower case, no default port. None for what is no origin of a
/// page or an extension: `*`, `null`, a path (also a bare `/`), a user, another scheme.
#[must_use]
pub fn canonical(text: &str) -> Option<String> {
    // The longest host name has 253 characters (RFC 1035, section 2.3.4).
    const LENGTH_MAX: usize = 300;
    let (scheme, rest) = text.split_once("://").filter(|_| text.len() <= LENGTH_MAX)?;
    let (scheme, rest) = (scheme.to_ascii_lowercase(), rest.to_ascii_lowercase());
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        "chrome-extension" | "moz-extension" => return is_name(&rest).then(|| format!("{scheme}://{rest}")),
        _ => return None,
    };
    // An IPv6 address stands in brackets and holds colons itself.
    let (host, port) = match rest.rfind(':').filter(|colon| !rest[*colon..].contains(']')) {
        Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        None => (rest.as_str(), None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_name),
    };
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse::<u16>().ok()?),
        Some(_) => return None,
    };
    match port.filter(|port| *port != default_port) {
        _ if !is_host => None,
        Some(port) => Some(format!("{scheme}://{host}:{port}")),
        None => Some(format!("{scheme}://{host}")),
    }
}

/// A label of a host name, or the id of an extension.
fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_compared_in_one_form() {
        for (given, form) in [
            ("https://ehr.example", "https://ehr.example"),
            ("HTTPS://EHR.Example:443", "https://ehr.example"),
            ("https://ehr.example:8443", "https://ehr.example:8443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://localhost:080", "http://localhost"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[::1]", "http://[::1]"),
            (
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            ),
            (
                "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
                "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
            ),
        ] {
            assert_eq!(canonical(given).as_deref(), Some(form));
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        let long = format!("https://{}.example", "a.".repeat(200));
        for text in [
            "",
            "*",
            "null",
            "https://",
            "https://*",
            "https://*.example",
            "ehr.example",
            "//ehr.example",
            "https://ehr.example/",
            "https://ehr.example/path",
            "https://ehr.example?x",
            "https://ehr.example#x",
            "https://user@ehr.example",
            "https://ehr.example:",
            "https://ehr.example:65536",
            "https://ehr.example:+1",
            "https://ehr..example",
            "https://ehr example",
            "https://[::1",
            "https://[x]",
            "ftp://ehr.example",
            "file://",
            "chrome-extension://",
            "chrome-extension://abc/x",
            "chrome-extension://abc:1",
            "https://épicerie.example",
            &long,
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
