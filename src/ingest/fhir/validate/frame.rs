//! What a walk remembers: the way from the root, and of each object what its invariants ask for when it ends.

use super::super::definitions::{Element, SLOTS};
use super::super::path::Place;
use std::borrow::Cow;
use std::ops::Range;

/// A step of the way from the root.
#[derive(Debug, Clone, Copy)]
pub enum Segment {
    Root(&'static str),
    Member(&'static Element),
    /// `_name`: id and extensions of a primitive.
    Sibling(&'static Element),
    Item(u32),
}

/// A kept value: where it stands, and how many an array had.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slot {
    pub start: u32,
    pub end: u32,
    pub count: u32,
}

/// What is known of an object while its members go by.
#[derive(Default)]
pub struct Frame {
    /// Groups with a value.
    pub seen: u128,
    /// Groups with an `_name`.
    pub siblings: u128,
    pub slots: [Slot; SLOTS],
    /// Arrays of primitives: group and number of items. Only the first few are remembered, which is more than any type has
    /// beside `_name` arrays.
    lengths: [(u8, u32); 4],
    known_lengths: usize,
    pub rare: Vec<Rare>,
}

/// What rarely happens: `null` in arrays of primitives, and what stands beside it.
pub struct Rare {
    pub element: &'static Element,
    pub at: u32,
    pub offset: usize,
    pub is_sibling: bool,
    pub is_null: bool,
}

impl Frame {
    pub fn remember_length(&mut self, group: u8, length: u32) {
        if let Some(place) = self.lengths.get_mut(self.known_lengths) {
            *place = (group, length);
            self.known_lengths += 1;
        }
    }

    pub fn length(&self, group: u8) -> Option<u32> {
        self.lengths[..self.known_lengths].iter().find(|(one, _)| *one == group).map(|(_, length)| *length)
    }

    /// Items of the array in that slot; 1 for a single value, 0 for none.
    pub fn count(&self, slot: u8) -> u32 {
        self.slots[usize::from(slot)].count
    }

    /// Where the value in that slot stands, quotes included.
    pub fn span(&self, slot: u8) -> Option<Range<usize>> {
        let slot = self.slots[usize::from(slot)];
        (slot.count > 0).then_some(slot.start as usize..slot.end as usize)
    }
}

/// What belongs to one resource and those that it contains.
#[derive(Default)]
pub struct Local<'a> {
    /// Contained resources: id, place, and whether it refers to its container.
    pub contained: Vec<Contained<'a>>,
    /// Ids that are referred to as `#id`.
    pub fragments: Vec<Fragment<'a>>,
    pub within_contained: bool,
}

pub struct Contained<'a> {
    pub id: Option<Cow<'a, str>>,
    pub place: Place,
    pub offset: usize,
    pub refers_to_container: bool,
}

pub struct Fragment<'a> {
    pub id: Cow<'a, str>,
    /// Other URIs may point into the narrative.
    pub is_reference: bool,
    /// Of the first ones.
    pub place: Option<Place>,
    pub offset: usize,
}
