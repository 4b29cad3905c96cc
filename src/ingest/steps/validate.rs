//! `fhir.validate`: is the payload a Bundle that can be ingested, and which of its entries are.

use super::super::fhir::envelope::BundleType;
use super::super::fhir::issue::{Issue, Report};
use super::super::fhir::validate;
use super::super::{issues, payloads::Payloads};
use super::compute;
use crate::db::{DbError, Scope};
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use serde_json::json;
use std::sync::Arc;

/// Writes the job's issues, also when it fails.
pub struct Validate {
    pub(super) payloads: Payloads,
}

/// `[step.params] on_error`: what an error in an entry does to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnError {
    /// As FHIR says: a transaction or message fails, a batch or collection goes on.
    ByBundleType,
    /// The Bundle fails.
    Fail,
    /// The entry is left out.
    Skip,
}

impl OnError {
    pub(super) fn of(context: &StepContext) -> Result<Self, StepError> {
        match context.params.get("on_error").map(toml::Value::as_str) {
            None => Ok(Self::ByBundleType),
            Some(Some("fail")) => Ok(Self::Fail),
            Some(Some("skip")) => Ok(Self::Skip),
            Some(_) => Err(StepError::ours("invalid_params", "`on_error` must be \"fail\" or \"skip\".")),
        }
    }
}

#[async_trait::async_trait]
impl StepHandler for Validate {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let on_error = OnError::of(context)?;
        let payload = self.payloads.of_job(context.organization, context.job).await?;
        let (report, fails) = compute(payload, move |payload| {
            let report = validate::report(&payload.body);
            let fails_by_type = report.bundle_type.is_none_or(BundleType::is_all_or_nothing);
            let strict = match on_error {
                OnError::ByBundleType => fails_by_type,
                OnError::Fail => true,
                OnError::Skip => false,
            };
            let fails = report.unusable || (strict && report.errors > 0);
            Ok((report, fails))
        })
        .await?;
        let output = facts(&report);
        let (organization, job) = (context.organization, context.job);
        let issues: Arc<[Issue]> = report.issues.into();
        if fails {
            // A step that fails has no transaction of its own: the issues are written by themselves. The same attempt
            // again writes the same.
            let unit = self.payloads.db().unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move { issues::replace(connection, organization, job, &issues).await })
            });
            unit.await?;
            let message = format!("Validation found {} errors; the job's issues name them.", report.errors);
            return Err(StepError::sender("validation_failed", message));
        }
        Ok(StepOutcome::with_output(output).with_effect(move |connection| {
            let issues = Arc::clone(&issues);
            Box::pin(async move {
                issues::replace(connection, organization, job, &issues).await?;
                Ok(Facts::new())
            })
        }))
    }

    fn params(&self) -> &'static [&'static str] {
        &["on_error"]
    }
}

/// What the step tells of a report.
pub(super) fn facts(report: &Report) -> Facts {
    let facts = json!({
        "resources": report.entries,
        "accepted": (report.entries as usize).saturating_sub(report.rejected.len()),
        "rejected": report.rejected.len(),
        "issues": report.total,
        "errors": report.errors,
    });
    facts.as_object().cloned().unwrap_or_default()
}
