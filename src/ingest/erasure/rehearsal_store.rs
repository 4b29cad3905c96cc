//! SQL of dry runs that only count.

use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use crate::ingest::linking::erase::Counts;
use sqlx::PgConnection;

/// How many events these jobs brought, first or again, counted up to `limit`.
pub async fn events(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    limit: i64,
) -> Result<i64, DbError> {
    let query = sqlx::query_scalar(
        "select count(*)
         from ((select id from clinical_events where organization_id = $1 and job_id = any ($2) limit $3)
               union
               (select event_id from event_carriers where organization_id = $1 and job_id = any ($2) limit $3)) e",
    );
    Ok(query.bind(organization).bind(jobs).bind(limit).fetch_one(connection).await?)
}

/// Events of these jobs that no other job brought as well; `$1` organization, `$2` jobs.
const OWN: &str = "with own as materialized (
           select e.id
           from clinical_events e
           where e.organization_id = $1
             and e.job_id = any ($2)
             and not exists (select from event_carriers c
                             where c.organization_id = $1 and c.event_id = e.id and c.job_id <> all ($2))
         )";

/// What hangs on them: `(table, what is counted)`.
const OF_EVENTS: [(&str, &str); 8] = [
    ("clinical_events", "select count(*) from own"),
    ("findings", "select count(*) from own o join findings f on f.organization_id = $1 and f.event_id = o.id"),
    (
        "finding_evidence",
        "select count(*)
         from own o
         join findings f on f.organization_id = $1 and f.event_id = o.id
         join finding_evidence v on v.organization_id = $1 and v.finding_id = f.id",
    ),
    ("shown_events", "select count(*) from own o join shown_events s on s.organization_id = $1 and s.event_id = o.id"),
    (
        "event_subjects",
        "select count(*) from own o join event_subjects s on s.organization_id = $1 and s.event_id = o.id",
    ),
    (
        "patient_links",
        "select count(*) from own o join patient_links s on s.organization_id = $1 and s.event_id = o.id",
    ),
    (
        "event_sightings",
        "select count(*) from own o join event_sightings s on s.organization_id = $1 and s.event_id = o.id",
    ),
    ("athena_events", "select count(*) from own o join athena_events s on s.organization_id = $1 and s.id = o.id"),
];

/// What else these jobs left.
const OF_JOBS: [(&str, &str); 3] = [
    (
        "handed_over",
        "select count(*)
         from clinical_events e
         where e.organization_id = $1
           and e.job_id = any ($2)
           and exists (select from event_carriers c
                       where c.organization_id = $1 and c.event_id = e.id and c.job_id <> all ($2))",
    ),
    ("issues", "select count(*) from issues where organization_id = $1 and job_id = any ($2)"),
    ("bulk_plans", "select count(*) from bulk_plans where organization_id = $1 and job_id = any ($2)"),
];

/// Rows that would go with these jobs, by table, without locks. Persons are not counted: who is left depends on all that others say.
pub async fn count(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
) -> Result<Counts, DbError> {
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *connection).await?;
    let of_events = OF_EVENTS.map(|(table, sql)| (table, format!("{OWN} {sql}")));
    let of_jobs = OF_JOBS.map(|(table, sql)| (table, sql.to_owned()));
    let mut counts = Counts::new();
    for (table, sql) in of_events.into_iter().chain(of_jobs) {
        let query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql)).bind(organization).bind(jobs);
        let rows = query.fetch_one(&mut *connection).await?;
        counts.insert(table.to_owned(), u64::try_from(rows).unwrap_or_default());
    }
    Ok(counts)
}
