//! Notifications of S3, `MinIO`, Ceph, `EventBridge` and SNS: which objects they name. Nothing else of them is used.
//!
//! S3's own bodies (and those of all that copy them) have keys form-encoded, `+` for a space and `%XX`; `EventBridge` has
//! them as they are.

use serde_json::Value;

/// Objects that one body can name; S3 names one, `MinIO` few.
pub const NAMED_MAX: usize = 1000;

/// What a body names.
#[cfg_attr(test, derive(Debug))]
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Notified {
    /// Bucket and full key of each object that was created, in order, each once.
    pub objects: Vec<(String, String)>,
    /// Records that say something else, or nothing that can be understood.
    pub ignored: usize,
}

/// A body that is no notification at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNotified {
    /// It cannot be parsed.
    #[error("the body is not JSON")]
    NotJson,
    /// It names more than [`NAMED_MAX`].
    #[error("the body names too many objects")]
    TooMany,
}

/// Read a body. One without records (`s3:TestEvent`) names nothing, which is no fault.
///
/// # Errors
/// [`NotNotified`].
pub fn parse(body: &[u8]) -> Result<Notified, NotNotified> {
    let value: Value = serde_json::from_slice(body).map_err(|_| NotNotified::NotJson)?;
    let mut notified = Notified::default();
    read(&value, &mut notified);
    if let Some(message) = value.get("Message").and_then(Value::as_str).filter(|_| value["Type"] == "Notification") {
        // What SNS wraps.
        match serde_json::from_str(message) {
            Ok(inner) => read(&inner, &mut notified),
            Err(_) => notified.ignored += 1,
        }
    }
    if notified.objects.len() > NAMED_MAX {
        return Err(NotNotified::TooMany);
    }
    let mut told = std::collections::HashSet::new();
    notified.objects.retain(|object| told.insert(object.clone()));
    Ok(notified)
}

fn read(value: &Value, notified: &mut Notified) {
    if let Some(records) = value.get("Records").and_then(Value::as_array) {
        for record in records {
            match created(record) {
                Some(object) => notified.objects.push(object),
                None => notified.ignored += 1,
            }
        }
    }
    if let Some(kind) = value.get("detail-type") {
        let detail = &value["detail"];
        let named = (detail["bucket"]["name"].as_str(), detail["object"]["key"].as_str());
        match named {
            (Some(bucket), Some(key)) if kind == "Object Created" => {
                notified.objects.push((bucket.to_owned(), key.to_owned()));
            }
            _ => notified.ignored += 1,
        }
    }
}

/// The object of a record that says that one was created.
fn created(record: &Value) -> Option<(String, String)> {
    let event = record.get("eventName")?.as_str()?;
    let event = event.strip_prefix("s3:").unwrap_or(event);
    if !event.starts_with("ObjectCreated:") {
        return None;
    }
    let s3 = record.get("s3")?;
    let bucket = s3.get("bucket")?.get("name")?.as_str()?;
    let key = s3.get("object")?.get("key")?.as_str()?;
    Some((bucket.to_owned(), form_decoded(key)?))
}

/// `+` and `%XX` of `application/x-www-form-urlencoded`; none if what comes out is not UTF-8 or a `%` has no two digits.
fn form_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(event: &str, bucket: &str, key: &str) -> Value {
        json!({"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3}}})
    }

    fn parsed(body: &Value) -> Notified {
        parse(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn created_objects_are_named_once_with_their_keys_decoded() {
        let body = json!({"Records": [
            record("ObjectCreated:Put", "b", "incoming%2Fa+b%2B%C3%A9.json"),
            record("s3:ObjectCreated:CompleteMultipartUpload", "b", "incoming/a%20b%2b%C3%A9.json"),
            record("ObjectCreated:Copy", "c", "x"),
            record("ObjectRemoved:Delete", "b", "x"),
            record("ObjectCreatedX", "b", "x"),
            record("ObjectCreated:Put", "b", "%zz"),
            record("ObjectCreated:Put", "b", "%f"),
            record("ObjectCreated:Put", "b", "%ff"),
            json!({"eventName": 3}), json!(null), json!({"eventName": "ObjectCreated:Put", "s3": []}),
        ]});
        let expected = vec![("b".to_owned(), "incoming/a b+é.json".to_owned()), ("c".to_owned(), "x".to_owned())];
        assert_eq!(parsed(&body), Notified { objects: expected, ignored: 8 });
    }

    #[test]
    fn eventbridge_has_keys_as_they_are_and_sns_wraps() {
        let event = json!({"source": "aws.s3", "detail-type": "Object Created",
                           "detail": {"bucket": {"name": "b"}, "object": {"key": "incoming/a+b%20c"}}});
        assert_eq!(parsed(&event).objects, [("b".to_owned(), "incoming/a+b%20c".to_owned())]);
        assert_eq!(parsed(&json!({"detail-type": "Object Deleted", "detail": event["detail"]})).ignored, 1);
        let inner = json!({"Records": [record("ObjectCreated:Put", "b", "k")]}).to_string();
        assert_eq!(parsed(&json!({"Type": "Notification", "Message": inner})).objects.len(), 1);
        assert_eq!(parsed(&json!({"Type": "Notification", "Message": "hello"})).ignored, 1);
        assert_eq!(parsed(&json!({"Type": "Other", "Message": inner})), Notified::default());
    }

    #[test]
    fn a_body_without_records_names_nothing() {
        for body in [
            json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}),
            json!({}),
            json!([]),
            json!(null),
            json!("x"),
            json!({"Records": "x"}),
        ] {
            assert_eq!(parsed(&body), Notified::default(), "{body}");
        }
        for body in ["", "{", "\u{0}", "<xml/>"] {
            assert_eq!(parse(body.as_bytes()), Err(NotNotified::NotJson), "{body:?}");
        }
        assert_eq!(parse(&"[".repeat(100_000).into_bytes()), Err(NotNotified::NotJson));
        let many: Vec<_> = (0..=NAMED_MAX).map(|n| record("ObjectCreated:Put", "b", &n.to_string())).collect();
        assert_eq!(parse(json!({"Records": many}).to_string().as_bytes()), Err(NotNotified::TooMany));
    }
}
