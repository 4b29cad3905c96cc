//! `job.audit`: the totals of a job, its closing audit record, and what its sender is told.

use super::super::payloads::Payloads;
use crate::audit::{self, Action, Actor, Outcome, Record};
use crate::db::{DbError, Scope};
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome, closing};
use crate::ids::{JobId, OrganizationId};
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::HashMap;

/// Reads the persisted outputs of the steps before it, so that it says what was committed, whoever committed it.
pub struct Audit {
    pub(super) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for Audit {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let outputs = outputs_of(&self.payloads, context.organization, context.job).await?;
        Ok(close(context, &outputs, Vec::new()))
    }
}

/// The newest output of each step of a job, by name.
pub(super) async fn outputs_of(
    payloads: &Payloads,
    organization: OrganizationId,
    job: JobId,
) -> Result<HashMap<String, Value>, StepError> {
    let outputs = payloads
        .db()
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(outputs(connection, organization, job))
        })
        .await?;
    Ok(outputs)
}

/// Close the job with these outputs; `more` are members of the result beside the totals.
pub(super) fn close(
    context: &StepContext,
    outputs: &HashMap<String, Value>,
    more: Vec<(&'static str, Value)>,
) -> StepOutcome {
    let (organization, job) = (context.organization, context.job);
    let mut closing = Closing::of(outputs);
    for (name, value) in more {
        closing.result[name] = value;
    }
    let mut output = Facts::new();
    output.insert(closing::WITH_ISSUES.to_owned(), Value::from(closing.with_issues));
    output.insert(closing::RESULT.to_owned(), closing.result.clone());
    let outcome = if context.failed_before { Outcome::Failure } else { Outcome::Success };
    let step = context.step.clone();
    StepOutcome::with_output(output).with_effect(move |connection| {
        let (closing, step) = (closing.clone(), step.clone());
        Box::pin(async move {
            let actor = Actor::internal("step:audit");
            let detail = json!({"with_issues": closing.with_issues, "result": closing.result});
            let record = Record {
                outcome,
                job: Some(job),
                step: Some(&step),
                detail: Some(detail),
                ..Record::new(organization, "job.closed", Action::Execute, &actor)
            };
            audit::append(connection, record).await?;
            Ok(Facts::new())
        })
    })
}

/// The newest output of each step that succeeded; a retry keeps those of the steps that it did not repeat.
async fn outputs(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<HashMap<String, Value>, DbError> {
    let rows: Vec<(String, Option<Value>)> = sqlx::query_as(
        "select distinct on (name) name, output
         from job_steps
         where organization_id = $1
           and job_id = $2
           and status = 'succeeded'
         order by name, round desc",
    )
    .bind(organization)
    .bind(job)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter_map(|(name, output)| Some((name, output?))).collect())
}

#[derive(Clone)]
struct Closing {
    with_issues: bool,
    result: Value,
}

impl Closing {
    fn of(outputs: &HashMap<String, Value>) -> Self {
        let number = |step: &str, pointer: &str| -> u64 {
            outputs.get(step).and_then(|output| output.pointer(pointer)).and_then(Value::as_u64).unwrap_or_default()
        };
        let rejected = number("validate", "/rejected");
        Self {
            with_issues: number("validate", "/errors") > 0 || rejected > 0,
            result: json!({
                "resources": number("validate", "/resources").saturating_sub(rejected),
                "findings": number("extract_findings", "/findings"),
                "issues": number("validate", "/issues"),
                "patients": {
                    "linked": number("link_patient", "/patients/linked"),
                    "pending": number("link_patient", "/patients/pending"),
                    "review": number("link_patient", "/patients/review"),
                },
            }),
        }
    }
}
