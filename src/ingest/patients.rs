//! SQL on patients, their identifiers and the history of links.

use super::events::LinkStatus;
use super::subject::Mrn;
use crate::db::{DbError, StatementRows, give_way};
use crate::ids::{EventId, LinkId, OrganizationId, PatientId};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};
use std::collections::{BTreeSet, HashMap};

/// Version of the rules that decide links; written with every decision.
pub const LINK_RULE_VERSION: i32 = 2;

/// Rows of one statement: some ten milliseconds, or five beside others' jobs.
const ROWS: StatementRows = StatementRows { alone: 2_000, beside: 1_000 };

/// Locks of subjects are taken on so many buckets of an organization: two subjects hardly ever share one.
const LOCK_BUCKETS: u32 = 1 << 20;

/// A transaction holds no more locks than this, however many subjects its payload has: beyond, it locks the organization.
const LOCKS_MAX: usize = 1_024;

/// The bucket that stands for all of them: shared by those who lock single ones.
const ALL_BUCKETS: i32 = -1;

/// The first eight bytes of the SHA-256 of a text, as two lock numbers.
fn hash(text: &[u8]) -> (u32, u32) {
    let digest = Sha256::digest(text);
    let word = |at: usize| u32::from_be_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
    (word(0), word(4))
}

/// Serialize with every transaction that concerns one of these subjects, until this one ends. To be called in a
/// statement before anything is looked up, so that what the other transaction committed is seen. Uses the two-number
/// space of advisory locks; the engine's lanes are in the other one. The locks are taken behind the savepoint `subjects`:
/// [`unlock_subjects`] gives them back.
///
/// # Errors
/// A [`DbError`].
pub async fn lock_subjects<'k>(
    connection: &mut PgConnection,
    organization: OrganizationId,
    keys: impl Iterator<Item = &'k str>,
) -> Result<(), DbError> {
    let (space, _) = hash(organization.0.as_bytes());
    // Sorted and without duplicates: two transactions take the locks that they share in the same order.
    let buckets: BTreeSet<u32> = keys.map(|key| hash(key.as_bytes()).0 % LOCK_BUCKETS).collect();
    let space = space.cast_signed();
    // Numbers only, so the text is ours. One round trip for all statements.
    let sql = if buckets.len() > LOCKS_MAX {
        format!("savepoint subjects; select pg_advisory_xact_lock({space}, {ALL_BUCKETS})")
    } else {
        let buckets: Vec<String> = buckets.into_iter().map(|bucket| bucket.to_string()).collect();
        format!(
            "savepoint subjects; select pg_advisory_xact_lock_shared({space}, {ALL_BUCKETS});
             select pg_advisory_xact_lock({space}, bucket) from unnest('{{{}}}'::integer[]) as bucket",
            buckets.join(",")
        )
    };
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Give the locks back that were taken last: more are needed, and locks are only taken all at once.
///
/// # Errors
/// A [`DbError`].
pub async fn unlock_subjects(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::raw_sql("rollback to savepoint subjects; release savepoint subjects").execute(connection).await?;
    Ok(())
}

/// Keep the locks until the transaction ends.
///
/// # Errors
/// A [`DbError`].
pub async fn keep_subjects(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::raw_sql("release savepoint subjects").execute(connection).await?;
    Ok(())
}

/// Which patients these MRNs belong to.
///
/// # Errors
/// A [`DbError`].
pub async fn by_mrn(
    connection: &mut PgConnection,
    organization: OrganizationId,
    mrns: &BTreeSet<Mrn>,
) -> Result<HashMap<Mrn, PatientId>, DbError> {
    if mrns.is_empty() {
        return Ok(HashMap::new());
    }
    let (systems, values): (Vec<&str>, Vec<&str>) =
        mrns.iter().map(|mrn| (mrn.system.as_str(), mrn.value.as_str())).unzip();
    let rows: Vec<(String, String, PatientId)> = sqlx::query_as(
        "select i.system, i.value, i.patient_id
         from unnest($2::text[], $3::text[]) as k (system, value)
         cross join lateral (
           select system, value, patient_id
           from patient_identifiers
           where organization_id = $1
             and system = k.system
             and value = k.value
           -- One index lookup a key, whatever the planner believes of the table's size.
           offset 0
         ) i",
    )
    .bind(organization)
    .bind(systems)
    .bind(values)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(system, value, patient)| (Mrn { system, value }, patient)).collect())
}

/// Show of these patients what the newest version of their Patient resources says, and create those that do not exist:
/// current versions before superseded ones, in the order of versions. A patient without any keeps its row as it is.
///
/// # Errors
/// A [`DbError`].
pub async fn refresh(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patients: &BTreeSet<PatientId>,
) -> Result<(), DbError> {
    if patients.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into patients
           (organization_id, id, event_id, event_last_updated, event_seq, family, given, birth_date, gender, deceased,
            telecom, address, created_at, updated_at)
         select $1, k.id, e.id, e.last_updated, e.seen_seq, e.d ->> 'family',
                array(select jsonb_array_elements_text(e.d -> 'given')), e.d ->> 'birth_date', e.d ->> 'gender',
                (e.d ->> 'deceased')::boolean, nullif(e.d -> 'telecom', 'null'), nullif(e.d -> 'address', 'null'), n.now, n.now
         from unnest($2::uuid[]) as k (id)
         cross join lateral (
           select id, last_updated, seen_seq, demographics as d
           from clinical_events
           where organization_id = $1
             and patient_id = k.id
             and resource_type = 'Patient'
             and demographics is not null
           order by is_current desc, last_updated desc nulls last, seen_seq desc, entry desc nulls last
           limit 1
         ) e
         cross join (select chartgate_now() as now) n
         order by k.id
         on conflict (organization_id, id) do update
         set event_id = excluded.event_id,
             event_last_updated = excluded.event_last_updated,
             event_seq = excluded.event_seq,
             family = excluded.family,
             given = excluded.given,
             birth_date = excluded.birth_date,
             gender = excluded.gender,
             deceased = excluded.deceased,
             telecom = excluded.telecom,
             address = excluded.address,
             updated_at = excluded.updated_at,
             -- It has statements of its own (again).
             merged_into = null
         where (patients.event_id, patients.event_seq) is distinct from (excluded.event_id, excluded.event_seq)
            or patients.merged_into is not null",
    )
    .bind(organization)
    .bind(patients.iter().copied().collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// These patients have no statements any more: who asks for them is led on, if there is somewhere to go.
///
/// # Errors
/// A [`DbError`].
pub async fn set_merged(
    connection: &mut PgConnection,
    organization: OrganizationId,
    emptied: &[(PatientId, Option<PatientId>)],
) -> Result<(), DbError> {
    if emptied.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update patients p
         set merged_into = k.merged_into, updated_at = chartgate_now()
         from unnest($2::uuid[], $3::uuid[]) as k (id, merged_into)
         where p.organization_id = $1
           and p.id = k.id",
    )
    .bind(organization)
    .bind(emptied.iter().map(|(patient, _)| *patient).collect::<Vec<_>>())
    .bind(emptied.iter().map(|(_, into)| *into).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The patient that this id leads to now; nothing, if the organization has none such.
///
/// # Errors
/// A [`DbError`].
pub async fn survivor(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
) -> Result<Option<PatientId>, DbError> {
    let query = sqlx::query_scalar(
        "with recursive chain (id, merged_into, depth) as (
           select id, merged_into, 0
           from patients
           where organization_id = $1
             and id = $2
           union all
           select p.id, p.merged_into, c.depth + 1
           from chain c
           join patients p on p.organization_id = $1 and p.id = c.merged_into
           -- A bound against a circle, which no code makes.
           where c.depth < 100
         )
         select id
         from chain
         order by depth desc
         limit 1",
    );
    Ok(query.bind(organization).bind(patient).fetch_optional(connection).await?)
}

/// A decision about an event.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The event.
    pub event: EventId,
    /// Whose it is.
    pub status: LinkStatus,
    /// By which rule.
    pub method: &'static str,
}

impl Decision {
    /// How sure a link is: a temporary number is no proof.
    fn grade(&self) -> Option<&'static str> {
        self.status.patient().map(|_| if self.method == "mrt" { "possible" } else { "certain" })
    }
}

/// Append decisions to the history of links. Each supersedes the event's latest one, if there is one.
///
/// # Errors
/// A [`DbError`].
pub async fn record_links(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &str,
    decisions: &[Decision],
) -> Result<(), DbError> {
    append_links(connection, organization, actor, decisions, true).await
}

/// The same for events that this transaction stores: no decision was made about them before.
///
/// # Errors
/// A [`DbError`].
pub async fn record_first_links(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &str,
    decisions: &[Decision],
) -> Result<(), DbError> {
    append_links(connection, organization, actor, decisions, false).await
}

async fn append_links(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &str,
    decisions: &[Decision],
    may_supersede: bool,
) -> Result<(), DbError> {
    for decisions in decisions.chunks(ROWS.at_once()) {
        give_way().await;
        append_some_links(connection, organization, actor, decisions, may_supersede).await?;
    }
    Ok(())
}

async fn append_some_links(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &str,
    decisions: &[Decision],
    may_supersede: bool,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into patient_links
           (organization_id, id, event_id, patient_id, status, method, grade, score, rule_version, actor, supersedes, created_at)
         select $1, d.id, d.event_id, d.patient_id, d.status, d.method, d.grade, null, $8, $9, old.id, (select chartgate_now())
         from (select unnest($2::uuid[]) as id, unnest($3::uuid[]) as event_id, unnest($4::uuid[]) as patient_id,
                      unnest($5::text[]) as status, unnest($6::text[]) as method, unnest($7::text[]) as grade) d
         left join lateral (
           select id
           from patient_links
           where $10
             and organization_id = $1
             and event_id = d.event_id
           -- Ids are in order of time.
           order by id desc
           limit 1
         ) old on true",
    )
    .bind(organization)
    .bind(decisions.iter().map(|_| LinkId::new()).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.event).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.status.patient()).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.status.as_str()).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.method).collect::<Vec<_>>())
    .bind(decisions.iter().map(Decision::grade).collect::<Vec<_>>())
    .bind(LINK_RULE_VERSION)
    .bind(actor)
    .bind(may_supersede)
    .execute(connection)
    .await?;
    Ok(())
}
