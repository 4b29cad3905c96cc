//! Which correctly signed requests are let in: those whose signature covers everything that has an effect.

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

/// Refuses anonymous requests, old signatures, form posts, and headers that change what is stored but are not signed.
///
/// The last is what AWS does and s3s 0.14 does not: without it, whoever holds a presigned URL could add
/// `x-amz-meta-*` headers of their own.
#[derive(Debug)]
pub struct SignedHeadersOnly;

#[async_trait::async_trait]
impl S3Access for SignedHeadersOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let query = context.uri().query().unwrap_or_default();
        let authorization = context.headers().get("authorization").and_then(|value| value.to_str().ok());
        // Neither in signature version 2 nor in form posts, which nothing here needs.
        let Some(signed) = signed_headers(query, authorization) else {
            return Err(s3_error!(AccessDenied, "Only signature version 4, in a header or a query, is accepted"));
        };
        let unsigned = context
            .headers()
            .keys()
            .map(hyper::header::HeaderName::as_str)
            .find(|name| name.starts_with("x-amz-") && !signed.contains(name));
        match unsigned {
            Some(_) => Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed")),
            None => Ok(()),
        }
    }
}

struct SignedHeaders(Vec<String>);

impl SignedHeaders {
    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|signed| signed == name)
    }
}

/// The list that the signature itself covers (s3s has verified it): of the query if it is signed by query, as s3s
/// decides it, else of the header.
fn signed_headers(query: &str, authorization: Option<&str>) -> Option<SignedHeaders> {
    // Names are compared decoded, as s3s does: otherwise `X%2DAmz-Signature` together with a made-up header would be
    // verified by one list and judged by another.
    let parameter = |wanted: &str| {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(name, _)| decoded(name) == wanted.as_bytes()).map(|(_, value)| decoded(value))
    };
    let list = if parameter("X-Amz-Signature").is_some() {
        String::from_utf8(parameter("X-Amz-SignedHeaders")?).ok()?
    } else {
        let fields = authorization?.strip_prefix("AWS4-HMAC-SHA256")?;
        fields.split(',').find_map(|field| field.trim().strip_prefix("SignedHeaders="))?.to_owned()
    };
    Some(SignedHeaders(list.split(';').map(str::to_ascii_lowercase).collect()))
}

/// `application/x-www-form-urlencoded`, one name or value.
fn decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        rest = if escaped.is_some() { &tail[2..] } else { tail };
        match escaped {
            Some(byte) => decoded.extend(byte),
            None => decoded.push(if *first == b'+' { b' ' } else { *first }),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_headers_are_read_from_the_query_and_from_the_header() {
        let query = "X-Amz-SignedHeaders=content-length%3Bhost%3Bx-amz-meta-job&X-Amz-Signature=00";
        let signed = signed_headers(query, Some("AWS4-HMAC-SHA256 SignedHeaders=x-amz-meta-evil")).unwrap();
        assert!(
            signed.contains("x-amz-meta-job") && !signed.contains("x-amz-meta-evil") && !signed.contains("x-amz-meta")
        );
        // Signed by query, whatever way its name is written: a header has no say.
        let encoded = "X%2DAmz%2dSignedHeaders=host&X%2DAmz-Signature=00";
        let made_up = Some("AWS4-HMAC-SHA256 SignedHeaders=x-amz-meta-evil");
        assert!(!signed_headers(encoded, made_up).unwrap().contains("x-amz-meta-evil"));
        let header = "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host;x-amz-date, Signature=00";
        assert!(signed_headers("", Some(header)).unwrap().contains("x-amz-date"));
        assert!(signed_headers("", Some("AWS a:b")).is_none());
        assert!(signed_headers("Signature=00", None).is_none());
    }
}
