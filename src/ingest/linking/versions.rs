//! Which version of each resource is current: the payload's versions beside the stored ones.

use super::Planned;
use crate::ids::EventId;
use crate::ingest::events::{LinkStatus, Origin, StoredEvent};
use std::collections::HashMap;
use time::OffsetDateTime;

/// Where a version stands among the versions of its resource: having `meta.lastUpdated` beats having none, so that the
/// order is total; then acceptance; then the position in the Bundle.
type Rank = (Option<OffsetDateTime>, i64, u32);

/// The payload's versions beside the stored ones.
pub(super) struct Versions<'s> {
    /// The stored event with the same bytes, by position.
    pub(super) same: Vec<Option<&'s StoredEvent>>,
    /// The stored current version of the same resource, by position.
    pub(super) before: Vec<Option<&'s StoredEvent>>,
    /// The event's id, new or stored, by position.
    pub(super) ids: Vec<EventId>,
    /// The version is the current one after this job, by position.
    pub(super) current: Vec<bool>,
    pub(super) seen_again: Vec<EventId>,
    pub(super) demoted: Vec<EventId>,
    pub(super) promoted: Vec<EventId>,
}

impl<'s> Versions<'s> {
    pub(super) fn compare(origin: &Origin, resources: &[Planned], stored: &'s [StoredEvent]) -> Self {
        let mut current_by_key: HashMap<(&str, &str), &StoredEvent> = HashMap::new();
        let mut same_by_bytes: HashMap<(&str, &str, &[u8]), &StoredEvent> = HashMap::new();
        for event in stored {
            let key = (event.resource_type.as_str(), event.resource_key.as_str());
            if event.is_current {
                current_by_key.insert(key, event);
            }
            same_by_bytes.insert((key.0, key.1, &event.content_sha256), event);
        }
        let key = |planned: &Planned| (planned.incoming.resource_type, planned.incoming.resource_key.clone());
        let same: Vec<_> = resources
            .iter()
            .map(|planned| {
                let incoming = &planned.incoming;
                let bytes =
                    (incoming.resource_type, incoming.resource_key.as_str(), incoming.content_sha256.as_slice());
                same_by_bytes.get(&bytes).copied()
            })
            .collect();
        let before: Vec<_> = resources
            .iter()
            .map(|planned| {
                let incoming = &planned.incoming;
                current_by_key.get(&(incoming.resource_type, incoming.resource_key.as_str())).copied()
            })
            .collect();
        let ranks: Vec<Rank> = resources
            .iter()
            .zip(&same)
            .map(|(planned, seen)| {
                let seq = seen.map_or(origin.seq, |event: &StoredEvent| event.seen_seq.max(origin.seq));
                (planned.incoming.last_updated, seq, planned.incoming.entry)
            })
            .collect();
        let mut versions = Self {
            ids: same
                .iter()
                .zip(resources)
                .map(|(event, planned)| {
                    event.map(|event| event.id).or(planned.incoming.id).unwrap_or_else(EventId::new)
                })
                .collect(),
            current: vec![false; resources.len()],
            seen_again: same
                .iter()
                .flatten()
                .filter(|event| event.seen_seq < origin.seq)
                .map(|event| event.id)
                .collect(),
            demoted: Vec::new(),
            promoted: Vec::new(),
            same,
            before,
        };
        // Resources are sorted, so that versions of one resource stand together.
        let indexes: Vec<usize> = (0..resources.len()).collect();
        for group in indexes.chunk_by(|one, two| key(&resources[*one]) == key(&resources[*two])) {
            let Some(best) = group.iter().copied().max_by_key(|index| ranks[*index]) else { continue };
            let before = versions.before[best];
            let in_group = before.is_some_and(|event| group.iter().any(|index| versions.ids[*index] == event.id));
            let wins = before.is_none_or(|event| in_group || ranks[best] > event.rank());
            if !wins {
                continue;
            }
            versions.current[best] = true;
            if let Some(event) = before.filter(|event| event.id != versions.ids[best]) {
                versions.demoted.push(event.id);
            }
            if versions.same[best].is_some_and(|event| !event.is_current) {
                versions.promoted.push(versions.ids[best]);
            }
        }
        versions
    }

    /// The stored event, if the same bytes are stored already.
    pub(super) fn unchanged(&self, index: usize) -> Option<&'s StoredEvent> {
        self.same[index]
    }
}

impl StoredEvent {
    pub(super) fn rank(&self) -> Rank {
        (self.last_updated, self.seen_seq, self.entry.and_then(|entry| u32::try_from(entry).ok()).unwrap_or(0))
    }

    pub(super) fn status(&self) -> LinkStatus {
        LinkStatus::stored(&self.link_status, self.patient_id)
    }
}
