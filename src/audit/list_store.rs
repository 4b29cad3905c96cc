//! SQL that looks records up: pages for administrators, newest first.

use super::record::StoredRecord;
use super::store::COLUMNS;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, PatientId};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Records that one page looks at, at most: a filter that matches little must not read the whole table at once.
pub const WINDOW: i64 = 100_000;

/// Which records.
#[derive(Debug, Clone, Default)]
pub struct RecordFilter {
    /// Who acted.
    pub actor: Option<String>,
    /// What happened.
    pub event: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
    /// Whom it concerned.
    pub patient: Option<PatientId>,
    /// Which job.
    pub job: Option<JobId>,
    /// Which other resource.
    pub resource: Option<String>,
    /// Which request.
    pub request: Option<String>,
    /// Written then or later.
    pub after: Option<OffsetDateTime>,
    /// Written before.
    pub before: Option<OffsetDateTime>,
}

/// Found records, and where to go on; none: there are no more.
pub type Found = (Vec<StoredRecord>, Option<i64>);

/// Organizations that have records: all, and the platform itself.
pub async fn organizations(connection: &mut PgConnection) -> Result<Vec<OrganizationId>, DbError> {
    let mut all: Vec<OrganizationId> = sqlx::query_scalar("select id from organizations").fetch_all(connection).await?;
    all.push(OrganizationId::PLATFORM);
    Ok(all)
}

/// At most `limit` records of these organizations with numbers below `below`, newest first. It looks at [`WINDOW`] numbers
/// at most: a page may hold fewer than the limit, or none, and still name a place to go on from.
pub async fn page(
    connection: &mut PgConnection,
    organizations: &[OrganizationId],
    filter: &RecordFilter,
    below: Option<i64>,
    limit: i64,
) -> Result<Found, DbError> {
    let mut below = match below {
        Some(below) => below,
        None => newest(connection).await? + 1,
    };
    let mut records = Vec::new();
    // Small at first: what is looked for is mostly new.
    let (mut reach, mut looked) = (1_000, 0);
    loop {
        let from = match organizations {
            [one] => reach_down(connection, *one, below, reach).await?,
            _ => Some(below.saturating_sub(reach)).filter(|from| *from > 1),
        };
        let wanted = limit - i64::try_from(records.len()).unwrap_or(limit);
        records.extend(between(connection, organizations, filter, (from.unwrap_or(0), below), wanted).await?);
        looked += reach;
        let is_full = i64::try_from(records.len()).unwrap_or(limit) >= limit;
        if is_full {
            let next = records.last().map(|record: &StoredRecord| record.id);
            return Ok((records, next));
        }
        let Some(from) = from else { return Ok((records, None)) };
        if looked >= WINDOW {
            return Ok((records, Some(from)));
        }
        (below, reach) = (from, (reach * 10).min(WINDOW - looked));
    }
}

/// The highest number that a record was given.
async fn newest(connection: &mut PgConnection) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select last_value from audit_records_id_seq").fetch_one(connection).await?)
}

/// The number of the record that lies so many records of the organization below; none if there are not as many.
async fn reach_down(
    connection: &mut PgConnection,
    organization: OrganizationId,
    below: i64,
    records: i64,
) -> Result<Option<i64>, DbError> {
    let select =
        "select id from audit_records where organization_id = $1 and id < $2 order by id desc offset $3 limit 1";
    let row = sqlx::query_scalar(select).bind(organization).bind(below).bind(records - 1);
    Ok(row.fetch_optional(connection).await?)
}

async fn between(
    connection: &mut PgConnection,
    organizations: &[OrganizationId],
    filter: &RecordFilter,
    (from, below): (i64, i64),
    limit: i64,
) -> Result<Vec<StoredRecord>, DbError> {
    let select = format!(
        "select {COLUMNS}
         from audit_records
         where organization_id = any ($1) and id >= $2 and id < $3
           and ($4::text is null or actor = $4)
           and ($5::text is null or event = $5)
           and ($6::text is null or outcome = $6)
           and ($7::uuid is null or patient_id = $7)
           and ($8::uuid is null or job_id = $8)
           and ($9::text is null or resource = $9)
           and ($10::text is null or request_id = $10)
           and ($11::timestamptz is null or at >= $11)
           and ($12::timestamptz is null or at < $12)
         order by id desc
         limit $13"
    );
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(select))
        .bind(organizations)
        .bind(from)
        .bind(below)
        .bind(&filter.actor)
        .bind(&filter.event)
        .bind(&filter.outcome)
        .bind(filter.patient)
        .bind(filter.job)
        .bind(&filter.resource)
        .bind(&filter.request)
        .bind(filter.after)
        .bind(filter.before)
        .bind(limit);
    Ok(rows.fetch_all(connection).await?)
}

/// Records of an organization with numbers above that one, oldest first: an export of its own.
pub async fn records_above(
    connection: &mut PgConnection,
    organization: OrganizationId,
    above: i64,
    limit: i64,
) -> Result<Vec<StoredRecord>, DbError> {
    let select =
        format!("select {COLUMNS} from audit_records where organization_id = $1 and id > $2 order by id limit $3");
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(select)).bind(organization).bind(above).bind(limit);
    Ok(rows.fetch_all(connection).await?)
}
