//! `_name` beside `name`: ids and extensions of primitives, and `null` where only they are said
//! (<http://hl7.org/fhir/R4/json.html#primitive>).

use super::super::definitions::{Element, Type};
use super::super::json::Text;
use super::frame::{Frame, Rare, Segment};
use super::walk::{Stopped, Walk};
use std::collections::{HashMap, HashSet};

impl<'a> Walk<'a, '_> {
    pub(super) fn sibling(
        &mut self,
        of: &'static Type,
        element: &'static Element,
        frame: &mut Frame,
        key: &Text<'a>,
        start: usize,
    ) -> Result<(), Stopped> {
        let bit = 1u128 << element.group;
        if frame.siblings & bit != 0 {
            self.again(of, element, key, start);
        } else if frame.seen & bit != 0 && element.of_type.is_some() {
            self.check_choice(of, element, key, start, element.key);
        }
        frame.siblings |= bit;
        self.path.push(Segment::Sibling(element));
        let walked = self.sibling_value(element, frame);
        self.path.pop();
        walked
    }

    fn sibling_value(&mut self, element: &'static Element, frame: &mut Frame) -> Result<(), Stopped> {
        let next = self.cursor.peek();
        if !element.is_array {
            return self.sibling_object(element, next);
        }
        if next != Some(b'[') {
            self.mismatch(element, "an array", next);
            return self.skip();
        }
        let start = self.cursor.offset();
        if !self.descend()? {
            return Ok(());
        }
        self.cursor.open();
        let mut count = 0u32;
        while self.item(count == 0)? {
            let next = self.cursor.peek();
            let offset = self.cursor.offset();
            let is_null = next == Some(b'n');
            frame.rare.push(Rare { element, at: count, offset, is_sibling: true, is_null });
            self.path.push(Segment::Item(count));
            let walked = if is_null { self.skip() } else { self.sibling_object(element, next) };
            self.path.pop();
            walked?;
            count += 1;
        }
        self.depth -= 1;
        if count == 0 {
            self.error("structure", start, "An array must not be empty.");
        }
        Ok(())
    }

    fn sibling_object(&mut self, element: &'static Element, next: Option<u8>) -> Result<(), Stopped> {
        if let (Some(id), Some(b'{')) = (self.table.datatype("Element"), next) {
            return self.object(id, &mut Frame::default());
        }
        self.mismatch(element, "an object", next);
        self.skip()
    }

    /// `given: [null, "x"]` needs `_given: [{…}, …]`, and the other way round.
    pub(super) fn check_nulls(&mut self, frame: &Frame) {
        let mut siblings: HashMap<(u8, u32), bool> = HashMap::new();
        let mut nulls: HashSet<(u8, u32)> = HashSet::new();
        for rare in &frame.rare {
            if rare.is_sibling {
                siblings.insert((rare.element.group, rare.at), !rare.is_null);
            } else {
                nulls.insert((rare.element.group, rare.at));
            }
        }
        for rare in frame.rare.iter().filter(|rare| rare.is_null) {
            let at = (rare.element.group, rare.at);
            let is_excused = if rare.is_sibling {
                frame.length(rare.element.group).is_none_or(|length| rare.at < length) && !nulls.contains(&at)
            } else {
                siblings.get(&at) == Some(&true)
            };
            if !is_excused {
                let segment = if rare.is_sibling { Segment::Sibling } else { Segment::Member };
                self.path.extend([segment(rare.element), Segment::Item(rare.at)]);
                let other = if rare.is_sibling { "" } else { "_" };
                let message = format!("null needs something at the same place of {other}{}.", rare.element.key);
                self.error("structure", rare.offset, message);
                self.path.truncate(self.path.len() - 2);
            }
        }
    }
}
