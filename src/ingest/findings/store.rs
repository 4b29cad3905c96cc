//! SQL on `findings` and `finding_evidence`.

use super::shown::{Shown, Statement, of_event};
use super::{EXTRACTOR_VERSION, Finding, QUOTE_BYTES_MAX};
use crate::db::DbError;
use crate::ids::{EventId, FindingId, JobId, OrganizationId, PatientId};
use crate::ingest::events::Origin;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashSet};

/// Rows of one statement: a few megabytes of arguments at most.
const ROWS_MAX: usize = 2_000;

/// A finding of a stored event, to be stored.
pub struct NewFinding<'f> {
    /// Its id.
    pub id: FindingId,
    /// The event that says it, also where a part of it does.
    pub event: EventId,
    /// What it says.
    pub finding: &'f Finding,
}

/// What was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// New findings.
    pub new: u64,
    /// Findings of older extractor versions that they take the place of.
    pub superseded: u64,
}

/// Store the findings of events that have none of this extractor version (or a newer one) yet, with their evidence;
/// those of older versions are superseded. Running it again changes nothing.
///
/// # Errors
/// A [`DbError`].
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    body: &[u8],
    findings: Vec<NewFinding<'_>>,
) -> Result<Stored, DbError> {
    let events: Vec<EventId> = findings.iter().map(|row| row.event).collect();
    let versions = versions_of(connection, origin.organization, &events).await?;
    let done: HashSet<EventId> =
        versions.iter().filter(|(_, version)| *version >= EXTRACTOR_VERSION).map(|(event, _)| *event).collect();
    let outdated: Vec<EventId> =
        versions.iter().filter(|(_, version)| *version < EXTRACTOR_VERSION).map(|(event, _)| *event).collect();
    let rows: Vec<NewFinding<'_>> = findings.into_iter().filter(|row| !done.contains(&row.event)).collect();
    let (mut new, mut stored_ids) = (0, HashSet::with_capacity(rows.len()));
    for rows in rows.chunks(ROWS_MAX) {
        let stored: HashSet<FindingId> = insert_rows(connection, origin, rows).await?.into_iter().collect();
        new += u64::try_from(stored.len()).unwrap_or(u64::MAX);
        let fresh: Vec<&NewFinding<'_>> = rows.iter().filter(|row| stored.contains(&row.id)).collect();
        insert_evidence(connection, origin, body, &fresh).await?;
        stored_ids.extend(stored);
    }
    let shown = rows.iter().filter(|row| stored_ids.contains(&row.id));
    set_shown(connection, origin, body, shown).await?;
    let superseded = supersede(connection, origin.organization, &outdated).await?;
    Ok(Stored { new, superseded })
}

/// The newest extractor version of those of these events that have findings.
async fn versions_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<Vec<(EventId, i32)>, DbError> {
    let query = sqlx::query_as(
        "select k.event_id, f.extractor_version
         from (select distinct event_id from unnest($2::uuid[]) as u (event_id)) k
         cross join lateral (
           select extractor_version
           from findings
           where organization_id = $1
             and event_id = k.event_id
           -- By the unique key, which also keeps the planner at one index lookup an event.
           order by extractor_version desc
           limit 1
         ) f",
    );
    Ok(query.bind(organization).bind(events).fetch_all(connection).await?)
}

/// Findings of older versions point to the newer one of the same ordinal, or else to the newer version's first.
async fn supersede(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<u64, DbError> {
    if events.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query(
        "update findings old
         set superseded_by = n.id
         from (
           select o.id as old_id, f.id
           from unnest($2::uuid[]) as k (event_id)
           cross join lateral (
             select id, ordinal, superseded_by
             from findings
             where organization_id = $1
               and event_id = k.event_id
               and extractor_version < $3
             offset 0
           ) o
           cross join lateral (
             select id
             from findings
             where organization_id = $1
               and event_id = k.event_id
               and extractor_version = $3
             order by ordinal = o.ordinal desc, ordinal
             limit 1
           ) f
           where o.superseded_by is null
         ) n
         where old.organization_id = $1
           and old.id = n.old_id",
    );
    let done = query.bind(organization).bind(events).bind(EXTRACTOR_VERSION).execute(connection).await?;
    Ok(done.rows_affected())
}

/// What the view shows of the events that these new findings are of, beside the events; nothing, where another resource names the
/// medication: that is looked up when it is read.
async fn set_shown<'f>(
    connection: &mut PgConnection,
    origin: &Origin,
    body: &[u8],
    rows: impl Iterator<Item = &'f NewFinding<'f>>,
) -> Result<(), DbError> {
    let sha256 = hex::encode(&origin.payload_sha256);
    let mut by_event: BTreeMap<EventId, Vec<&NewFinding<'_>>> = BTreeMap::new();
    for row in rows {
        by_event.entry(row.event).or_default().push(row);
    }
    let texts = by_event.into_iter().map(|(event, mut rows)| {
        rows.sort_by_key(|row| row.finding.ordinal);
        let statements = rows.iter().map(|row| {
            let finding = row.finding;
            let json =
                Shown::of_new(row, origin, body, &sha256).json().filter(|_| finding.medication_reference.is_none())?;
            let (panel, effective) = (finding.component_of.as_deref(), finding.effective.text.as_deref());
            Some(Statement { ordinal: finding.ordinal, json, panel, effective })
        });
        (event, statements.collect::<Option<Vec<_>>>().map(|statements| of_event(&statements)))
    });
    let texts: Vec<(EventId, Option<String>)> = texts.collect();
    for texts in texts.chunks(ROWS_MAX) {
        let (events, texts): (Vec<EventId>, Vec<Option<&str>>) =
            texts.iter().map(|(event, text)| (*event, text.as_deref())).unzip();
        let query = sqlx::query(
            "insert into shown_events (organization_id, event_id, extractor_version, shown)
             select $1, k.id, $2, k.shown
             from unnest($3::uuid[], $4::text[]) as k (id, shown)
             on conflict (organization_id, event_id) do update
             set extractor_version = excluded.extractor_version, shown = excluded.shown
             -- A program of a newer version may have been here in between.
             where shown_events.extractor_version < excluded.extractor_version",
        );
        query
            .bind(origin.organization)
            .bind(EXTRACTOR_VERSION)
            .bind(events)
            .bind(texts)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn insert_rows(
    connection: &mut PgConnection,
    origin: &Origin,
    rows: &[NewFinding<'_>],
) -> Result<Vec<FindingId>, DbError> {
    let query = sqlx::query_scalar(
        "insert into findings
           (organization_id, extractor_version, job_id, created_at,
            id, event_id, ordinal, category, kind, code_system, code, display, codings, code_text, value_type,
            value_text, value_number, value_code, comparator, unit, ucum, reference_range, interpretation,
            interpretation_source, status, clinical_status, verification_status, severity, body_site, effective_text,
            effective_end_text, effective_at, effective_precision, issued, performer, encounter_reference, dosage,
            reactions, negated, component_of, criticality, laterality, medication_reference, details)
         select $1, $2, $3, n.now,
                f.id, f.event_id, f.ordinal, f.category, f.kind, f.code_system, f.code, f.display, f.codings::json,
                f.code_text, f.value_type, f.value_text, f.value_number::numeric, f.value_code::json, f.comparator,
                f.unit, f.ucum, f.reference_range::json, f.interpretation, f.interpretation_source, f.status,
                f.clinical_status, f.verification_status, f.severity, f.body_site::json, f.effective_text,
                f.effective_end_text, f.effective_at, f.effective_precision, f.issued, f.performer::json,
                f.encounter_reference, f.dosage::json, f.reactions::json, f.negated, f.component_of::json,
                f.criticality, f.laterality, f.medication_reference, f.details::json
         from unnest(
                     $4::uuid[], $5::uuid[], $6::integer[], $7::text[], $8::text[], $9::text[], $10::text[],
                     $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
                     $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[],
                     $25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::text[], $31::timestamptz[],
                     $32::text[], $33::text[], $34::text[], $35::text[], $36::text[], $37::text[], $38::boolean[],
                     $39::text[], $40::text[], $41::text[], $42::text[], $43::text[]
         ) as f (
                  id, event_id, ordinal, category, kind, code_system, code, display, codings, code_text, value_type,
                  value_text, value_number, value_code, comparator, unit, ucum, reference_range, interpretation,
                  interpretation_source, status, clinical_status, verification_status, severity, body_site,
                  effective_text, effective_end_text, effective_at, effective_precision, issued, performer,
                  encounter_reference, dosage, reactions, negated, component_of, criticality, laterality,
                  medication_reference, details
         )
         cross join (select chartgate_now() as now) n
         -- Another job of the same resource was faster.
         on conflict (organization_id, event_id, extractor_version, ordinal) do nothing
         returning id",
    );
    let query = query
        .bind(origin.organization)
        .bind(EXTRACTOR_VERSION)
        .bind(origin.job)
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.ordinal).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.category).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.kind).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.code.system.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.code.code.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.code.display.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.code.codings.as_deref().unwrap_or("[]")).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.code.text.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.kind).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.text.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.number.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.json.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.comparator.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.unit.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.value.ucum.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.reference_range.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.interpretation.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.interpretation_source).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.status.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.clinical_status.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.verification_status.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.severity.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.body_site.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.effective.text.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.effective.end_text.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.effective.at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.effective.precision).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.issued.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.performer.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.encounter.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.dosage.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.reactions.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.negated).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.component_of.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.criticality.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.laterality).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.medication_reference.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.finding.details.as_deref()).collect::<Vec<_>>());
    Ok(query.fetch_all(connection).await?)
}

async fn insert_evidence(
    connection: &mut PgConnection,
    origin: &Origin,
    body: &[u8],
    rows: &[&NewFinding<'_>],
) -> Result<(), DbError> {
    let mut findings = Vec::new();
    let mut ordinals = Vec::new();
    let (mut starts, mut ends, mut quotes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut pointers, mut fhirpaths, mut rules) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        for (ordinal, evidence) in row.finding.evidence.iter().enumerate() {
            // The quote is the beginning of the value, and the offsets are the quote's.
            let end = quote_end(body, evidence.span.start, evidence.span.end);
            findings.push(row.id);
            ordinals.push(i32::try_from(ordinal).unwrap_or(i32::MAX));
            starts.push(origin.position(evidence.span.start));
            ends.push(origin.position(end));
            quotes.push(&body[evidence.span.start..end]);
            pointers.push(evidence.pointer.as_str());
            fhirpaths.push(evidence.fhirpath.as_str());
            rules.push(evidence.rule);
        }
    }
    sqlx::query(
        "insert into finding_evidence
           (organization_id, finding_id, ordinal, payload_sha256, byte_start, byte_end, quote, pointer, fhirpath, rule)
         select $1, e.finding_id, e.ordinal, $2, e.byte_start, e.byte_end, e.quote, e.pointer, e.fhirpath, e.rule
         from unnest($3::uuid[], $4::integer[], $5::bigint[], $6::bigint[], $7::bytea[], $8::text[], $9::text[], $10::text[])
           as e (finding_id, ordinal, byte_start, byte_end, quote, pointer, fhirpath, rule)",
    )
    .bind(origin.organization)
    .bind(&origin.payload_sha256)
    .bind(findings)
    .bind(ordinals)
    .bind(starts)
    .bind(ends)
    .bind(quotes)
    .bind(pointers)
    .bind(fhirpaths)
    .bind(rules)
    .execute(connection)
    .await?;
    Ok(())
}

/// A piece of evidence, as stored.
#[derive(Clone, sqlx::FromRow)]
pub struct StoredEvidence {
    /// 0 is the first.
    pub ordinal: i32,
    /// The payload.
    pub payload_sha256: Vec<u8>,
    /// First byte of the quote.
    pub byte_start: i64,
    /// Behind its last byte.
    pub byte_end: i64,
    /// The exact bytes.
    pub quote: Vec<u8>,
    /// JSON Pointer of the value that the quote begins.
    pub pointer: String,
    /// FHIRPath of the same.
    pub fhirpath: String,
    /// Which rule took it.
    pub rule: String,
}

/// The evidence of a finding; none if the organization has no such finding.
///
/// # Errors
/// A [`DbError`].
pub async fn evidence(
    connection: &mut PgConnection,
    organization: OrganizationId,
    finding: FindingId,
) -> Result<Vec<StoredEvidence>, DbError> {
    let query = sqlx::query_as(
        "select ordinal, payload_sha256, byte_start, byte_end, quote, pointer, fhirpath, rule
         from finding_evidence
         where organization_id = $1
           and finding_id = $2
         order by ordinal",
    );
    Ok(query.bind(organization).bind(finding).fetch_all(connection).await?)
}

/// Where a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Provenance {
    /// The event that says it.
    pub event_id: EventId,
    /// The job whose payload its evidence quotes.
    pub job_id: JobId,
    /// Whose it is, if that is known.
    pub patient_id: Option<PatientId>,
    /// The rules that took it.
    pub extractor_version: i32,
    /// The finding of a newer extractor that takes its place.
    pub superseded_by: Option<FindingId>,
}

/// Where a finding stands; none if the organization has no such finding.
///
/// # Errors
/// A [`DbError`].
pub async fn provenance(
    connection: &mut PgConnection,
    organization: OrganizationId,
    finding: FindingId,
) -> Result<Option<Provenance>, DbError> {
    let query = sqlx::query_as(
        "select coalesce(e.part_of, f.event_id) as event_id, coalesce(f.job_id, e.job_id) as job_id, e.patient_id, f.extractor_version, f.superseded_by
         from findings f
         join clinical_events e
           on e.organization_id = $1
          and e.id = f.event_id
         where f.organization_id = $1
           and f.id = $2",
    );
    Ok(query.bind(organization).bind(finding).fetch_optional(connection).await?)
}

/// Where a quote of at most [`QUOTE_BYTES_MAX`] bytes ends: never inside a UTF-8 character.
pub(super) fn quote_end(body: &[u8], start: usize, end: usize) -> usize {
    let mut capped = end.min(start + QUOTE_BYTES_MAX);
    // A continuation byte is 10xxxxxx (RFC 3629, section 3).
    while capped < end && capped > start && body.get(capped).is_some_and(|byte| byte & 0xC0 == 0x80) {
        capped -= 1;
    }
    capped
}

#[cfg(test)]
mod tests {
    use super::{QUOTE_BYTES_MAX, quote_end};

    #[test]
    fn a_long_quote_ends_before_a_character_that_the_cap_would_split() {
        let body = format!("{}é{}", "a".repeat(QUOTE_BYTES_MAX - 1), "b".repeat(10));
        assert_eq!(quote_end(body.as_bytes(), 0, body.len()), QUOTE_BYTES_MAX - 1);
        assert_eq!(quote_end(body.as_bytes(), 0, 5), 5);
    }
}
