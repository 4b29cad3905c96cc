//! What a step's code looks like: a [`StepHandler`] prepares outside any transaction and hands back a [`StepOutcome`]
//! whose [`Effect`] the executor runs inside the step's one fenced transaction.
//!
//! A handler may run more than once for the same step (a crash, a lost lease, an administrator's retry), and its effect
//! may be tried again after a conflict. What it writes through the transaction happens once; what it writes elsewhere
//! (S3) must have a name that depends on the content only.

use crate::ids::{JobId, OrganizationId};
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use sqlx::PgConnection;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Small facts of a step for its status: counts, codes, ids. Never a clinical value.
pub type Facts = Map<String, Value>;

/// Who must act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ErrorClass {
    /// Nobody: a dependency is away; we wait and retry with backoff until the step's budget is spent.
    Transient,
    /// The sender: the data are bad. No retry; the issues say exactly what.
    Sender,
    /// We: a bug or a wrong configuration. Parked at once.
    Ours,
}

impl ErrorClass {
    /// The word in SQL, JSON and docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Sender => "sender",
            Self::Ours => "ours",
        }
    }
}

/// Why a step failed. `code` is stable and has a page in `docs/errors/`; `message` is a fixed sentence without any
/// clinical value, since it is stored and shown; of the cause the log gets what [`StepError::cause`] says.
#[derive(thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// Who must act.
    pub class: ErrorClass,
    /// Stable code, `snake_case`.
    pub code: &'static str,
    /// A fixed sentence.
    pub message: String,
    /// A dependency's `Retry-After`; the next attempt comes no sooner.
    pub retry_after: Option<Duration>,
    /// See [`StepError::put_off`].
    pub put_off: Option<Duration>,
    /// The cause; see [`StepError::cause`].
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StepError {
    /// An error of the given class.
    pub fn new(class: ErrorClass, code: &'static str, message: impl Into<String>) -> Self {
        Self { class, code, message: message.into(), retry_after: None, put_off: None, source: None }
    }

    /// Nothing was attempted, because something of this process's is in use: the step comes again after exactly so long, and
    /// this was no attempt. Once the workflow's deadline has passed, it fails with that code.
    pub fn put_off(code: &'static str, message: impl Into<String>, after: Duration) -> Self {
        Self { put_off: Some(after), ..Self::transient(code, message) }
    }

    /// A dependency is away: wait and retry.
    pub fn transient(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient, code, message)
    }

    /// The data are bad: no retry.
    pub fn sender(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Sender, code, message)
    }

    /// A bug or a wrong configuration: parked at once.
    pub fn ours(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Ours, code, message)
    }

    /// The cause in words that hold no values, for the log: errors of the database and of object storage in their codes, of
    /// input and output the kind. Others may quote what they could not read, so that they are only said to be there.
    #[must_use]
    pub fn cause(&self) -> String {
        let Some(source) = self.source.as_deref() else { return String::new() };
        if let Some(error) = source.downcast_ref::<crate::db::DbError>() {
            return format!("{error:?}");
        }
        if let Some(error) = source.downcast_ref::<crate::objects::ObjectError>() {
            return format!("{error:?}");
        }
        source.downcast_ref::<std::io::Error>().map_or_else(|| "other".to_owned(), |error| error.kind().to_string())
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}

/// The database rows of a step: run inside the step's fenced transaction, under the job's organization, after the
/// fence held. `Fn`, because a conflict (serialization, deadlock, a racing unique key) makes the executor run it again
/// in a fresh transaction. What it returns is merged into the step's output.
pub type Effect = Arc<dyn for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Facts, StepError>> + Send + Sync>;

/// What a step that succeeded hands back.
#[derive(Clone, Default)]
pub struct StepOutcome {
    /// Small facts for the step's status.
    pub output: Facts,
    /// Rows to write in the step's transaction; a step without any is committed in a group with others.
    pub effect: Option<Effect>,
}

impl StepOutcome {
    /// Succeeded with these facts and no rows of its own.
    #[must_use]
    pub fn with_output(output: Facts) -> Self {
        Self { output, effect: None }
    }

    /// The same outcome with rows to write in the step's transaction.
    #[must_use]
    pub fn with_effect<F>(mut self, effect: F) -> Self
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Facts, StepError>> + Send + Sync + 'static,
    {
        self.effect = Some(Arc::new(effect));
        self
    }
}

/// Reserved keys of the LAST step's output, which the engine reads when it closes the job:
/// `with_issues: bool` → `succeeded_with_issues`; `result: object` → the job's result. Both are taken out of the step's
/// own output.
pub mod closing {
    /// `true` closes the job as `succeeded_with_issues`.
    pub const WITH_ISSUES: &str = "with_issues";
    /// The job's result object.
    pub const RESULT: &str = "result";
}

/// The one attempt that a handler runs for.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// The job's organization: the context of every unit of work of this step.
    pub organization: OrganizationId,
    /// The job.
    pub job: JobId,
    /// Its position in the order of acceptance.
    pub seq: i64,
    /// 1 from acceptance; +1 by each retry after a terminal status.
    pub round: i32,
    /// The step's name in the workflow file.
    pub step: String,
    /// 1 for the first attempt of this step in this round.
    pub attempt: u16,
    /// An earlier step of this round failed for good (only `run = "always"` steps see `true`).
    pub failed_before: bool,
    /// `[step.params]` of the workflow file.
    pub params: Arc<toml::Table>,
    /// Of a step with `each = "chunk"`: the chunk's number, from 1; else, and in `open` and `join`, 0: the job itself.
    pub chunk: i32,
    /// What the step before left in memory, if it ran here and under the same lease.
    pub memo: Memo,
}

/// What one step leaves in memory for the next one under the same lease: a shortcut, never the only way. After a crash, a
/// failure or a hand-over there is nothing, and the next step finds out by itself.
#[derive(Clone, Default)]
pub struct Memo(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may say what a payload says.
        f.write_str("Memo")
    }
}

impl Memo {
    /// Leave it for the next step, in place of what was left before.
    pub fn put<T: Any + Send>(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(value));
    }

    /// Take it out, if it is of this type; whatever was there is gone.
    #[must_use]
    pub fn take<T: Any>(&self) -> Option<T> {
        let value = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        value.downcast().ok().map(|value| *value)
    }
}

/// The code behind a step. Registered by name; the name is part of the durable contract of workflow files.
#[async_trait::async_trait]
pub trait StepHandler: Send + Sync + 'static {
    /// Prepare one attempt: read, parse, compute, put to S3. No open transaction may be held across network work.
    /// With `each = "chunk"`: of one chunk.
    ///
    /// # Errors
    /// A [`StepError`], classed by who must act.
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError>;

    /// Of the first of consecutive steps with `each = "chunk"`: what comes before the fan-out, on the job itself. Its
    /// effect may write the job's chunks; those that stand in `chunks` after its commit are worked on. Its output goes
    /// into the step's, beside the sums over the chunks.
    ///
    /// # Errors
    /// A [`StepError`]; the step fails before its first chunk begins.
    async fn open(&self, _context: &StepContext) -> Result<StepOutcome, StepError> {
        Ok(StepOutcome::default())
    }

    /// Of a step with `each = "chunk"`: what comes after its last chunk, on the job itself. `totals` are the outputs of
    /// `open` and of all chunks: numbers added up, member by member.
    ///
    /// # Errors
    /// A [`StepError`]; the step fails as a whole. What its chunks committed stays.
    async fn join(&self, _context: &StepContext, totals: Facts) -> Result<StepOutcome, StepError> {
        Ok(StepOutcome::with_output(totals))
    }

    /// Names of `[step.params]` keys that this handler understands; a workflow file with others is refused.
    fn params(&self) -> &'static [&'static str] {
        &[]
    }
}

impl std::fmt::Debug for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StepError({} {}: {} [{}])", self.class.as_str(), self.code, self.message, self.cause())
    }
}

impl From<crate::db::DbError> for StepError {
    /// The database's errors in a step's words. `database_conflict` makes the executor run the effect again at once.
    fn from(error: crate::db::DbError) -> Self {
        use crate::db::DbError;
        match &error {
            DbError::Unavailable(_) => Self::transient("database_unavailable", "The database is not available."),
            DbError::Conflict(_) => Self::transient("database_conflict", "Lost against a concurrent transaction."),
            DbError::TimedOut(_) => Self::transient("database_timeout", "The database took too long for this step."),
            DbError::Refused { .. } | DbError::Driver(_) | DbError::NotOneRow(_) | DbError::Panicked => {
                Self::ours("database_refused", "The database refused what this step wrote.")
            }
        }
        .caused_by(error)
    }
}
