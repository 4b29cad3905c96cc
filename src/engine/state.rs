//! The states of jobs, steps and queue rows, and what may follow what. Pure; the SQL CHECK constraints and
//! `docs/state-machine.md` say the same, and a test compares the three.

use std::fmt;

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// All of them, in the order of their documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in SQL, JSON and docs.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The state of that word.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

states!(
    /// What a sender sees of a job.
    JobStatus {
        /// An upload URL was given out; the object has not come. Set by `upload-url`. Next: queued, expired, cancelled.
        AwaitingUpload = "awaiting_upload",
        /// Accepted and waiting for its first step, or blocked behind its lane. Set by intake and by a retry. Next: running, cancelled; or, when a retry is undone, the status before it.
        Queued = "queued",
        /// A worker holds its lease, or it is between two steps. Read from the queue row. Next: running, retrying, any terminal status.
        Running = "running",
        /// A step failed for now and waits for its next attempt, or its worker died. Read from the queue row. Next: running, cancelled.
        Retrying = "retrying",
        /// Every step succeeded. Set by the last step's commit. Terminal until a retry.
        Succeeded = "succeeded",
        /// As succeeded, with at least one issue of severity error or one rejected entry. Set by the last step's commit.
        SucceededWithIssues = "succeeded_with_issues",
        /// A step failed for good. Set after the `always` steps ran. Terminal until a retry opens the next round.
        Failed = "failed",
        /// Somebody cancelled it; committed steps stay. Terminal until a retry.
        Cancelled = "cancelled",
        /// The upload never came. Set 24 h after the URL's end; a late object revives it.
        Expired = "expired",
    }
);

impl JobStatus {
    /// No further step will run in this round.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::SucceededWithIssues | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// May this status be followed by that one?
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use JobStatus::{
            AwaitingUpload, Cancelled, Expired, Failed, Queued, Retrying, Running, Succeeded, SucceededWithIssues,
        };
        match self {
            AwaitingUpload => matches!(next, Queued | Expired | Cancelled),
            // The last three: a retry that is undone.
            Queued => matches!(next, Running | Cancelled | Failed | Succeeded | SucceededWithIssues),
            Running => matches!(next, Retrying | Queued | Succeeded | SucceededWithIssues | Failed | Cancelled),
            Retrying => matches!(next, Running | Failed | Cancelled),
            Succeeded | SucceededWithIssues | Failed | Cancelled | Expired => next == Queued,
        }
    }
}

states!(
    /// What a sender sees of a step.
    StepStatus {
        /// Not reached in this round.
        Pending = "pending",
        /// A worker runs it now.
        Running = "running",
        /// Failed for now; the next attempt has its time.
        Retrying = "retrying",
        /// Committed, with its effects.
        Succeeded = "succeeded",
        /// Failed for good in this round.
        Failed = "failed",
        /// Not run, because an earlier step failed for good.
        Skipped = "skipped",
    }
);

states!(
    /// The state of a live row in the queue.
    TaskState {
        /// May be claimed. Set by intake, promotion, end of backoff, release. Next: leased.
        Ready = "ready",
        /// As ready, but a worker died with it: it runs alone in its process. Set by the sweeper. Next: leased.
        Suspect = "suspect",
        /// Behind an earlier live row of its lane. Set by intake or a retry. Next: ready, or leased by hand-off.
        Blocked = "blocked",
        /// In backoff until `run_at`. Set by a failed attempt. Next: ready or suspect.
        Delayed = "delayed",
        /// A worker holds it until `lease_until`. Set by a claim. Next: leased (next step), delayed, ready (handed back), suspect (lease lost), waiting (fan-out), gone.
        Leased = "leased",
        /// A job's own row while its chunks are worked on. Set by a fan-out. Next, when no chunk is left: ready, or suspect if it had deaths; gone by a cancel.
        Waiting = "waiting",
    }
);

#[cfg(test)]
mod tests {
    use super::JobStatus;

    #[test]
    fn a_terminal_job_only_opens_another_round() {
        for status in JobStatus::ALL.iter().filter(|status| status.is_terminal()) {
            for next in JobStatus::ALL {
                assert_eq!(status.may_become(*next), *next == JobStatus::Queued, "{status} → {next}");
            }
        }
    }

    #[test]
    fn every_status_that_is_not_terminal_can_be_cancelled() {
        for status in JobStatus::ALL.iter().filter(|status| !status.is_terminal()) {
            assert!(status.may_become(JobStatus::Cancelled), "{status}");
        }
    }

    #[test]
    fn words_and_states_are_the_same_list() {
        for status in JobStatus::ALL {
            assert_eq!(JobStatus::parse(status.as_str()), Some(*status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(JobStatus::parse("done"), None);
    }
}
