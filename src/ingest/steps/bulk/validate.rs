//! `bulk.validate`: plans the file before the fan-out, validates a chunk, and judges the whole behind the last one.

use super::planning::{self, Planned, Texts};
use crate::db::Scope;
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use crate::ids::{JobId, OrganizationId};
use crate::ingest::bulk::check::{self, Found};
use crate::ingest::bulk::plan::{FilePlan, LineIssue, PlanError, Shape};
use crate::ingest::bulk::source::{object_changed, object_gone};
use crate::ingest::bulk::store::{self, Identity, PlanRow, Upload};
use crate::ingest::fhir::envelope::BundleType;
use crate::ingest::fhir::issue::{Issue, Severity};
use crate::ingest::fhir::validate;
use crate::ingest::issues;
use crate::ingest::payloads::{self, Payloads, storage_error};
use crate::ingest::steps::validate::OnError;
use crate::uploads::watcher::store::generation_of;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::sync::Arc;
use uuid::Uuid;

/// Writes the plan, and the issues of each chunk.
pub struct Validate {
    pub(in crate::ingest::steps) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for Validate {
    async fn open(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (organization, job) = (context.organization, context.job);
        let upload = super::upload(&self.payloads, context).await?;
        let (key, etag) = self.object(&upload).await?;
        // Two attempts share no text: the one that is too late must not touch those of the other.
        let texts = Texts { payloads: &self.payloads, organization, job, plan_id: Uuid::now_v7() };
        let Planned { sha256, size_bytes, plan, chunks, too_long } =
            Box::pin(planning::plan(&texts, &key, &etag)).await?;
        let identity = Identity { sha256, size_bytes, content_type: upload.content_type() };
        let plan = match verdict(&upload, &identity, plan) {
            Ok(plan) => plan,
            Err((error, issues)) => {
                // A step that fails has no transaction of its own: whose bytes they are is written by itself, so that
                // they are kept. The same attempt again writes the same.
                let written = self.payloads.db().unit::<_, StepError, _>(Scope::Organization(organization), {
                    move |connection| {
                        Box::pin(async move {
                            refuse_purged(connection, organization, &identity).await?;
                            store::identify(connection, organization, job, &identity, 0, None).await?;
                            Ok(issues::replace(connection, organization, job, &issues).await?)
                        })
                    }
                });
                written.await?;
                return Err(error);
            }
        };
        let issues: Arc<[Issue]> = too_long.iter().map(|issue| line_too_long(plan.shape, *issue)).collect();
        let output = opened(&plan, chunks.len(), issues.len());
        let row = PlanRow {
            storage_key: key,
            etag,
            shape: plan.shape,
            bundle_type: plan.bundle_type,
            is_gzip: plan.is_gzip,
            text_bytes: i64::try_from(plan.text_bytes).unwrap_or(i64::MAX),
            chunks: i32::try_from(chunks.len()).unwrap_or(i32::MAX),
            plan_id: plan.is_gzip.then_some(texts.plan_id),
        };
        let planned = Arc::new((identity, row, chunks, issues, upload.source_label));
        // A retry is asked for its effects: it does its work, whatever others did.
        let may_repeat = context.round == 1;
        Ok(StepOutcome::with_output(output).with_effect(move |connection| {
            let planned = Arc::clone(&planned);
            Box::pin(async move {
                let (identity, row, chunks, issues, source) = &*planned;
                refuse_purged(connection, organization, identity).await?;
                if may_repeat {
                    let before =
                        store::ingested_before(connection, organization, job, source, &identity.sha256).await?;
                    if let Some(before) = before {
                        store::identify(connection, organization, job, identity, 0, Some(before)).await?;
                        return Ok(duplicate(before));
                    }
                }
                store::identify(connection, organization, job, identity, row.chunks, None).await?;
                store::write_plan(connection, organization, job, row, chunks).await?;
                issues::replace_chunk(connection, organization, job, 0, 0..=i64::MAX, issues).await?;
                Ok(Facts::new())
            })
        }))
    }

    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (organization, job, chunk) = (context.organization, context.job, context.chunk);
        let (work, piece) = super::piece(&self.payloads, context).await?;
        let first = work.first_line;
        let found =
            super::compute(&self.payloads, move || check::check(&piece, work.plan.bundle_type.as_deref(), first == 0))
                .await?;
        let output = facts(&found);
        let last = first.saturating_add(i64::try_from(found.resources).unwrap_or(i64::MAX));
        let last = found.last.map_or(last, i64::from);
        let found = Arc::new(found);
        Ok(StepOutcome::with_output(output).with_effect(move |connection| {
            let found = Arc::clone(&found);
            Box::pin(async move {
                issues::replace_chunk(connection, organization, job, chunk, first..=last, &found.issues).await?;
                let rejected: Vec<i64> = found.rejected.iter().map(|number| i64::from(*number)).collect();
                store::set_rejected(connection, organization, job, chunk, &rejected).await?;
                Ok(Facts::new())
            })
        }))
    }

    async fn join(&self, context: &StepContext, totals: Facts) -> Result<StepOutcome, StepError> {
        let (organization, job) = (context.organization, context.job);
        let on_error = OnError::of(context)?;
        let kind = self
            .payloads
            .db()
            .unit(Scope::Organization(organization), move |connection| {
                Box::pin(async move { store::file_kind(connection, organization, job).await })
            })
            .await?;
        let is_all_or_nothing = kind.is_some_and(|kind| {
            let bundle_type = kind.bundle_type.as_deref().and_then(BundleType::from_code);
            kind.shape == Shape::Bundle && bundle_type.is_none_or(BundleType::is_all_or_nothing)
        });
        let number = |name: &str| totals.get(name).and_then(Value::as_u64).unwrap_or_default();
        let strict = match on_error {
            OnError::ByBundleType => is_all_or_nothing,
            OnError::Fail => true,
            OnError::Skip => false,
        };
        if number("unusable") > 0 || (strict && number("errors") > 0) {
            let message = format!("Validation found {} errors; the job's issues name them.", number("errors"));
            return Err(StepError::sender("validation_failed", message));
        }
        let types = totals.get("types").cloned().unwrap_or_else(|| json!({}));
        Ok(StepOutcome::with_output(totals).with_effect(move |connection| {
            let types = types.clone();
            Box::pin(async move {
                store::set_resource_count(connection, organization, job, &types).await?;
                Ok(Facts::new())
            })
        }))
    }

    fn params(&self) -> &'static [&'static str] {
        &["on_error"]
    }
}

impl Validate {
    /// What is to be read: the raw copy, if an earlier round made it; else the object that was taken up.
    async fn object(&self, upload: &Upload) -> Result<(String, String), StepError> {
        let objects = self.payloads.objects();
        if let Some(raw) = &upload.raw_key {
            let head = objects.head(raw).await.map_err(storage_error)?;
            let head = head.ok_or_else(|| StepError::ours("payload_missing", "The job's payload is not there."))?;
            return Ok((raw.clone(), head.etag));
        }
        let object = upload.object.as_ref();
        let object = object.ok_or_else(|| StepError::ours("payload_missing", "The job's object is not known."))?;
        let head = objects.head(&object.storage_key).await.map_err(storage_error)?.ok_or_else(object_gone)?;
        if generation_of(&head) != object.generation {
            return Err(object_changed());
        }
        Ok((object.storage_key.clone(), object.etag.clone()))
    }
}

/// Bytes that were erased are not taken again.
async fn refuse_purged(
    connection: &mut PgConnection,
    organization: OrganizationId,
    identity: &Identity,
) -> Result<(), StepError> {
    if store::is_purged(connection, organization, &identity.sha256).await? {
        return Err(payloads::purged());
    }
    Ok(())
}

/// What the file as a whole is guilty of, with its issues.
fn verdict(
    upload: &Upload,
    identity: &Identity,
    plan: Result<FilePlan, PlanError>,
) -> Result<FilePlan, (StepError, Vec<Issue>)> {
    let declared = upload.object.as_ref();
    let (size, sha256) =
        (declared.and_then(|one| one.declared_size_bytes), declared.and_then(|one| one.declared_sha256.clone()));
    if size.is_some_and(|size| u64::try_from(size).ok() != Some(identity.size_bytes)) {
        let message = "The file has another size than was declared for it.";
        return Err((StepError::sender("declared_size_differs", message), Vec::new()));
    }
    if sha256.is_some_and(|sha256| sha256 != identity.sha256) {
        let message = "The file has another SHA-256 than was declared for it.";
        return Err((StepError::sender("declared_hash_differs", message), Vec::new()));
    }
    let plan = plan.map_err(|error| (file_error(&error), Vec::new()))?;
    let is_ingested = plan.bundle_type.as_deref().and_then(BundleType::from_code).is_some();
    if plan.shape == Shape::Bundle && !is_ingested {
        let issue = Issue {
            severity: Severity::Error,
            code: "not-supported",
            entry: None,
            line: None,
            expression: Some("Bundle.type".to_owned()),
            pointer: Some("/type".to_owned()),
            byte_offset: None,
            message: "Bundle.type must be transaction, batch, collection or message.".to_owned(),
        };
        let error = StepError::sender("validation_failed", "Validation found 1 errors; the job's issues name them.");
        return Err((error, vec![issue]));
    }
    Ok(plan)
}

/// The planner's errors in a step's words; they say where, never what stands there.
fn file_error(error: &PlanError) -> StepError {
    let message = format!("The file cannot be read: {error}.");
    match error {
        PlanError::Empty => StepError::sender("file_empty", message),
        PlanError::Binary => StepError::sender("file_binary", message),
        PlanError::GzipTruncated => StepError::sender("gzip_truncated", message),
        PlanError::GzipDamaged { .. } => StepError::sender("gzip_damaged", message),
        PlanError::TooLarge { .. } | PlanError::TooManyChunks { .. } => StepError::sender("file_too_large", message),
        PlanError::NotJson { .. } => StepError::sender("file_not_json", message.replace("..", ".")),
        PlanError::NotUtf8 { .. } => StepError::sender("file_not_utf8", message),
        PlanError::NotABundle => StepError::sender("file_not_a_bundle", message),
    }
}

fn line_too_long(shape: Shape, issue: LineIssue) -> Issue {
    let (is_line, number) = (shape == Shape::Ndjson, issue.number);
    let mut report = validate::line_too_long(number, issue.offset);
    let mut found = report.issues.remove(0);
    if !is_line {
        found.line = None;
        found.entry = u32::try_from(number).ok();
        "The entry is longer than 16 MiB.".clone_into(&mut found.message);
    }
    found
}

/// What `open` tells. Lines that are in no chunk count here; all others in their chunks.
fn opened(plan: &FilePlan, chunks: usize, too_long: usize) -> Facts {
    let facts = json!({
        "shape": plan.shape.as_str(),
        "gzip": plan.is_gzip,
        "size_bytes": plan.size_bytes,
        "text_bytes": plan.text_bytes,
        "chunks": chunks,
        "resources": too_long,
        "accepted": 0,
        "rejected": too_long,
        "issues": too_long,
        "errors": too_long,
    });
    facts.as_object().cloned().unwrap_or_default()
}

fn duplicate(job: JobId) -> Facts {
    let facts = json!({
        "duplicateOf": job.to_string(), "chunks": 0, "resources": 0, "accepted": 0, "rejected": 0, "issues": 0, "errors": 0,
    });
    facts.as_object().cloned().unwrap_or_default()
}

fn facts(found: &Found) -> Facts {
    let facts = json!({
        "resources": found.resources,
        "accepted": found.resources.saturating_sub(u64::try_from(found.rejected.len()).unwrap_or(u64::MAX)),
        "rejected": found.rejected.len(),
        "issues": found.total,
        "errors": found.errors,
        "unusable": u64::from(found.is_unusable),
        "types": found.types,
    });
    facts.as_object().cloned().unwrap_or_default()
}
