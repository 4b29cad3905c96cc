//! Where the parts of a payload stand: in athenahealth's lists, in lists of lists, or in the simpler shapes.

use super::fields::{Field, Fields, fold};
use super::reader::{PARTS_MAX, Reader};
use crate::ingest::fhir::node::{Kind, Node};
use crate::ingest::fhir::path::Place;

/// Objects that hold nothing but another one are opened so often.
const WRAPPERS_MAX: usize = 3;

/// What the parts of a kind look like.
pub struct Spec {
    /// The list that holds them.
    pub list: &'static Field,
    /// A member that only such a part has.
    pub marks: &'static [&'static Field],
    /// Members beside the list that are read as well.
    pub beside: &'static [&'static Field],
}

/// The objects that may be parts, in the order of the payload; nothing, if the payload's shape is not known. What stands
/// in a list of parts and is no object is refused here.
pub fn items<'a>(reader: &mut Reader<'_, 'a>, node: Node<'a>, place: &Place, spec: &Spec) -> Option<Vec<Fields<'a>>> {
    let mut found = Vec::new();
    collect(reader, node, place, spec, 0, &mut found).then_some(found)
}

fn collect<'a>(
    reader: &mut Reader<'_, 'a>,
    node: Node<'a>,
    place: &Place,
    spec: &Spec,
    depth: usize,
    found: &mut Vec<Fields<'a>>,
) -> bool {
    if let Some(object) = node.object() {
        let fields = Fields::of(&object, place.clone());
        if let Some(list) = fields.any(spec.list) {
            let is_list = list.node.kind() == Kind::Array || (list.node.kind() == Kind::Object && depth < WRAPPERS_MAX);
            if is_list {
                reader.unread(&fields, list.node, spec.beside);
            }
            return match list.node.kind() {
                Kind::Object if depth < WRAPPERS_MAX => {
                    // A list of one may be written as its item.
                    let inner = list.node.object().map(|object| Fields::of(&object, list.place.clone()));
                    if let Some(inner) = inner.filter(|inner| inner.has_any(spec.marks)) {
                        found.push(inner);
                        return true;
                    }
                    collect(reader, list.node, &list.place, spec, depth + 1, found)
                }
                Kind::Array => collect(reader, list.node, &list.place, spec, depth, found),
                // The list's name has another meaning here: `results` of one laboratory test.
                _ if fields.has_any(spec.marks) => {
                    found.push(fields);
                    true
                }
                _ => {
                    reader.refuse(list.node, &list.place, spec.list.shape.fault());
                    true
                }
            };
        }
        if fields.has_any(spec.marks) {
            found.push(fields);
            return true;
        }
        let arrays: Vec<_> = fields.nested().filter(|(node, _)| node.kind() == Kind::Array).take(2).collect();
        if let [(only, place)] = &arrays[..]
            && only.items().iter().any(|item| matches!(item.kind(), Kind::Object | Kind::Array))
            && (fields.len() == 1 || only.items().iter().any(|item| is_of_kind(*item, place, spec)))
        {
            reader.unread(&fields, *only, spec.beside);
            return collect(reader, *only, place, spec, depth, found);
        }
        let nested: Vec<_> = fields.nested().take(2).collect();
        if let [(only, place)] = &nested[..]
            && only.kind() == Kind::Object
            && (fields.len() == 1 || is_list(only, place, spec))
            && depth < WRAPPERS_MAX
        {
            reader.unread(&fields, *only, spec.beside);
            return collect(reader, *only, place, spec, depth + 1, found);
        }
        return false;
    }
    if node.kind() != Kind::Array {
        return false;
    }
    list(reader, node, place, 0, found);
    true
}

/// Names that members of any object may have: they do not tell what the object is.
const COMMON: [&str; 9] = ["name", "description", "title", "type", "code", "value", "date", "class", "text"];

/// Whether an item of a list that has no name of the kind has a member that only a part of the kind has.
fn is_of_kind(item: Node<'_>, place: &Place, spec: &Spec) -> bool {
    let one = match item.kind() {
        Kind::Array => item.items().into_iter().next(),
        _ => Some(item),
    };
    let Some(object) = one.and_then(|item| item.object()) else { return false };
    let fields = Fields::of(&object, place.clone());
    spec.marks.iter().any(|field| fields.any(field).is_some_and(|said| !COMMON.contains(&fold(&said.name).as_str())))
}

/// Whether an object has the list of the kind.
fn is_list(node: &Node<'_>, place: &Place, spec: &Spec) -> bool {
    node.object().is_some_and(|object| Fields::of(&object, place.clone()).has(spec.list))
}

/// The objects of a list, and of lists in it.
fn list<'a>(reader: &mut Reader<'_, 'a>, node: Node<'a>, place: &Place, depth: usize, found: &mut Vec<Fields<'a>>) {
    for (index, item) in node.items().into_iter().enumerate() {
        // One more than are read, so that the reader says that there were more.
        if found.len() > PARTS_MAX as usize || reader.is_over() {
            return;
        }
        let place = place.item(index);
        match item.kind() {
            Kind::Null => {}
            Kind::Array if depth == 0 => list(reader, item, &place, depth + 1, found),
            Kind::Object => found.extend(item.object().map(|object| Fields::of(&object, place))),
            _ => reader.refuse(item, &place, "Must be an object."),
        }
    }
}
