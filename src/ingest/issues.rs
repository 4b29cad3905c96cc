//! SQL on `issues`: the validation problems of a job's current round.

use super::fhir::issue::Issue;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::PgConnection;
use std::ops::RangeInclusive;

/// Put these issues in the place of the job's issues; the same again changes nothing.
///
/// # Errors
/// A [`DbError`].
pub async fn replace(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    issues: &[Issue],
) -> Result<(), DbError> {
    sqlx::query(
        "delete from issues
         where organization_id = $1
           and job_id = $2",
    )
    .bind(organization)
    .bind(job)
    .execute(&mut *connection)
    .await?;
    insert(connection, organization, job, 0, |_| 0, issues).await
}

/// Put these issues in the place of those of a chunk of a bulk file: chunk 0 are those of lines that are in none. `lines` are
/// the numbers that the chunk's lines or entries may have, so that only its issues are looked at.
///
/// # Errors
/// A [`DbError`].
pub async fn replace_chunk(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    chunk: i32,
    lines: RangeInclusive<i64>,
    issues: &[Issue],
) -> Result<(), DbError> {
    sqlx::query(
        "delete from issues
         where organization_id = $1
           and job_id = $2
           and position between $4 and $5
           and chunk = $3",
    )
    .bind(organization)
    .bind(job)
    .bind(chunk)
    .bind(lines.start())
    .bind(lines.end())
    .execute(&mut *connection)
    .await?;
    let position = |issue: &Issue| signed(issue.line).or(issue.entry.map(i64::from)).unwrap_or(*lines.start());
    insert(connection, organization, job, chunk, position, issues).await
}

fn signed(number: Option<u64>) -> Option<i64> {
    number.and_then(|number| i64::try_from(number).ok())
}

/// Insert the issues of a chunk (0: of none), each at its position.
async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    chunk: i32,
    position: impl Fn(&Issue) -> i64,
    issues: &[Issue],
) -> Result<(), DbError> {
    // A few megabytes of arguments at most.
    for (page, issues) in issues.chunks(5_000).enumerate() {
        sqlx::query(
            "insert into issues
               (organization_id, job_id, position, chunk, ordinal, severity, code, entry, line, expression, pointer,
                byte_offset, message)
             select $1, $2, i.position, $3, $4 + i.ordinal - 1, i.severity, i.code, i.entry, i.line, i.expression, i.pointer,
                    i.byte_offset, i.message
             from unnest($5::bigint[], $6::text[], $7::text[], $8::integer[], $9::bigint[], $10::text[], $11::text[],
                         $12::bigint[], $13::text[])
               with ordinality as i (position, severity, code, entry, line, expression, pointer, byte_offset, message, ordinal)",
        )
        .bind(organization)
        .bind(job)
        .bind(chunk)
        .bind(i64::try_from(page * 5_000).unwrap_or(i64::MAX))
        .bind(issues.iter().map(&position).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| issue.severity.as_str()).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| issue.code).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| issue.entry.and_then(|entry| i32::try_from(entry).ok())).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| signed(issue.line)).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| issue.expression.as_deref()).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| issue.pointer.as_deref()).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| signed(issue.byte_offset)).collect::<Vec<_>>())
        .bind(issues.iter().map(|issue| issue.message.as_str()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// A place among the issues of a job, in the order of the payload: the next page begins behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct IssuePlace {
    /// Line or entry of a bulk file, else 0.
    pub position: i64,
    /// Chunk of a bulk file, else 0.
    pub chunk: i32,
    /// Among the chunk's.
    pub ordinal: i32,
}

impl IssuePlace {
    /// Before the first issue.
    pub const START: Self = Self { position: -1, chunk: 0, ordinal: 0 };
}

impl std::fmt::Display for IssuePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.position, self.chunk, self.ordinal)
    }
}

impl std::str::FromStr for IssuePlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(());
        let place = Self {
            position: next()?.parse().map_err(|_| ())?,
            chunk: next()?.parse().map_err(|_| ())?,
            ordinal: next()?.parse().map_err(|_| ())?,
        };
        if parts.next().is_some() { Err(()) } else { Ok(place) }
    }
}

#[derive(sqlx::FromRow)]
struct PlacedIssue {
    #[sqlx(flatten)]
    place: IssuePlace,
    #[sqlx(flatten)]
    issue: StoredIssue,
}

/// An issue as stored, in the words of the API.
#[derive(Clone, serde::Serialize, sqlx::FromRow)]
pub struct StoredIssue {
    /// fatal, error, warning or information.
    pub severity: String,
    /// FHIR IssueType.
    pub code: String,
    /// Position in `Bundle.entry`.
    pub entry: Option<i32>,
    /// Line of an NDJSON file.
    pub line: Option<i64>,
    /// FHIRPath of the place.
    pub expression: Option<String>,
    /// JSON Pointer of the place.
    pub pointer: Option<String>,
    /// Offset in the exact bytes received.
    #[sqlx(rename = "byte_offset")]
    pub offset: Option<i64>,
    /// A fixed sentence.
    pub message: String,
}

impl StoredIssue {
    /// It kept its line from being ingested.
    #[must_use]
    pub fn rejects(&self) -> bool {
        self.severity == "error" || self.severity == "fatal"
    }
}

/// A page of the issues of a job's last validation, in the order of the payload, and where the next one begins.
///
/// # Errors
/// A [`DbError`].
pub async fn page(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    after: IssuePlace,
    limit: usize,
) -> Result<(Vec<StoredIssue>, Option<IssuePlace>), DbError> {
    let query = sqlx::query_as(
        "select position, chunk, ordinal, severity, code, entry, line, expression, pointer, byte_offset, message
         from issues
         where organization_id = $1
           and job_id = $2
           and (position, chunk, ordinal) > ($3, $4, $5)
         order by position, chunk, ordinal
         limit $6",
    );
    let rows: Vec<PlacedIssue> = query
        .bind(organization)
        .bind(job)
        .bind(after.position)
        .bind(after.chunk)
        .bind(after.ordinal)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let next = rows.last().filter(|_| rows.len() >= limit).map(|row| row.place);
    Ok((rows.into_iter().map(|row| row.issue).collect(), next))
}

/// How many issues of a job have the same severity and code.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct IssueCount {
    /// fatal, error, warning or information.
    pub severity: String,
    /// FHIR IssueType.
    pub code: String,
    /// So many of those that were counted.
    pub count: i64,
}

/// Issues of a job by severity and code, the gravest and most frequent first; the first `limit` issues are counted.
///
/// # Errors
/// A [`DbError`].
pub async fn counts(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    limit: i64,
) -> Result<Vec<IssueCount>, DbError> {
    Ok(sqlx::query_as(
        "select severity, code, count(*) count
         from (select severity, code
               from issues
               where organization_id = $1 and job_id = $2
               order by position, chunk, ordinal
               limit $3) i
         group by severity, code
         order by array_position(array['fatal', 'error', 'warning', 'information'], severity), count(*) desc, code",
    )
    .bind(organization)
    .bind(job)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}
