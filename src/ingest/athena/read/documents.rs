//! Documents and notes.

use super::fields::{Field, Fields, Shape};
use super::reader::{Draft, Reader, encounter, named, payload, seal};
use super::shape::{self, Spec};
use super::{other, status, value};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::findings::{Finding, Value, parts};

const LIST: Field =
    Field::new(Shape::Array, &["documents", "clinicaldocuments", "notes", "clinicalnotes"], "the parts").essential();
const ID: Field = Field::new(Shape::Id, &["documentid", "clinicaldocumentid", "noteid"], "identity");
const TITLE: Field = Field::new(
    Shape::Text,
    &[
        "documentdescription",
        "title",
        "documenttitle",
        "description",
        "subject",
        "documenttype",
        "notetype",
        "name",
        "type",
    ],
    "`code_text`",
)
.essential();
const CLASS: Field = Field::new(Shape::Text, &["documentclass", "class"], "name, without a title; details as written");
const SUBCLASS: Field = Field::new(
    Shape::Text,
    &["documentsubclass", "subclass"],
    "name, without a title, before the class; details as written",
);
const BODY: Field = Field::new(
    Shape::Body,
    &["text", "content", "body", "note", "notetext", "documenttext", "documentdata"],
    "`value`, up to 64 KiB",
);
const DATE: Field = Field::new(
    Shape::Time,
    &["documentdate", "observationdatetime", "observationdate", "notedate", "encounterdate", "servicedate", "date"],
    "`effective`",
);
const CREATED: Field = Field::new(
    Shape::Time,
    &["createddatetime", "createddate"],
    "`effective`, if nothing else says when; details as written",
);
const MODIFIED: Field =
    Field::new(Shape::Time, &["lastmodifieddatetime", "lastmodifieddate", "lastmodified"], "`issued`");
const DELETED: Field =
    Field::new(Shape::Time, &["deleteddatetime", "deleteddate"], "`status` entered-in-error; details as written");
const STATUS: Field =
    Field::new(Shape::Text, &["status", "documentstatus"], "`status`: current, superseded, …; details as written");
const AUTHOR: Field = Field::new(
    Shape::Text,
    &["author", "signedby", "providerusername", "provider", "providername", "createduser", "createdby"],
    "performer",
);
const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");

pub const FIELDS: [&Field; 13] =
    [&LIST, &ID, &TITLE, &CLASS, &SUBCLASS, &BODY, &DATE, &CREATED, &MODIFIED, &DELETED, &STATUS, &AUTHOR, &ENCOUNTER];

const MARKS: [&Field; 5] = [&ID, &TITLE, &CLASS, &SUBCLASS, &BODY];

/// Whether the payload's shape is one of documents.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return false };
    for item in items {
        if item.has_any(&MARKS) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| document(reader, &item));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

fn document<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut finding = Finding::new("document", "assertion");
    let title = fields.get(reader, &TITLE);
    let subclass = fields.get(reader, &SUBCLASS);
    let class = fields.get(reader, &CLASS);
    let body = fields.get(reader, &BODY);
    fields.keep(&SUBCLASS);
    fields.keep(&CLASS);
    let id = reader.text(fields, &ID);
    let stated = title.or(subclass).or(class);
    if stated.is_none() && body.is_none() && id.is_none() {
        reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not say which document it is.");
        return None;
    }
    let named_by = stated.as_ref().map_or((fields.node, &fields.place), |name| (name.node, &name.place));
    finding.evidence.push(parts::evidence(named_by.0, named_by.1, "athena.document.title"));
    finding.code = value::concept(&[], stated.map(|stated| stated.text));
    if let Some(body) = body {
        finding.evidence.push(parts::evidence(body.node, &body.place, "athena.document.text"));
        finding.value = Value { kind: Some("string"), text: Some(body.text), ..Value::default() };
    }
    let is_deleted = reader.end(fields, &DELETED).has_come;
    fields.keep(&DELETED);
    let declared = reader.text(fields, &STATUS);
    fields.keep(&STATUS);
    finding.status =
        if is_deleted { Some("entered-in-error".to_owned()) } else { declared.as_deref().map(status::of_document) };
    finding.performer = named(reader.text(fields, &AUTHOR));
    finding.encounter = encounter(reader.text(fields, &ENCOUNTER));
    finding.issued = reader.time(fields, &MODIFIED).map(|time| time.text);
    let date = reader.time(fields, &DATE);
    let created = reader.time(fields, &CREATED);
    fields.keep(&CREATED);
    let when = reader.when(date.or(created), None);
    seal(&mut finding, fields, &[], &when);
    Some(Draft {
        resource_type: "AthenaDocument",
        category: "documents",
        id,
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}
