//! What is not known: kept whole, as one part, and said to be so.

use super::fields::Fields;
use super::reader::{Draft, Reader, payload, seal};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::Node;
use crate::ingest::fhir::path::Place;
use crate::ingest::findings::{Finding, parts};

/// The whole payload.
pub fn whole(reader: &mut Reader<'_, '_>) {
    let node = reader.event().payload;
    part(reader, node, &payload());
}

/// A value that was expected to be a part.
pub fn part<'a>(reader: &mut Reader<'_, 'a>, node: Node<'a>, place: &Place) {
    reader.part(node, place, |reader| {
        let sentence = "The shape is not known: kept as `other`, with all that it holds.";
        reader.issue(Severity::Information, "informational", node, place, sentence);
        let event = reader.event();
        let subtype = event.text("event_subtype").filter(|text| !text.trim().is_empty());
        let mut finding = Finding::new("other", "assertion");
        finding.code.text = Some(subtype.unwrap_or_else(|| event.event_type.clone().into_owned()));
        finding.evidence.push(parts::evidence(node, place, "athena.other"));
        let when = reader.when(None, None);
        if let Some(object) = node.object() {
            seal(&mut finding, &Fields::of(&object, place.clone()), &[], &when);
        } else {
            seal(&mut finding, None, &[], &when);
        }
        Some(Draft {
            resource_type: "AthenaOther",
            category: "other",
            id: None,
            measures: false,
            status: None,
            when,
            findings: vec![finding],
        })
    });
}
