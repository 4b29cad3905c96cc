//! All references of a resource, in one pass without a tree.

use super::node::Node;
use super::path::Place;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Call `each` with every member `reference` that holds a string, its place and its byte offset. Names of members that
/// cannot be FHIR's are left out of the place, since they may be anything.
pub fn each_reference(resource: Node<'_>, place: &Place, mut each: impl FnMut(&str, Place, usize)) {
    let mut walk = Walk { root: place, node: resource, path: Vec::new(), each: &mut each };
    // The syntax was checked before; a depth that serde_json refuses ends the walk, which only looks for warnings.
    let _ = Value(&mut walk, false).deserialize(&mut serde_json::Deserializer::from_str(resource.text()));
}

enum Segment<'a> {
    Member(Cow<'a, str>),
    Item(usize),
}

struct Walk<'a, 'w> {
    root: &'w Place,
    node: Node<'a>,
    path: Vec<Segment<'a>>,
    each: &'w mut dyn FnMut(&str, Place, usize),
}

impl Walk<'_, '_> {
    fn report(&mut self, reference: &str, offset: usize) {
        let mut place = self.root.clone();
        for segment in &self.path {
            place = match segment {
                Segment::Member(name) if is_element_name(name) => place.member(name),
                Segment::Member(_) => break,
                Segment::Item(index) => place.item(*index),
            };
        }
        (self.each)(reference, place, offset);
    }
}

fn is_element_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A value; `true` if it is a member `reference`.
struct Value<'s, 'a, 'w>(&'s mut Walk<'a, 'w>, bool);

impl<'de> DeserializeSeed<'de> for Value<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        let Self(walk, is_reference) = self;
        if is_reference {
            let within = text.as_ptr() as usize - walk.node.text().as_ptr() as usize;
            // The value begins with its quote.
            walk.report(text, walk.node.span().start + within - 1);
        }
        Ok(())
    }

    /// A string with escapes was decoded elsewhere: it is placed at its resource.
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let Self(walk, is_reference) = self;
        if is_reference {
            let start = walk.node.span().start;
            walk.report(text, start);
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let walk = self.0;
        let mut index = 0;
        loop {
            walk.path.push(Segment::Item(index));
            let more = sequence.next_element_seed(Value(&mut *walk, false))?;
            walk.path.pop();
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let walk = self.0;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            let is_reference = key.0 == "reference";
            walk.path.push(Segment::Member(key.0));
            map.next_value_seed(Value(&mut *walk, is_reference))?;
            walk.path.pop();
        }
        Ok(())
    }
}

/// A string, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_with_their_place() {
        let body = br#"{"subject": {"reference": "urn:uuid:1"}, "Jane Doe": [{"reference": "a"}],
            "x": [{}, {"reference": "Patient/\u0031"}], "reference": {"reference": [{"reference": "deep"}]}}"#;
        let node = Node::parse(body).unwrap();
        let mut found = Vec::new();
        each_reference(node, &Place::resource(0), |reference, place, offset| {
            assert!(matches!(body[offset], b'"' | b'{'));
            found.push((reference.to_owned(), place.pointer));
        });
        let expected = [
            ("urn:uuid:1", "/entry/0/resource/subject/reference"),
            ("a", "/entry/0/resource"),
            ("Patient/1", "/entry/0/resource/x/1/reference"),
            ("deep", "/entry/0/resource/reference/reference/0/reference"),
        ];
        assert_eq!(found, expected.map(|(reference, pointer)| (reference.to_owned(), pointer.to_owned())));
    }

    #[test]
    fn a_hostile_depth_ends_the_walk() {
        let body = format!("{}{}", r#"{"reference": "#.repeat(100_000) + "1", "}".repeat(100_000));
        each_reference(Node::parse(body.as_bytes()).unwrap(), &Place::bundle(), |_, _, _| {});
    }
}
