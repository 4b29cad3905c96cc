//! A job's history as a stream that can be left and taken up again: nothing is missed, nothing is told twice.
//!
//! A [`Position`] says exactly what was told. Times would not do: a transaction that commits late has an early one. Of each
//! source (ended steps, attempts, acts) it holds a place in the order of that source's commits, which the locks of a job's
//! queue row and row make one order. Chunks of a bulk upload commit side by side; their attempts are in the timeline, and here
//! only the count of those that are done.

use super::definition::WorkflowDefinition;
use super::events_store::{LeasedAttempt, NumberedRecord};
use super::jobs::{JobView, StepRow};
use super::timeline::{TimelineEntry, timeline};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// What was told of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The round of the last step that was told; 0: nothing was, not even that the job was accepted.
    pub round: i32,
    /// The steps of that round, one bit each.
    pub steps: u128,
    /// Lease of the last attempt.
    pub epoch: i64,
    /// And its step.
    pub step: i16,
    /// Number of the last act's record.
    pub record: i64,
    /// What the status was, as a digest.
    pub state: u32,
}

impl Position {
    /// Nothing was told.
    pub const START: Self = Self { round: 0, steps: 0, epoch: 0, step: -1, record: 0, state: 0 };

    /// Steps of the round that were told.
    #[must_use]
    pub fn told_steps(&self) -> Vec<i16> {
        (0..128).filter(|step| self.steps >> step & 1 == 1).collect()
    }

    fn told_step(&mut self, step: &StepRow) {
        if step.round > self.round {
            (self.round, self.steps) = (step.round, 0);
        }
        self.steps |= u32::try_from(step.step).ok().and_then(|bit| 1u128.checked_shl(bit)).unwrap_or(0);
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, steps, epoch, step, record, state } = self;
        write!(f, "{round}.{steps:x}.{epoch}.{step}.{record}.{state:08x}")
    }
}

/// Not a position that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an event")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let parts: Vec<&str> = text.split('.').collect();
        let &[round, steps, epoch, step, record, state] = parts.as_slice() else { return Err(NoPosition) };
        let position = Self {
            round: round.parse().map_err(|_| NoPosition)?,
            steps: u128::from_str_radix(steps, 16).map_err(|_| NoPosition)?,
            epoch: epoch.parse().map_err(|_| NoPosition)?,
            step: step.parse().map_err(|_| NoPosition)?,
            record: record.parse().map_err(|_| NoPosition)?,
            state: u32::from_str_radix(state, 16).map_err(|_| NoPosition)?,
        };
        // Only as it is printed: no signs or zeros in front.
        if position.to_string() == text && position.round >= 0 { Ok(position) } else { Err(NoPosition) }
    }
}

/// What is new, source by source, each in the order of its commits.
#[derive(Debug, Default)]
pub struct News {
    /// Ended steps.
    pub steps: VecDeque<StepRow>,
    /// Attempts.
    pub attempts: VecDeque<LeasedAttempt>,
    /// Acts.
    pub records: VecDeque<NumberedRecord>,
}

impl News {
    /// Nothing is new.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.attempts.is_empty() && self.records.is_empty()
    }

    /// The events, each with the position behind it: by time, but never against the order of their source.
    #[must_use]
    pub fn told(
        mut self,
        job: &JobView,
        from: &Position,
        definition: Option<&WorkflowDefinition>,
    ) -> Vec<(Position, TimelineEntry)> {
        let mut position = from.clone();
        let mut events = Vec::with_capacity(self.steps.len() + self.attempts.len() + self.records.len() + 1);
        if position.round == 0 {
            position.round = 1;
            events.push((position.clone(), TimelineEntry::accepted(job.created_at, job.submitted_by.clone())));
        }
        loop {
            let heads = [
                self.attempts.front().map(|one| one.attempt.finished_at),
                self.steps.front().map(|one| one.finished_at),
                self.records.front().map(|one| one.record.at),
            ];
            // Of the same instant: the attempt, the step that it ended, what that led to.
            let first = heads.iter().enumerate().filter_map(|(source, at)| Some(((*at)?, source))).min();
            let told = match first {
                None => return events,
                Some((_, 0)) => self.attempts.pop_front().map(|one| {
                    (position.epoch, position.step) = (one.lease_epoch, one.attempt.step);
                    timeline(&[], &[one.attempt], &[], definition)
                }),
                Some((_, 1)) => self.steps.pop_front().map(|one| {
                    position.told_step(&one);
                    timeline(&[one], &[], &[], definition)
                }),
                Some(_) => self.records.pop_front().map(|one| {
                    position.record = one.id;
                    timeline(&[], &[], &[one.record], definition)
                }),
            };
            events.extend(told.into_iter().flatten().map(|entry| (position.clone(), entry)));
        }
    }
}

/// What a status event says, and its digest: the same status is told once.
#[must_use]
pub fn status_of(job: &JobView) -> (u32, serde_json::Value) {
    let status = serde_json::json!({
        "jobId": job.job_id,
        "status": job.status,
        "round": job.round,
        "currentStep": job.current_step,
        "progress": { "done": job.progress.done, "total": job.progress.total, "unit": job.progress.unit },
        "error": job.error,
    });
    let digest = Sha256::digest(status.to_string());
    (u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) | 1, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_it_was_printed() {
        let position = Position { round: 3, steps: 0b1101, epoch: 9_000_000_000, step: 2, record: 77, state: 0xab };
        assert_eq!(position.to_string(), "3.d.9000000000.2.77.000000ab");
        for position in [position, Position::START, Position { steps: u128::MAX, ..Position::START }] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for bad in [
            "",
            "x",
            "1.2.3",
            "-1.0.0.0.0.00000000",
            "+1.0.0.0.0.00000000",
            "01.0.0.0.0.00000000",
            "1.0.0.0.0.0",
            "1.0.0.0.0.00000000.1",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(NoPosition), "{bad}");
        }
    }

    #[test]
    fn a_round_forgets_the_steps_of_the_one_before() {
        let step = |round, step| StepRow {
            round,
            step,
            name: "s".to_owned(),
            status: "succeeded".to_owned(),
            attempts: 1,
            started_at: None,
            finished_at: time::OffsetDateTime::UNIX_EPOCH,
            error_code: None,
            error_class: None,
            error_message: None,
            output: None,
        };
        let mut position = Position::START;
        for (round, number, told) in [(1, 0, vec![0]), (1, 3, vec![0, 3]), (1, 1, vec![0, 1, 3]), (2, 1, vec![1])] {
            position.told_step(&step(round, number));
            assert_eq!((position.round, position.told_steps()), (round, told));
        }
    }
}
