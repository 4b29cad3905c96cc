//! The clinical view: everything known about a medical record number, by category, each item with its evidence.
//!
//! Clinical through and through: its types have no `Debug`, and its answers go to authorized readers only.

mod item;
mod store;
mod whose;
mod whose_store;

pub use self::item::Item;
use self::store::{EventRow, FindingRow};
use self::whose::{Found, Whose};
use crate::db::DbError;
use crate::ids::{EventId, FindingId, OrganizationId};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::str::FromStr;

/// Items of one category in one answer, at most and unless fewer are asked for; the next ones are behind the category's
/// cursor.
pub const ITEMS_MAX: i64 = 1_000;

/// The categories, in the order in which a reader sees them.
pub const CATEGORIES: [&str; 11] = [
    "medications",
    "problems",
    "allergies",
    "labs",
    "vitals",
    "immunizations",
    "procedures",
    "encounters",
    "documents",
    "reports",
    "other",
];

/// What is asked for.
#[derive(Clone)]
pub struct ClinicalQuery<'q> {
    /// The number.
    pub mrn: &'q str,
    /// Its system; without one, every system in which somebody has this number.
    pub system: Option<&'q str>,
    /// Also superseded versions, and what was entered in error or cancelled.
    pub history: bool,
    /// Only this category, behind this item.
    pub cursor: Option<Cursor>,
    /// Items of one category in one answer: 1 to [`ITEMS_MAX`].
    pub limit: i64,
}

/// Where a category goes on: `labs:evt_…`, behind that item. It does not name the item's time, since cursors stand in URLs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    category: &'static str,
    after: EventId,
}

/// A text that is no cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of the clinical view")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (category, after) = text.split_once(':').ok_or(InvalidCursor)?;
        let category = CATEGORIES.into_iter().find(|one| *one == category).ok_or(InvalidCursor)?;
        Ok(Self { category, after: after.parse().map_err(|_| InvalidCursor)? })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.category, self.after)
    }
}

/// Whether anything is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewStatus {
    /// A patient, or at least events that wait for one.
    Found,
    /// Nothing.
    NotFound,
    /// Several patients in several systems have this number: name the system.
    Ambiguous,
}

/// The answer of `GET /ingest/clinical/{mrn}`.
pub struct ClinicalView {
    /// Whether anything is known.
    pub status: ViewStatus,
    /// As asked.
    pub mrn: String,
    /// Null while only unlinked events are known.
    pub patient: Option<Value>,
    /// The systems to choose from, if it is ambiguous.
    pub systems: Vec<String>,
    /// When the newest event was stored.
    pub last_updated: Option<String>,
    /// What is known.
    pub clinical_data: ClinicalData,
    /// All events of the patient, of every type.
    pub event_count: i64,
    /// The labels of the systems that they came from.
    pub sources: Vec<String>,
    /// A cursor for each category that has more.
    pub next: BTreeMap<&'static str, String>,
}

/// What is known of somebody.
pub struct ClinicalData {
    /// Null while the patient is not known.
    pub demographics: Value,
    /// One array a category.
    pub categories: BTreeMap<&'static str, Vec<Item>>,
}

impl ClinicalView {
    /// As JSON: the answer's members, with the items in the place of their categories. The items are texts already; nothing reads
    /// them again.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let items: usize = self.clinical_data.categories.values().flatten().map(Item::size).sum();
        let mut out = Vec::with_capacity(items + 4096);
        let member = |out: &mut Vec<u8>, name: &str, value: Value| {
            out.push(if out.is_empty() { b'{' } else { b',' });
            let _ = write!(out, "\"{name}\":{value}");
        };
        member(&mut out, "status", json!(self.status));
        member(&mut out, "mrn", json!(self.mrn));
        member(&mut out, "patient", json!(self.patient));
        if !self.systems.is_empty() {
            member(&mut out, "systems", json!(self.systems));
        }
        member(&mut out, "last_updated", json!(self.last_updated));
        let _ = write!(out, ",\"clinical_data\":{{\"demographics\":{}", self.clinical_data.demographics);
        for (category, items) in &self.clinical_data.categories {
            let _ = write!(out, ",\"{category}\":[");
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                item.write(&mut out);
            }
            out.push(b']');
        }
        out.push(b'}');
        member(&mut out, "event_count", json!(self.event_count));
        member(&mut out, "sources", json!(self.sources));
        if !self.next.is_empty() {
            member(&mut out, "next", json!(self.next));
        }
        out.push(b'}');
        out
    }
}

/// Everything known about a medical record number, or the next page of one category.
///
/// # Errors
/// A [`DbError`].
pub async fn clinical(
    connection: &mut PgConnection,
    organization: OrganizationId,
    query: ClinicalQuery<'_>,
) -> Result<ClinicalView, DbError> {
    match whose::find(connection, organization, query.mrn, query.system).await? {
        Found::Nothing => Ok(empty(ViewStatus::NotFound, query.mrn, Vec::new())),
        Found::Several(systems) => Ok(empty(ViewStatus::Ambiguous, query.mrn, systems)),
        Found::One(whose) => build(connection, organization, &query, &whose).await,
    }
}

async fn build(
    connection: &mut PgConnection,
    organization: OrganizationId,
    query: &ClinicalQuery<'_>,
    whose: &Whose,
) -> Result<ClinicalView, DbError> {
    let mut view = empty(ViewStatus::Found, query.mrn, Vec::new());
    if let Whose::Patient(patient) = whose {
        let patient = store::patient(connection, organization, *patient).await?;
        view.clinical_data.demographics = patient.demographics();
        view.patient = Some(patient.summary());
    }
    let sources = store::sources(connection, organization, whose).await?;
    view.event_count = sources.iter().map(|source| source.events).sum();
    view.last_updated = sources.iter().filter_map(|source| source.last_updated).max().and_then(item::timestamp);
    view.sources = sources.into_iter().map(|source| source.source).collect();
    let after = match query.cursor {
        Some(cursor) => store::position(connection, organization, cursor.after).await?,
        None => Some(store::BEGINNING),
    };
    // Behind an item that the organization does not have there is nothing.
    let Some(after) = after else { return Ok(view) };
    let found = store::events(connection, organization, whose, query, after).await?;
    let events = pages(found, usize::try_from(query.limit).unwrap_or_default(), &mut view.next);
    // What does not stand beside its event is made from the findings' columns.
    let ids: Vec<EventId> =
        events.iter().filter(|event| event.shown.is_none()).map(|event| event.position.id).collect();
    let findings = store::findings(connection, organization, &ids).await?;
    let ids: Vec<FindingId> = findings.iter().map(|finding| finding.id).collect();
    let evidence = store::evidence(connection, organization, &ids).await?;
    let wanted = unnamed_medications(&events, &findings);
    let medications = store::medications(connection, organization, &wanted).await?;
    let parts = item::Parts { findings, evidence, medications };
    view.clinical_data.categories.extend(item::by_category(events, parts));
    Ok(view)
}

/// The first page of each category, newest first. One more than a page was read, so that a next page is only promised
/// where there is one.
fn pages(found: Vec<EventRow>, limit: usize, next: &mut BTreeMap<&'static str, String>) -> Vec<EventRow> {
    let mut by_category: HashMap<&'static str, Vec<EventRow>> = HashMap::new();
    for event in found {
        by_category.entry(event.category).or_default().push(event);
    }
    let mut shown = Vec::new();
    for (category, mut events) in by_category {
        events.sort_unstable_by_key(|event| Reverse(event.position));
        if events.len() > limit {
            events.truncate(limit);
            if let Some(last) = events.last() {
                next.insert(category, Cursor { category, after: last.position.id }.to_string());
            }
        }
        shown.extend(events);
    }
    shown
}

/// Medications that findings refer to and that were not in their Bundle.
fn unnamed_medications(events: &[EventRow], findings: &[FindingRow]) -> Vec<(String, String)> {
    let mut unnamed = findings.iter().filter(|finding| finding.medication_reference.is_some()).peekable();
    if unnamed.peek().is_none() {
        return Vec::new();
    }
    let sources: HashMap<EventId, &str> =
        events.iter().map(|event| (event.position.id, event.source_label.as_str())).collect();
    unnamed.filter_map(|finding| finding.medication(sources.get(&finding.event_id)?)).collect()
}

fn empty(status: ViewStatus, mrn: &str, mut systems: Vec<String>) -> ClinicalView {
    systems.sort();
    systems.dedup();
    let categories = CATEGORIES.into_iter().map(|category| (category, Vec::new())).collect();
    let clinical_data = ClinicalData { demographics: Value::Null, categories };
    ClinicalView {
        status,
        mrn: mrn.to_owned(),
        patient: None,
        systems,
        last_updated: None,
        clinical_data,
        event_count: 0,
        sources: Vec::new(),
        next: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips_and_a_foreign_one_is_refused() {
        let cursor = Cursor { category: "labs", after: EventId::new() };
        assert!(cursor.to_string().parse::<Cursor>() == Ok(cursor));
        for text in
            ["", "labs", "labs:", "nothing:evt_01h455vb4pex5vsknk084sn02q", "labs:job_01h455vb4pex5vsknk084sn02q"]
        {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
