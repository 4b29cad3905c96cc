//! Primitive values on the way: their JSON type, their text, and what the rest of the resource has to know of them.

use super::super::definitions::{Element, Primitive};
use super::super::issue::Severity;
use super::frame::{Fragment, Frame, Rare, Segment};
use super::walk::{Stopped, Walk};
use super::{primitive, rules};
use std::borrow::Cow;

impl Walk<'_, '_> {
    pub(super) fn primitive(
        &mut self,
        element: &'static Element,
        of: Primitive,
        frame: &mut Frame,
        item: Option<u32>,
    ) -> Result<(), Stopped> {
        let next = self.cursor.peek();
        let offset = self.cursor.offset();
        match next {
            Some(b'"') if primitive::is_text(of) => {
                let text = self.string()?;
                if text.has_escapes {
                    let decoded = text.decode();
                    self.text(element, of, &decoded, offset);
                } else {
                    self.text(element, of, text.raw, offset);
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') if !primitive::is_text(of) && of != Primitive::Boolean => {
                let written = self.cursor.number().map_err(|error| self.stop(error))?;
                if let Some((code, message)) = primitive::number(of, written) {
                    self.error(code, offset, message);
                }
                Ok(())
            }
            Some(b't' | b'f') if of == Primitive::Boolean => {
                self.cursor.literal().map_err(|error| self.stop(error))?;
                Ok(())
            }
            Some(b'n') if item.is_some() => {
                self.cursor.literal().map_err(|error| self.stop(error))?;
                let at = item.unwrap_or_default();
                frame.rare.push(Rare { element, at, offset, is_sibling: false, is_null: true });
                Ok(())
            }
            _ => {
                let wanted = match of {
                    Primitive::Boolean => "a boolean",
                    of if primitive::is_text(of) => "a string",
                    _ => "a number",
                };
                self.mismatch(element, wanted, next);
                self.skip()
            }
        }
    }

    fn text(&mut self, element: &'static Element, of: Primitive, text: &str, offset: usize) {
        // A fullUrl names an entry within its Bundle only: senders write `urn:uuid:1` there, mean it, and harm nobody.
        let is_local_name = element.key == "fullUrl" && text.starts_with("urn:uuid:");
        if let Some((code, message)) = primitive::text(of, text).filter(|_| !is_local_name) {
            self.error(code, offset, message);
        } else if let Some(set) = element.set {
            if of == Primitive::Code && !self.table.set(set).has(text) {
                let url = self.table.set(set).url;
                self.error("code-invalid", offset, format!("Not a code of the required value set {url}."));
            }
        } else if of == Primitive::Xhtml {
            rules::narrative(self, text, offset);
        } else if of == Primitive::Markdown && primitive::has_tag(text) {
            let message = "The markdown holds what looks like an HTML tag; it will not be read as one.";
            self.issue(Severity::Warning, "value", offset, message);
        }
        match of {
            Primitive::Uri | Primitive::Url | Primitive::Canonical if text.starts_with('#') => {
                let id = Cow::Owned(text[1..].split('|').next().unwrap_or_default().to_owned());
                self.local.fragments.push(Fragment { id, is_reference: false, place: None, offset });
            }
            Primitive::Id | Primitive::String if element.key == "id" && self.local.within_contained => {
                self.contained_id(text);
            }
            _ => {}
        }
    }

    /// The id of a contained resource itself, not of an element in it.
    fn contained_id(&mut self, text: &str) {
        if let [.., Segment::Member(outer), Segment::Item(_), Segment::Member(_)] = self.path.as_slice()
            && outer.key == "contained"
            && let Some(contained) = self.local.contained.last_mut()
        {
            contained.id = Some(Cow::Owned(text.to_owned()));
        }
    }
}
