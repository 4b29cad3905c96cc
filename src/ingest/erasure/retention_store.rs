//! SQL of retention: which jobs are old enough, what of theirs goes, and what leaves with a job.

use super::objects_store::{self, Doom};
use super::store::{self, Decision};
use crate::config::RetentionConfig;
use crate::db::DbError;
use crate::ids::{ErasureId, JobId, OrganizationId};
use crate::ingest::linking::acts::By;
use crate::ingest::linking::erase::Counts;
use sqlx::PgConnection;

/// Days after which a job is looked at again of which only Patient resources were left that who is kept needs.
const SPARED_DAYS: u32 = 7;

/// An ended job that is old enough for something.
#[derive(sqlx::FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "columns of one look")]
pub struct OldJob {
    /// Its id.
    pub id: JobId,
    /// Its payload.
    pub payload_sha256: Option<Vec<u8>>,
    /// It was uploaded.
    pub is_upload: bool,
    /// What it brought is over its age, and something of it is there.
    pub findings_go: bool,
    /// Its payload's bytes are over their age.
    pub payload_goes: bool,
    /// It is over its age itself, and nothing of what it brought is there.
    pub goes: bool,
}

/// One look.
pub struct Look {
    /// Old jobs that no hold forbids to touch.
    pub jobs: Vec<OldJob>,
    /// The last id that was looked at; none: the round is over.
    pub last: Option<JobId>,
}

/// Take the organization's round, until the transaction ends: whether it is due, and where it goes on. Nothing, if another process has it.
pub async fn take_round(
    connection: &mut PgConnection,
    organization: OrganizationId,
    pause_seconds: f64,
) -> Result<Option<(bool, Option<JobId>)>, DbError> {
    sqlx::query("insert into retention_rounds (organization_id) values ($1) on conflict do nothing")
        .bind(organization)
        .execute(&mut *connection)
        .await?;
    let query = sqlx::query_as(
        "select after_job is not null or ended_at is null or ended_at < chartgate_now() - make_interval(secs => $2), after_job
         from retention_rounds
         where organization_id = $1
         for update skip locked",
    );
    Ok(query.bind(organization).bind(pause_seconds).fetch_optional(connection).await?)
}

/// The round goes on behind this job; none: it is over.
pub async fn set_round(
    connection: &mut PgConnection,
    organization: OrganizationId,
    after: Option<JobId>,
) -> Result<(), DbError> {
    sqlx::query(
        "update retention_rounds
         set after_job = $2, ended_at = case when $2::uuid is null then chartgate_now() else ended_at end
         where organization_id = $1",
    )
    .bind(organization)
    .bind(after)
    .execute(connection)
    .await?;
    Ok(())
}

/// The next jobs of a round, at most `limit` ids further.
pub async fn look(
    connection: &mut PgConnection,
    organization: OrganizationId,
    config: RetentionConfig,
    after: Option<JobId>,
    limit: i64,
) -> Result<Look, DbError> {
    let days = |days: Option<u32>| days.map(|days| i32::try_from(days).unwrap_or(i32::MAX));
    // Ids of jobs sort by time (UUIDv7: milliseconds in the first 48 bits): what is younger than the youngest age is not read.
    let query = sqlx::query_scalar(
        "select id
         from jobs
         where organization_id = $1
           and ($2::uuid is null or id > $2)
           and id < rpad(lpad(to_hex((extract(epoch from chartgate_now() - make_interval(days => $3)) * 1000)::bigint), 12, '0'), 32, '0')::uuid
         order by id
         limit $4",
    );
    let query = query.bind(organization).bind(after).bind(days(config.shortest())).bind(limit);
    let ids: Vec<JobId> = query.fetch_all(&mut *connection).await?;
    let last = ids.last().copied().filter(|_| i64::try_from(ids.len()) == Ok(limit));
    let sql = format!(
        "select j.id, j.payload_sha256, j.source = 'upload' as is_upload,
                coalesce(j.finished_at < n.now - make_interval(days => $3), false) and b.is_there as findings_go,
                coalesce(j.finished_at < n.now - make_interval(days => $4), false) as payload_goes,
                coalesce(j.finished_at < n.now - make_interval(days => $5), false)
                  and not b.is_kept
                  and not exists (select from payloads p
                                  where p.organization_id = $1 and p.sha256 = j.payload_sha256
                                    and p.purged_at is null and p.expired_at is null)
                  -- A message about it, or that it delivers, has an age of its own.
                  and not exists (select from callback_messages m
                                  where m.organization_id = $1 and (m.job_id = j.id or m.delivery_id = j.id)) as goes
         from jobs j
         cross join (select chartgate_now() as now) n
         cross join lateral (
           -- Not each event, of which a file may have brought millions: an erasure walks through them page by page, and says so.
           select a.is_there or (c.is_there and not exists (
                    select
                    from retention_spared s
                    where s.organization_id = $1
                      and s.job_id = j.id
                      and s.looked_at > n.now - make_interval(days => {SPARED_DAYS})
                      and s.looked_at > j.finished_at)) as is_there,
                  a.is_there or c.is_there as is_kept
           from (select exists (
                   select
                   from idempotency_keys k
                   join athena_events a on a.organization_id = $1 and a.idempotency_sha256 = k.fingerprint
                   where k.organization_id = $1
                     and k.job_id = j.id
                     and (a.job_id = j.id
                          or exists (select from event_sightings s
                                     where s.organization_id = $1 and s.event_id = a.id and s.job_id = j.id))) as is_there) a
           cross join lateral (
             -- The first by the index: for `exists` all events and carriers of the organization may be read.
             select (select e.id from clinical_events e where e.organization_id = $1 and e.job_id = j.id order by e.id limit 1) is not null
                 or (select c.event_id from event_carriers c where c.organization_id = $1 and c.job_id = j.id
                     order by c.event_id limit 1) is not null as is_there) c
         ) b
         where j.organization_id = $1
           and j.id = any ($2)
           and j.finished_at is not null
         order by j.id
         -- Who opens its next round waits, or was first.
         for update of j skip locked"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(&ids);
    let query = query.bind(days(config.findings_days)).bind(days(config.payloads_days)).bind(days(config.jobs_days));
    Ok(Look { jobs: query.fetch_all(connection).await?, last })
}

/// How much of a batch goes.
pub struct Gone {
    /// Payloads whose bytes went.
    pub payloads: usize,
    /// Jobs that went.
    pub jobs: usize,
    /// Jobs of which what they brought goes.
    pub findings: usize,
}

/// Write down what goes of these jobs, and let go what needs no batches: the payloads' bytes and the jobs themselves. Nothing, if nothing
/// goes.
pub async fn begin(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    config: RetentionConfig,
    jobs: &[OldJob],
    by: &By,
) -> Result<Option<Gone>, DbError> {
    let all_ids =
        |of: fn(&OldJob) -> bool| -> Vec<JobId> { jobs.iter().filter(|job| of(job)).map(|job| job.id).collect() };
    let findings = all_ids(|job| job.findings_go);
    let gone = all_ids(|job| job.goes);
    let hashes: Vec<&[u8]> =
        jobs.iter().filter(|job| job.payload_goes).filter_map(|job| job.payload_sha256.as_deref()).collect();
    let payloads = expire_payloads(connection, organization, config, &hashes).await?;
    if payloads.is_empty() && findings.is_empty() && gone.is_empty() {
        return Ok(None);
    }
    let decision = Decision {
        kind: "retention",
        payload: None,
        patient: None,
        payloads: &payloads,
        jobs: &findings,
        persons: &[],
    };
    store::begin(connection, organization, id, &decision, by).await?;
    spare_later(connection, organization, &findings).await?;
    let of_expired = |job: &&OldJob| job.payload_sha256.as_ref().is_some_and(|sha256| payloads.contains(sha256));
    let uploads: Vec<JobId> =
        jobs.iter().filter(|job| job.is_upload && (job.goes || of_expired(job))).map(|job| job.id).collect();
    let outcomes = all_ids(|job| job.goes && job.is_upload);
    objects_store::doom(
        connection,
        organization,
        id,
        Doom { payloads: &payloads, uploads: &uploads, outcomes: &outcomes, names: &outcomes, again: false },
    )
    .await?;
    delete_jobs(connection, organization, config, &gone).await?;
    let counts = [("expired_payloads", payloads.len()), ("jobs", gone.len())].into_iter().filter(|(_, rows)| *rows > 0);
    let counts: Counts = counts.map(|(table, rows)| (table.to_owned(), rows as u64)).collect();
    store::set_counts(connection, organization, id, &counts).await?;
    Ok(Some(Gone { payloads: payloads.len(), jobs: gone.len(), findings: findings.len() }))
}

/// What this erasure leaves of these jobs is not looked at again for a while.
async fn spare_later(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
) -> Result<(), DbError> {
    sqlx::query(
        "insert into retention_spared (organization_id, job_id, looked_at)
         select $1, id, chartgate_now()
         from unnest($2::uuid[]) as k (id)
         on conflict (organization_id, job_id) do update
         set looked_at = excluded.looked_at",
    )
    .bind(organization)
    .bind(jobs)
    .execute(connection)
    .await?;
    Ok(())
}

/// Take the bytes of payloads away that nobody sent for so long, and that no job at work needs: which.
async fn expire_payloads(
    connection: &mut PgConnection,
    organization: OrganizationId,
    config: RetentionConfig,
    hashes: &[&[u8]],
) -> Result<Vec<Vec<u8>>, DbError> {
    let Some(days) = config.payloads_days.filter(|_| !hashes.is_empty()) else { return Ok(Vec::new()) };
    let query = sqlx::query_scalar(
        "with old as (
           select p.sha256
           from payloads p
           where p.organization_id = $1
             and p.sha256 = any ($2)
             and p.purged_at is null
             and p.expired_at is null
             and coalesce(p.last_received_at, p.created_at) < chartgate_now() - make_interval(days => $3)
           order by p.sha256
           for update
         ), busy as (
           select j.payload_sha256 as sha256
           from queue q
           join jobs j on j.organization_id = q.organization_id and j.id = q.job_id
           where q.organization_id = $1
             and j.payload_sha256 = any ($2)
         )
         update payloads p
         set body = null, storage_key = null, stored_at = null, expired_at = chartgate_now()
         from old
         where p.organization_id = $1
           and p.sha256 = old.sha256
           and p.sha256 not in (select sha256 from busy)
         returning p.sha256",
    );
    let query = query.bind(organization).bind(hashes).bind(i32::try_from(days).unwrap_or(i32::MAX));
    Ok(query.fetch_all(connection).await?)
}

/// What a job leaves behind; `$1` organization, `$2` jobs.
const OF_JOBS: [&str; 12] = [
    "delete from job_traces where organization_id = $1 and job_id = any ($2)",
    "delete from retention_spared where organization_id = $1 and job_id = any ($2)",
    "delete from job_steps where organization_id = $1 and job_id = any ($2)",
    "delete from step_attempts where organization_id = $1 and job_id = any ($2)",
    "delete from chunk_steps where organization_id = $1 and job_id = any ($2)",
    "delete from chunks where organization_id = $1 and job_id = any ($2)",
    "delete from issues where organization_id = $1 and job_id = any ($2)",
    "delete from bulk_plans where organization_id = $1 and job_id = any ($2)",
    "delete from chunk_texts where organization_id = $1 and job_id = any ($2)",
    "delete from uploads where organization_id = $1 and job_id = any ($2)",
    "delete from idempotency_keys where organization_id = $1 and job_id = any ($2)",
    "delete from jobs where organization_id = $1 and id = any ($2)",
];

/// Jobs with all that is said of them, and the rows of payloads that only they may have had; tombstones of erased payloads stay.
async fn delete_jobs(
    connection: &mut PgConnection,
    organization: OrganizationId,
    config: RetentionConfig,
    jobs: &[JobId],
) -> Result<(), DbError> {
    let Some(days) = config.jobs_days.filter(|_| !jobs.is_empty()) else { return Ok(()) };
    sqlx::query(
        "delete from payloads p
         using jobs j
         where j.organization_id = $1
           and j.id = any ($2)
           and p.organization_id = $1
           and p.sha256 = j.payload_sha256
           and p.expired_at is not null
           and coalesce(p.last_received_at, p.created_at) < chartgate_now() - make_interval(days => $3)",
    )
    .bind(organization)
    .bind(jobs)
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .execute(&mut *connection)
    .await?;
    for sql in OF_JOBS {
        sqlx::query(sql).bind(organization).bind(jobs).execute(&mut *connection).await?;
    }
    Ok(())
}

/// What made the same again a repetition, of jobs whose events went: it is taken as new now. A key stays while its job is at work, or
/// something of it is there.
pub async fn free(connection: &mut PgConnection, organization: OrganizationId, jobs: &[JobId]) -> Result<(), DbError> {
    // Whoever looks whether a file was ingested before asks for its plan.
    sqlx::query(
        "delete from bulk_plans b
         using jobs j
         where b.organization_id = $1
           and b.job_id = any ($2)
           and j.organization_id = $1
           and j.id = b.job_id
           and j.finished_at is not null",
    )
    .bind(organization)
    .bind(jobs)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "delete from idempotency_keys k
         where k.organization_id = $1
           and k.job_id = any ($2)
           and not exists (select from clinical_events e where e.organization_id = $1 and e.job_id = k.job_id)
           and not exists (select from athena_events a where a.organization_id = $1 and a.idempotency_sha256 = k.fingerprint)
           and not exists (select from jobs j where j.organization_id = $1 and j.id = k.job_id and j.finished_at is null)",
    )
    .bind(organization)
    .bind(jobs)
    .execute(connection)
    .await?;
    Ok(())
}
