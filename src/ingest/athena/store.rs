//! SQL of Athena events: taking them in, listing them, counting them.

use super::submit::{NewEvent, Taken, TakenRow};
use crate::db::DbError;
use crate::engine::traces_store;
use crate::ids::{EventId, JobId, OrganizationId, PatientId};
use crate::ingest::submit::{Row, are_traced, begun, bind_jobs};
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

#[derive(sqlx::FromRow)]
struct EventRow {
    #[sqlx(flatten)]
    job: Row,
    /// None of one that was erased.
    event_id: Option<EventId>,
}

/// Take events in, in the order given; the answers are in that order too.
///
/// # Errors
/// A [`DbError`].
pub async fn submit(
    connection: &mut PgConnection,
    events: &[&(EventId, JobId, NewEvent)],
) -> Result<Vec<TakenRow>, DbError> {
    let jobs: Vec<_> = events.iter().map(|(_, job, event)| (*job, &event.submission)).collect();
    macro_rules! column {
        ($get:expr) => {
            events.iter().map(|(_, _, event)| event).map($get).collect::<Vec<_>>()
        };
    }
    let query = sqlx::query_as(
        "select *
         from submit_athena_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                                   $21, $22, $23, $24, $25, $26, $27, $28)",
    );
    let query = bind_jobs(query, &jobs)
        .bind(events.iter().map(|(event, _, _)| event.0).collect::<Vec<_>>())
        .bind(column!(|event| event.patient_id.as_str()))
        .bind(column!(|event| event.event_type.as_str()))
        .bind(column!(|event| event.kind.as_str()))
        .bind(column!(|event| event.event_subtype.as_deref()))
        .bind(column!(|event| event.source_endpoint.as_deref()))
        .bind(column!(|event| event.captured_at.as_deref()))
        .bind(column!(|event| event.captured_key.as_deref()));
    let mut rows: Vec<EventRow> = if are_traced(&jobs) {
        let mut transaction = connection.begin().await?;
        let rows: Vec<EventRow> = query.fetch_all(&mut *transaction).await?;
        let begun = begun(&jobs, rows.iter().map(|row| &row.job));
        traces_store::note(&mut transaction, begun).await?;
        transaction.commit().await?;
        rows
    } else {
        query.fetch_all(connection).await?
    };
    rows.sort_by_key(|row| row.job.ordinal);
    Ok(rows
        .into_iter()
        .map(|row| {
            let taken = match row.job.outcome.as_str() {
                "accepted" => Taken::Accepted,
                "sighting" => Taken::Sighting,
                _ => Taken::Duplicate,
            };
            (taken, row.event_id.unwrap_or_default(), row.job)
        })
        .collect())
}

/// The event with this content.
///
/// # Errors
/// A [`DbError`].
pub async fn by_content(
    connection: &mut PgConnection,
    organization: OrganizationId,
    idempotency_sha256: &[u8],
) -> Result<Option<EventId>, DbError> {
    let query = sqlx::query_scalar(
        "select id
         from athena_events
         where organization_id = $1
           and idempotency_sha256 = $2",
    );
    Ok(query.bind(organization).bind(idempotency_sha256).fetch_optional(connection).await?)
}

/// Which events are listed.
#[derive(Clone)]
pub struct EventFilter {
    /// `athena_patient_id`.
    pub patient_id: String,
    /// Only of this kind.
    pub kind: Option<&'static str>,
    /// Only of this type, which is of no kind that is known; large and small letters mean the same.
    pub event_type: Option<String>,
    /// Older than this one.
    pub before: Option<EventId>,
    /// At most.
    pub limit: i64,
}

/// An event as received, and how far it is. No `Debug`: it is clinical.
#[derive(sqlx::FromRow)]
pub struct ListedEvent {
    /// Its id.
    pub id: EventId,
    /// As sent.
    pub event_type: String,
    /// What it means.
    pub kind: String,
    /// As sent.
    pub event_subtype: Option<String>,
    /// As sent.
    pub source_endpoint: Option<String>,
    /// As given.
    pub captured_at: Option<String>,
    /// When it was received.
    pub received_at: OffsetDateTime,
    /// Its job.
    pub job_id: JobId,
    /// That job's status.
    pub status: String,
    /// The exact bytes.
    pub payload_sha256: Vec<u8>,
    /// Whose it is; none until it is processed.
    pub link_status: Option<String>,
    /// Whose it is.
    pub patient_id: Option<PatientId>,
}

/// Events of a patient, newest first.
///
/// # Errors
/// A [`DbError`].
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &EventFilter,
) -> Result<Vec<ListedEvent>, DbError> {
    macro_rules! list {
        ($narrowed:literal) => {
            concat!(
                "select a.id, a.event_type, a.kind, a.event_subtype, a.source_endpoint, a.captured_at, a.received_at,
                        a.job_id, a.payload_sha256, j.status, e.link_status, e.patient_id
                 from (
                   select *
                   from athena_events
                   where organization_id = $1
                     and athena_patient_id = $2
                     and ($3::uuid is null or id < $3) ",
                $narrowed,
                "  order by id desc
                   limit $4
                 ) a
                 cross join lateral (
                   select status from jobs where organization_id = $1 and id = a.job_id offset 0
                 ) j
                 left join lateral (
                   select link_status, patient_id from clinical_events where organization_id = $1 and id = a.id offset 0
                 ) e on true
                 order by a.id desc"
            )
        };
    }
    // Apart, so that each has the plan of its own index.
    let query = match (filter.kind, &filter.event_type) {
        (Some(_), _) => sqlx::query_as(list!("and kind = $5")),
        (None, Some(_)) => sqlx::query_as(list!("and kind = 'other' and lower(event_type) = lower($5)")),
        (None, None) => sqlx::query_as(list!("and $5::text is null")),
    };
    let narrow = filter.kind.map(str::to_owned).or_else(|| filter.event_type.clone());
    let query = query.bind(organization).bind(&filter.patient_id).bind(filter.before).bind(filter.limit).bind(narrow);
    Ok(query.fetch_all(connection).await?)
}

/// A time at which an event was captured.
#[derive(sqlx::FromRow)]
pub struct Sighting {
    /// The event.
    pub event_id: EventId,
    /// The instant in UTC, or the text as given if it is no time.
    pub captured_at: String,
    /// The job that took it.
    pub job_id: JobId,
    /// When that was received.
    pub created_at: OffsetDateTime,
}

/// When these events were captured, oldest first.
///
/// # Errors
/// A [`DbError`].
pub async fn sightings(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<Vec<Sighting>, DbError> {
    let query = sqlx::query_as(
        "select s.*
         from unnest($2::uuid[]) as k (event_id)
         cross join lateral (
           select event_id, captured_at, job_id, created_at
           from event_sightings
           where organization_id = $1
             and event_id = k.event_id
           order by created_at, captured_at
           limit 100
         ) s",
    );
    Ok(query.bind(organization).bind(events).fetch_all(connection).await?)
}

/// One summed count.
#[derive(Clone, sqlx::FromRow)]
pub struct Count {
    /// received, duplicate, sighting, job
    pub measure: String,
    /// The kind of event, or the job's status.
    pub name: String,
    /// Since ever.
    pub total: i64,
}

/// The counts since ever.
///
/// # Errors
/// A [`DbError`].
pub async fn totals(connection: &mut PgConnection, organization: OrganizationId) -> Result<Vec<Count>, DbError> {
    let query = sqlx::query_as(
        "select measure, name, sum(n)::bigint as total
         from athena_counts
         where organization_id = $1
         group by measure, name
         order by measure, name",
    );
    Ok(query.bind(organization).fetch_all(connection).await?)
}

/// What happened in one minute.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Minute {
    /// Its start.
    pub minute: OffsetDateTime,
    /// New events.
    pub received: i64,
    /// Repetitions.
    pub duplicates: i64,
    /// Known events captured at another time.
    pub sightings: i64,
    /// Jobs that ended well, with issues or without.
    pub processed: i64,
    /// Jobs that failed.
    pub failed: i64,
}

/// The last sixty minutes, the present one included, oldest first.
///
/// # Errors
/// A [`DbError`].
pub async fn last_hour(connection: &mut PgConnection, organization: OrganizationId) -> Result<Vec<Minute>, DbError> {
    let query = sqlx::query_as(
        "with counted as materialized (
           select minute, measure, name, sum(n)::bigint as n
           from athena_counts
           where organization_id = $1
             and minute > date_trunc('minute', chartgate_now()) - interval '60 minutes'
             and n > 0
           group by minute, measure, name
         )
         select m.minute,
                coalesce(sum(c.n) filter (where c.measure = 'received'), 0)::bigint as received,
                coalesce(sum(c.n) filter (where c.measure = 'duplicate'), 0)::bigint as duplicates,
                coalesce(sum(c.n) filter (where c.measure = 'sighting'), 0)::bigint as sightings,
                coalesce(sum(c.n) filter (where c.measure = 'job' and c.name in ('succeeded', 'succeeded_with_issues')), 0)::bigint as processed,
                coalesce(sum(c.n) filter (where c.measure = 'job' and c.name = 'failed'), 0)::bigint as failed
         from generate_series(date_trunc('minute', chartgate_now()) - interval '59 minutes',
                              date_trunc('minute', chartgate_now()), interval '1 minute') as m (minute)
         left join counted c on c.minute = m.minute
         group by m.minute
         order by m.minute",
    );
    Ok(query.bind(organization).fetch_all(connection).await?)
}

/// When the newest event was received, and for how many seconds the oldest one that is not at its end has waited.
///
/// # Errors
/// A [`DbError`].
pub async fn lag(
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> Result<(Option<OffsetDateTime>, Option<f64>), DbError> {
    let query = sqlx::query_as(
        "select (select max(received_at)
                 from (select received_at from athena_events where organization_id = $1 order by id desc limit 1) e),
                (select extract(epoch from chartgate_now() - min(enqueued_at))::double precision
                 from (select enqueued_at from queue where organization_id = $1 and workflow = 'athena-event' order by seq limit 1) q)",
    );
    Ok(query.bind(organization).fetch_one(connection).await?)
}

/// Fold counts together: those of a minute into one row, and those of minutes that nobody looks at any more into one row
/// of all time before. Sums do not change, whoever reads meanwhile.
///
/// # Errors
/// A [`DbError`].
pub async fn fold_counts(connection: &mut PgConnection) -> Result<(), DbError> {
    // The tenant's context: all of them.
    sqlx::query(
        "select set_config('app.organization', coalesce((select array_agg(id)::text from organizations), '{}'), true)",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "with gone as (
           delete from athena_counts
           where organization_id in (
             select organization_id
             from athena_counts
             group by organization_id
             -- Folding what is folded already is no use.
             having count(*) > count(distinct (minute, measure, name)) + 100
                 or min(minute) filter (where minute > '-infinity') < chartgate_now() - interval '3 hours')
           returning organization_id,
                     case when minute < chartgate_now() - interval '2 hours' then '-infinity'::timestamptz else minute end as minute,
                     measure, name, n
         )
         insert into athena_counts (organization_id, minute, measure, name, n)
         select organization_id, minute, measure, name, sum(n)
         from gone
         group by organization_id, minute, measure, name
         having sum(n) <> 0",
    )
    .execute(connection)
    .await?;
    Ok(())
}
