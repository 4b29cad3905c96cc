//! Lanes that stand: which job holds one up, why, and how many wait behind it.

use super::catalog::Catalog;
use super::lanes_store::{self, COUNTED_MAX, LaneKey, LaneRow};
use crate::db::{Db, DbError, Scope};
use crate::ids::{JobId, OrganizationId, WorkerId};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Lanes of one page, at most.
pub const PAGE_MAX: i64 = 200;

/// The job that a lane waits for.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaneHead {
    /// `job_…`
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// ready, suspect, delayed, leased or waiting (docs/state-machine.md).
    pub state: String,
    /// The step that it is at.
    pub step: Option<String>,
    /// Attempts at that step.
    pub attempts: i16,
    /// Workers that died with it.
    pub deaths: i16,
    /// When its round entered the queue.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Its next attempt, while it is in backoff.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// The worker that runs it.
    #[schema(value_type = Option<String>)]
    pub worker_id: Option<WorkerId>,
    /// Its lease ends then, unless it is renewed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_until: Option<OffsetDateTime>,
}

/// A lane in which jobs wait behind another one.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedLane {
    /// `org_…`
    #[schema(value_type = String)]
    pub organization_id: OrganizationId,
    /// Its name.
    pub organization: String,
    /// The lane, as a number in hexadecimal; it tells nothing of whom it is about.
    pub lane: String,
    /// All its jobs are of this workflow.
    pub workflow: String,
    /// Jobs behind the head; 1000 if there are more.
    pub waiting: i64,
    /// There are more than are counted.
    pub waiting_more: bool,
    /// The first of them.
    #[schema(value_type = String)]
    pub first_job_id: JobId,
    /// And since when it is in the queue.
    #[serde(with = "time::serde::rfc3339")]
    pub waiting_since: OffsetDateTime,
    /// What they wait for; null in the moment in which the lane is handed on.
    pub head: Option<LaneHead>,
    /// Why, in a sentence.
    pub why: String,
}

impl BlockedLane {
    /// The page's cursor behind this lane.
    #[must_use]
    pub fn cursor(&self) -> String {
        format!("{}.{}", self.organization_id, self.lane)
    }

    fn of(row: LaneRow, step: Option<String>) -> Self {
        let why = why(&row, step.as_deref());
        let head = match (row.head_job, row.head_state, row.head_since) {
            (Some(job_id), Some(state), Some(since)) => Some(LaneHead {
                job_id,
                state,
                step,
                attempts: row.head_attempts.unwrap_or_default(),
                deaths: row.head_deaths.unwrap_or_default(),
                since,
                next_attempt_at: row.head_run_at,
                worker_id: row.head_worker,
                lease_until: row.head_lease_until,
            }),
            _ => None,
        };
        Self {
            organization_id: row.organization_id,
            organization: row.organization,
            lane: format!("{:016x}", row.lane),
            workflow: row.workflow,
            waiting: row.waiting.min(COUNTED_MAX),
            waiting_more: row.waiting > COUNTED_MAX,
            first_job_id: row.first_job,
            waiting_since: row.first_since,
            head,
            why,
        }
    }
}

/// Why a lane stands, in a sentence.
fn why(row: &LaneRow, step: Option<&str>) -> String {
    let step = step.unwrap_or("its step");
    let attempts = row.head_attempts.unwrap_or_default();
    match row.head_state.as_deref() {
        _ if row.is_paused && row.head_state.as_deref() != Some("leased") => "The organization is paused.".to_owned(),
        Some("ready") => "Its first job waits for a free worker.".to_owned(),
        Some("suspect") => format!("A worker died while it ran {step}; the job is tried again by itself."),
        Some("delayed") => {
            format!("{step} failed {attempts} time(s) and waits for its next attempt; the lane waits with it.")
        }
        Some("leased") => format!("Its first job runs {step} now."),
        Some("waiting") => "The chunks of its first job are being worked on.".to_owned(),
        _ => "The lane is being handed to its next job.".to_owned(),
    }
}

/// A cursor that was given out.
///
/// # Errors
/// None of its own kind: what is no cursor is `None`.
#[must_use]
pub fn parse_cursor(text: &str) -> Option<LaneKey> {
    let (organization, lane) = text.split_once('.')?;
    // As it was printed: the bits of the signed number.
    let is_hex = lane.len() == 16 && lane.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lane = u64::from_str_radix(lane, 16).ok().filter(|_| is_hex)?;
    Some((organization.parse().ok()?, lane.cast_signed()))
}

/// A page of lanes in which jobs wait, and the cursor of the next page; of one organization, or of all.
///
/// # Errors
/// [`DbError`].
pub async fn blocked(
    db: &Db,
    catalog: &Catalog,
    organization: Option<OrganizationId>,
    after: Option<LaneKey>,
    limit: i64,
) -> Result<(Vec<BlockedLane>, Option<String>), DbError> {
    let limit = limit.clamp(1, PAGE_MAX);
    let mut rows = db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            // One more than the page, to know whether there is another.
            Box::pin(lanes_store::blocked_lanes(connection, organization, after, limit + 1))
        })
        .await?;
    let more = i64::try_from(rows.len()).unwrap_or(0) > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut lanes = Vec::with_capacity(rows.len());
    for row in rows {
        let definition = match row.head_version {
            Some(version) => catalog.resolve(db, &row.workflow, version).await.ok(),
            None => None,
        };
        let step = row.head_step.and_then(|step| usize::try_from(step).ok());
        let name = definition.zip(step).and_then(|(definition, step)| Some(definition.steps.get(step)?.name.clone()));
        lanes.push(BlockedLane::of(row, name));
    }
    let next = lanes.last().filter(|_| more).map(BlockedLane::cursor);
    Ok((lanes, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_it_was_given_out() {
        let organization = OrganizationId::new();
        for lane in [0, 1, -1, i64::MIN, i64::MAX] {
            assert_eq!(parse_cursor(&format!("{organization}.{lane:016x}")), Some((organization, lane)));
        }
        for bad in [
            "",
            "x",
            "org_1.00",
            ".0000000000000000",
            &format!("{organization}.1"),
            &format!("{organization}.+000000000000001"),
        ] {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }
}
