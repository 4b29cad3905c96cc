//! SQL on `issues`: the validation problems of a job's current round.

use super::fhir::issue::Issue;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::PgConnection;

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
    if issues.is_empty() {
        return Ok(());
    }
    let signed = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    sqlx::query(
        "insert into issues
           (organization_id, job_id, ordinal, severity, code, entry, line, expression, pointer, byte_offset, message)
         select $1, $2, i.ordinal - 1, i.severity, i.code, i.entry, i.line, i.expression, i.pointer, i.byte_offset, i.message
         from unnest($3::text[], $4::text[], $5::integer[], $6::bigint[], $7::text[], $8::text[], $9::bigint[], $10::text[])
           with ordinality as i (severity, code, entry, line, expression, pointer, byte_offset, message, ordinal)",
    )
    .bind(organization)
    .bind(job)
    .bind(issues.iter().map(|issue| issue.severity.as_str()).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| issue.code).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| issue.entry.and_then(|entry| i32::try_from(entry).ok())).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| signed(issue.line)).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| issue.expression.as_deref()).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| issue.pointer.as_deref()).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| signed(issue.byte_offset)).collect::<Vec<_>>())
    .bind(issues.iter().map(|issue| issue.message.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// An issue as stored, in the words of the API.
#[derive(Debug, Clone, serde::Serialize, sqlx::FromRow)]
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

/// The issues of a job's last validation, in the order of the payload.
///
/// # Errors
/// A [`DbError`].
pub async fn of_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Vec<StoredIssue>, DbError> {
    let query = sqlx::query_as(
        "select severity, code, entry, line, expression, pointer, byte_offset, message
         from issues
         where organization_id = $1
           and job_id = $2
         order by ordinal",
    );
    Ok(query.bind(organization).bind(job).fetch_all(connection).await?)
}
