//! SQL on `findings` and `finding_evidence`.

use super::packed::pack;
use super::shown::{Shown, Statement, of_event};
use super::{EXTRACTOR_VERSION, Finding, QUOTE_BYTES_MAX};
use crate::db::{DbError, StatementRows, give_way};
use crate::ids::{EventId, FindingId, JobId, OrganizationId, PatientId};
use crate::ingest::events::Origin;
use crate::ingest::resource::Incoming;
use sqlx::PgConnection;
use std::collections::HashMap;

/// Rows of one statement: some ten milliseconds, or five beside others' jobs.
const ROWS: StatementRows = StatementRows { alone: 1_000, beside: 500 };

/// What a resource says, ready to be stored.
#[derive(Clone)]
pub struct Said {
    /// The resource.
    pub incoming: Incoming,
    /// Its findings, with the ids that they get.
    pub findings: Vec<(FindingId, Finding)>,
    /// What the view shows of them, packed; nothing, where another resource names the medication: that is looked up when it is
    /// read.
    shown: Option<Vec<u8>>,
}

impl Said {
    /// The findings of a resource in this body.
    #[must_use]
    pub fn new(origin: &Origin, body: &[u8], incoming: Incoming, findings: Vec<Finding>) -> Self {
        let sha256 = hex::encode(&origin.payload_sha256);
        let findings: Vec<_> = findings.into_iter().map(|finding| (FindingId::new(), finding)).collect();
        let mut in_order: Vec<_> = findings.iter().collect();
        in_order.sort_by_key(|(_, finding)| finding.ordinal);
        let statements = in_order.into_iter().map(|(id, finding)| {
            let shown = Shown::of_new(*id, finding, origin, body, &sha256);
            let json = shown.json().filter(|_| finding.medication_reference.is_none())?;
            let (panel, effective) = (finding.component_of.as_deref(), finding.effective.text.as_deref());
            Some(Statement { ordinal: finding.ordinal, json, panel, effective })
        });
        let shown = statements.collect::<Option<Vec<_>>>().map(|statements| pack(&of_event(&statements)));
        Self { incoming, findings, shown }
    }
}

/// A finding of a stored event.
struct Row<'f> {
    id: FindingId,
    /// The event that says it, also where a part of it does.
    event: EventId,
    finding: &'f Finding,
}

/// What was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// All findings of the events that are there, stored now or before.
    pub said: u64,
    /// New findings.
    pub new: u64,
    /// Findings of older extractor versions that they take the place of.
    pub superseded: u64,
}

/// Store the findings of stored events that have none of this extractor version (or a newer one) yet, with their evidence;
/// those of older versions are superseded. Running it again changes nothing.
///
/// # Errors
/// A [`DbError`]; a conflict, if another job stored those of the same event meanwhile: run the effect again.
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    body: &[u8],
    said: &[(EventId, &Said)],
) -> Result<Stored, DbError> {
    let events: Vec<EventId> = said.iter().map(|(event, _)| *event).collect();
    let versions: HashMap<EventId, Option<i32>> =
        versions_of(connection, origin.organization, &events).await?.into_iter().collect();
    let version = |event: &EventId| versions.get(event).copied().flatten();
    let there: Vec<(EventId, &Said)> = said.iter().copied().filter(|(event, _)| versions.contains_key(event)).collect();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let said = count(there.iter().map(|(_, said)| said.findings.len()).sum());
    let (outdated, fresh): (Vec<_>, Vec<_>) = there
        .into_iter()
        .filter(|(event, _)| version(event).is_none_or(|version| version < EXTRACTOR_VERSION))
        .partition(|(event, _)| version(event).is_some());
    let rows: Vec<Row<'_>> = fresh
        .iter()
        .chain(&outdated)
        .flat_map(|(event, said)| said.findings.iter().map(|(id, finding)| Row { id: *id, event: *event, finding }))
        .collect();
    for rows in rows.chunks(ROWS.at_once()) {
        give_way().await;
        insert_rows(connection, origin, rows).await?;
        give_way().await;
        insert_evidence(connection, origin, body, rows).await?;
    }
    insert_shown(connection, origin.organization, &fresh).await?;
    let outdated_events: Vec<EventId> = outdated.iter().map(|(event, _)| *event).collect();
    forget_shown(connection, origin.organization, &outdated_events).await?;
    insert_shown(connection, origin.organization, &outdated).await?;
    let superseded = supersede(connection, origin.organization, &outdated_events).await?;
    Ok(Stored { said, new: count(rows.len()), superseded })
}

/// Those of these events that are there (an erasure may have been faster), and the newest extractor version of their findings.
async fn versions_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<Vec<(EventId, Option<i32>)>, DbError> {
    let query = sqlx::query_as(
        "select k.id, f.extractor_version
         from unnest($2::uuid[]) as k (id)
         cross join lateral (
           select from clinical_events
           where organization_id = $1
             and id = k.id
           -- One index lookup an event, whatever the planner believes of the table's size.
           offset 0
         ) e
         left join lateral (
           select extractor_version
           from findings
           where organization_id = $1
             and event_id = k.id
           order by extractor_version desc
           limit 1
         ) f on true",
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

/// What the view shows of these events, beside them.
async fn insert_shown(
    connection: &mut PgConnection,
    organization: OrganizationId,
    said: &[(EventId, &Said)],
) -> Result<(), DbError> {
    for said in said.chunks(ROWS.at_once()) {
        give_way().await;
        sqlx::query(
            "insert into shown_events (organization_id, event_id, extractor_version, packed)
             select $1, k.id, $2, k.packed
             from (select unnest($3::uuid[]) as id, unnest($4::bytea[]) as packed) k",
        )
        .bind(organization)
        .bind(EXTRACTOR_VERSION)
        .bind(said.iter().map(|(event, _)| *event).collect::<Vec<_>>())
        .bind(said.iter().map(|(_, said)| said.shown.as_deref()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// What was shown by the rules of an older version.
async fn forget_shown(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from shown_events where organization_id = $1 and event_id = any ($2) and extractor_version < $3",
    )
    .bind(organization)
    .bind(events)
    .bind(EXTRACTOR_VERSION)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_rows(connection: &mut PgConnection, origin: &Origin, rows: &[Row<'_>]) -> Result<(), DbError> {
    let query = sqlx::query(
        "insert into findings
           (organization_id, extractor_version, job_id, created_at,
            id, event_id, ordinal, category, kind, code_system, code, display, codings, code_text, value_type,
            value_text, value_number, value_code, comparator, unit, ucum, reference_range, interpretation,
            interpretation_source, status, clinical_status, verification_status, severity, body_site, effective_text,
            effective_end_text, effective_at, effective_precision, issued, performer, encounter_reference, dosage,
            reactions, negated, component_of, criticality, laterality, medication_reference, details)
         select $1, $2, $3, (select chartgate_now()),
                f.id, f.event_id, f.ordinal, f.category, f.kind, f.code_system, f.code, f.display, f.codings::json,
                f.code_text, f.value_type, f.value_text, f.value_number::numeric, f.value_code::json, f.comparator,
                f.unit, f.ucum, f.reference_range::json, f.interpretation, f.interpretation_source, f.status,
                f.clinical_status, f.verification_status, f.severity, f.body_site::json, f.effective_text,
                f.effective_end_text, f.effective_at, f.effective_precision, f.issued, f.performer::json,
                f.encounter_reference, f.dosage::json, f.reactions::json, f.negated, f.component_of::json,
                f.criticality, f.laterality, f.medication_reference, f.details::json
         from (select
                 unnest($4::uuid[]) as id, unnest($5::uuid[]) as event_id, unnest($6::integer[]) as ordinal,
                 unnest($7::text[]) as category, unnest($8::text[]) as kind, unnest($9::text[]) as code_system,
                 unnest($10::text[]) as code, unnest($11::text[]) as display, unnest($12::text[]) as codings,
                 unnest($13::text[]) as code_text, unnest($14::text[]) as value_type,
                 unnest($15::text[]) as value_text, unnest($16::text[]) as value_number,
                 unnest($17::text[]) as value_code, unnest($18::text[]) as comparator,
                 unnest($19::text[]) as unit, unnest($20::text[]) as ucum,
                 unnest($21::text[]) as reference_range, unnest($22::text[]) as interpretation,
                 unnest($23::text[]) as interpretation_source, unnest($24::text[]) as status,
                 unnest($25::text[]) as clinical_status, unnest($26::text[]) as verification_status,
                 unnest($27::text[]) as severity, unnest($28::text[]) as body_site,
                 unnest($29::text[]) as effective_text, unnest($30::text[]) as effective_end_text,
                 unnest($31::timestamptz[]) as effective_at, unnest($32::text[]) as effective_precision,
                 unnest($33::text[]) as issued, unnest($34::text[]) as performer,
                 unnest($35::text[]) as encounter_reference, unnest($36::text[]) as dosage,
                 unnest($37::text[]) as reactions, unnest($38::boolean[]) as negated,
                 unnest($39::text[]) as component_of, unnest($40::text[]) as criticality,
                 unnest($41::text[]) as laterality, unnest($42::text[]) as medication_reference,
                 unnest($43::text[]) as details
         ) f",
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
    query.execute(connection).await?;
    Ok(())
}

async fn insert_evidence(
    connection: &mut PgConnection,
    origin: &Origin,
    body: &[u8],
    rows: &[Row<'_>],
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
         from (select unnest($3::uuid[]) as finding_id, unnest($4::integer[]) as ordinal, unnest($5::bigint[]) as byte_start,
                      unnest($6::bigint[]) as byte_end, unnest($7::bytea[]) as quote, unnest($8::text[]) as pointer,
                      unnest($9::text[]) as fhirpath, unnest($10::text[]) as rule) e",
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
