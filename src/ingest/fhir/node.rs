//! JSON by slices: a value that knows which bytes of the payload it is.
//!
//! A [`Node`] is a borrowed piece of the body with its byte offset; opening an object or an array yields nodes of its
//! members. All syntax is `serde_json`'s ([`RawValue`]); nothing is copied, numbers keep their text, and only what a
//! caller opens is read. Opening never recurses, so a hostile depth cannot exhaust the stack.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// A byte-order mark. One is tolerated in front of a body; offsets count it.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The JSON type of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true` or `false`
    Boolean,
    /// `null`
    Null,
}

impl Kind {
    /// The word for messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Null => "null",
        }
    }
}

/// A JSON value within a body. `Debug` shows where it is, not what it says.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    text: &'a str,
    start: usize,
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:?} {:?})", self.kind(), self.span())
    }
}

/// The body is not one JSON value in UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one JSON value in UTF-8")]
pub struct NotJson;

impl<'a> Node<'a> {
    /// The one value of a body. The whole body is checked for JSON syntax.
    ///
    /// # Errors
    /// [`NotJson`].
    pub fn parse(body: &'a [u8]) -> Result<Self, NotJson> {
        let text = std::str::from_utf8(body).map_err(|_| NotJson)?;
        let mark = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let raw: &RawValue = serde_json::from_str(&text[mark..]).map_err(|_| NotJson)?;
        Ok(Self { text: raw.get(), start: offset_within(text, raw.get()) })
    }

    /// The value that is known to stand at that place of a body.
    #[must_use]
    pub fn within(body: &'a str, span: Range<usize>) -> Self {
        Self { text: body.get(span.clone()).unwrap_or("null"), start: span.start }
    }

    /// Where the value stands in the body.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    /// The value's exact text.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The JSON type, by the first byte.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.text.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// The members, if this is an object. With a duplicate key the first one counts.
    #[must_use]
    pub fn object(&self) -> Option<Object<'a>> {
        if self.kind() != Kind::Object {
            return None;
        }
        let Members(members) = serde_json::from_str(self.text).ok()?;
        let members = members.into_iter().map(|(key, raw)| (key, self.child(raw))).collect();
        Some(Object { node: *self, members })
    }

    /// The items, if this is an array; nothing otherwise.
    #[must_use]
    pub fn items(&self) -> Vec<Node<'a>> {
        if self.kind() != Kind::Array {
            return Vec::new();
        }
        let Ok(Items(items)) = serde_json::from_str(self.text) else { return Vec::new() };
        items.into_iter().map(|raw| self.child(raw)).collect()
    }

    /// The decoded string, if this is one.
    #[must_use]
    pub fn string(&self) -> Option<Cow<'a, str>> {
        if self.kind() != Kind::String {
            return None;
        }
        let inner = &self.text[1..self.text.len() - 1];
        if inner.contains('\\') {
            serde_json::from_str(self.text).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(inner))
        }
    }

    /// The number as written, if this is one.
    #[must_use]
    pub fn number(&self) -> Option<&'a str> {
        (self.kind() == Kind::Number).then_some(self.text)
    }

    /// The truth value, if this is one.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    fn child(&self, raw: &'a RawValue) -> Self {
        Self { text: raw.get(), start: self.start + offset_within(self.text, raw.get()) }
    }
}

/// An opened object: its members in order of appearance.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone)]
pub struct Object<'a> {
    node: Node<'a>,
    members: Vec<(Cow<'a, str>, Node<'a>)>,
}

impl<'a> Object<'a> {
    /// The object as a value.
    #[must_use]
    pub fn node(&self) -> Node<'a> {
        self.node
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = (&str, Node<'a>)> {
        self.members.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    /// The member of that name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Node<'a>> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The opened object of that name.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Object<'a>> {
        self.get(key)?.object()
    }

    /// The items of the array of that name.
    #[must_use]
    pub fn items(&self, key: &str) -> Vec<Node<'a>> {
        self.get(key).map(|node| node.items()).unwrap_or_default()
    }

    /// The opened objects of the array of that name; items of another type are passed over.
    #[must_use]
    pub fn objects(&self, key: &str) -> Vec<Object<'a>> {
        self.items(key).iter().filter_map(Node::object).collect()
    }

    /// The string of that name.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key)?.string()
    }

    /// The string of that name, owned.
    #[must_use]
    pub fn owned(&self, key: &str) -> Option<String> {
        self.string(key).map(Cow::into_owned)
    }
}

/// Offset of a slice within the text that it was taken from.
fn offset_within(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// A key that borrows from the body unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Every node, opened to the bottom, has the slice that it claims and the value that `serde_json` reads there.
    fn check(body: &[u8], node: Node<'_>, expected: &Value) {
        assert_eq!(&body[node.span()], node.text().as_bytes());
        assert_eq!(&serde_json::from_slice::<Value>(&body[node.span()]).unwrap(), expected);
        match expected {
            Value::Object(map) => {
                let object = node.object().unwrap();
                assert_eq!(object.members().count(), map.len());
                for (key, value) in map {
                    check(body, object.get(key).unwrap(), value);
                }
            }
            Value::Array(values) => {
                let items = node.items();
                assert_eq!(items.len(), values.len());
                items.iter().zip(values).for_each(|(item, value)| check(body, *item, value));
            }
            Value::String(text) => assert_eq!(node.string().unwrap(), text.as_str()),
            Value::Bool(truth) => assert_eq!(node.boolean(), Some(*truth)),
            Value::Number(_) => assert!(node.number().is_some()),
            Value::Null => assert_eq!(node.kind(), Kind::Null),
        }
    }

    proptest! {
        #[test]
        fn nodes_are_the_slices_that_serde_json_reads(value in json(), pretty: bool, mark: bool) {
            let mut body = if mark { BYTE_ORDER_MARK.to_vec() } else { Vec::new() };
            body.extend(if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap());
            // Floats may lose their last digit on the way through text: compare with what serde_json reads back.
            let start = if mark { BYTE_ORDER_MARK.len() } else { 0 };
            let reread: Value = serde_json::from_slice(&body[start..]).unwrap();
            check(&body, Node::parse(&body).unwrap(), &reread);
        }
    }

    #[test]
    fn numbers_keep_their_text() {
        let body = br#" {"value": 1.2E+2, "other": 0.10} "#;
        let object = Node::parse(body).unwrap().object().unwrap();
        assert_eq!(object.get("value").unwrap().number(), Some("1.2E+2"));
        assert_eq!(object.get("other").unwrap().number(), Some("0.10"));
    }

    #[test]
    fn escaped_keys_and_strings_are_decoded() {
        let body = br#"{"res\u006furce": "a\nb"}"#;
        let object = Node::parse(body).unwrap().object().unwrap();
        assert_eq!(object.string("resource").unwrap(), "a\nb");
    }

    #[test]
    fn a_hostile_depth_does_not_exhaust_the_stack() {
        let body = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let mut node = Node::parse(body.as_bytes()).unwrap();
        for _ in 0..10 {
            node = node.items()[0];
        }
        assert_eq!(node.kind(), Kind::Array);
    }

    #[test]
    fn trailing_bytes_and_bad_utf8_are_not_json() {
        assert_eq!(Node::parse(b"{} {}").unwrap_err(), NotJson);
        assert_eq!(Node::parse(b"\"\xff\"").unwrap_err(), NotJson);
        assert_eq!(Node::parse(b"").unwrap_err(), NotJson);
    }
}
