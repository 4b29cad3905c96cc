//! Bulk files through their handlers, without the engine: what it does with them stands in docs/bulk.md, and a small
//! driver here does the same.

mod bad_files;
mod corpus;
mod crash;
mod engine;
mod failed_lines;
mod handed_on;
mod order;

use crate::clinical::Clinic;
use chartgate::db::{DbError, Scope};
use chartgate::engine::handler::{Facts, Memo, StepContext, StepError, StepHandler, StepOutcome};
use chartgate::ids::JobId;
use chartgate::ingest::steps::handlers;
use chartgate::uploads::watcher::store::generation_of;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// An organization whose files are ingested.
pub struct Bulk {
    pub clinic: Clinic,
    handlers: HashMap<&'static str, Arc<dyn StepHandler>>,
    next_seq: AtomicI64,
}

/// A file that was taken up.
#[derive(Clone)]
pub struct File {
    pub job: JobId,
    pub seq: i64,
    pub key: String,
    pub round: i32,
}

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    pub result: Value,
    pub with_issues: bool,
    pub error: Option<StepError>,
    pub outputs: HashMap<&'static str, Value>,
}

impl Ended {
    pub fn code(&self) -> &'static str {
        self.error.as_ref().map_or("none", |error| error.code)
    }
}

/// In which order the chunks are worked on.
#[derive(Clone, Copy, PartialEq)]
pub enum Order {
    Forwards,
    Backwards,
}

/// Numbers added up, member by member.
fn add(sum: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        match (sum.get_mut(name), value) {
            (Some(Value::Object(sum)), Value::Object(more)) => add(sum, more),
            (Some(one), Value::Number(other)) if one.is_number() => {
                *one = json!(one.as_u64().unwrap() + other.as_u64().unwrap());
            }
            (None, value) => drop(sum.insert(name.clone(), value.clone())),
            _ => {}
        }
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Bulk {
    pub async fn open() -> Self {
        let clinic = Clinic::open().await;
        let handlers = handlers(clinic.db.clone(), clinic.objects.objects.clone()).into_iter().collect();
        Self { clinic, handlers, next_seq: AtomicI64::new(1) }
    }

    /// PUT and take up a file, as the watcher does.
    pub async fn take_up(&self, body: &[u8], source: &str) -> File {
        self.take_up_declared(body, source, None, None).await
    }

    pub async fn take_up_declared(
        &self,
        body: &[u8],
        source: &str,
        size: Option<i64>,
        sha256: Option<Vec<u8>>,
    ) -> File {
        let (organization, job) = (self.clinic.organization, JobId::new());
        let key = format!("incoming/fhir/{organization}/{job}.ndjson");
        let objects = &self.clinic.objects.objects;
        objects.put(&key, body.to_vec().into(), "application/fhir+ndjson", &[]).await.unwrap();
        let head = objects.head(&key).await.unwrap().unwrap();
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let (bucket, stored, source) = (objects.bucket().to_owned(), key.clone(), source.to_owned());
        self.clinic
            .unit(move |connection| {
                Box::pin(async move {
                    sqlx::query(
                        "insert into jobs (organization_id, id, workflow, workflow_version, source, source_label, status, seq,
                                           submitted_by, created_at, updated_at)
                         values ($1, $2, 'bulk-upload', 1, 'upload', $3, 'queued', $4, 'test', chartgate_now(), chartgate_now())",
                    )
                    .bind(organization)
                    .bind(job)
                    .bind(source)
                    .bind(seq)
                    .execute(&mut *connection)
                    .await?;
                    sqlx::query(
                        "insert into uploads (organization_id, id, job_id, bucket, storage_key, content_type, declared_size_bytes,
                                              declared_sha256, expires_at, created_at)
                         values ($1, $2, $2, $3, $4, 'application/fhir+ndjson', $5, $6, chartgate_now(), chartgate_now())",
                    )
                    .bind(organization)
                    .bind(job)
                    .bind(&bucket)
                    .bind(&stored)
                    .bind(size)
                    .bind(sha256)
                    .execute(&mut *connection)
                    .await?;
                    sqlx::query(
                        "insert into ingested_objects (bucket, storage_key, generation, organization_id, job_id, upload_id, status,
                                                       source, first_seen_at, etag, size_bytes, content_type)
                         values ($1, $2, $3, $4, $5, $5, 'ingested', 'test', chartgate_now(), $6, $7, $8)",
                    )
                    .bind(&bucket)
                    .bind(&stored)
                    .bind(generation_of(&head))
                    .bind(organization)
                    .bind(job)
                    .bind(&head.etag)
                    .bind(i64::try_from(head.size).unwrap())
                    .bind(&head.content_type)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await;
        File { job, seq, key, round: 1 }
    }

    fn context(&self, file: &File, step: &str, chunk: i32, failed_before: bool) -> StepContext {
        StepContext {
            organization: self.clinic.organization,
            job: file.job,
            seq: file.seq,
            round: file.round,
            step: step.to_owned(),
            attempt: 1,
            failed_before,
            params: Arc::new(toml::Table::new()),
            chunk,
            memo: Memo::default(),
        }
    }

    /// Its output, after its effect.
    async fn commit(&self, outcome: StepOutcome) -> Result<Facts, StepError> {
        let mut output = outcome.output;
        if let Some(effect) = outcome.effect {
            let more = loop {
                let effect = Arc::clone(&effect);
                let scope = Scope::Organization(self.clinic.organization);
                let run = self.clinic.db.unit::<_, StepError, _>(scope, move |connection| effect(connection));
                match run.await {
                    Err(error) if error.code == "database_conflict" => {}
                    other => break other?,
                }
            };
            output.extend(more);
        }
        Ok(output)
    }

    async fn keep(&self, file: &File, position: i16, name: &'static str, output: &Facts) {
        let (organization, job, round, facts) =
            (self.clinic.organization, file.job, file.round, Value::from(output.clone()));
        self.clinic
            .unit(move |connection| {
                Box::pin(async move {
                    sqlx::query(
                        "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at, output)
                         values ($1, $2, $3, $4, $5, 'succeeded', 1, chartgate_now(), $6)",
                    )
                    .bind(organization)
                    .bind(job)
                    .bind(round)
                    .bind(position)
                    .bind(name)
                    .bind(facts)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await;
    }

    /// One chunk of one step.
    pub async fn chunk(&self, file: &File, handler: &str, chunk: i32) -> Result<Facts, StepError> {
        self.chunk_with(file, handler, chunk, &Memo::default()).await
    }

    /// The same with what the step before handed on.
    pub async fn chunk_with(&self, file: &File, handler: &str, chunk: i32, memo: &Memo) -> Result<Facts, StepError> {
        let name = handler.strip_prefix("bulk.").unwrap();
        let context = StepContext { memo: memo.clone(), ..self.context(file, name, chunk, false) };
        let outcome = self.handlers[handler].run(&context).await?;
        self.commit(outcome).await
    }

    pub async fn chunks(&self, file: &File, order: Order) -> Vec<i32> {
        let (organization, job) = (self.clinic.organization, file.job);
        let mut chunks: Vec<i32> = self
            .clinic
            .unit(move |connection| {
                Box::pin(async move {
                    let query = sqlx::query_scalar(
                        "select chunk from chunks where organization_id = $1 and job_id = $2 order by chunk",
                    );
                    Ok(query.bind(organization).bind(job).fetch_all(connection).await?)
                })
            })
            .await;
        if order == Order::Backwards {
            chunks.reverse();
        }
        chunks
    }

    pub async fn open_file(&self, file: &File) -> Result<Facts, StepError> {
        let outcome = self.handlers["bulk.validate"].open(&self.context(file, "validate", 0, false)).await?;
        self.commit(outcome).await
    }

    async fn validate(&self, file: &File, order: Order) -> Result<Facts, StepError> {
        let mut totals = self.open_file(file).await?;
        for chunk in self.chunks(file, order).await {
            add(&mut totals, &self.chunk(file, "bulk.validate", chunk).await?);
        }
        let context = self.context(file, "validate", 0, false);
        self.commit(self.handlers["bulk.validate"].join(&context, totals).await?).await
    }

    /// All steps of a file, as the engine runs them.
    pub async fn run(&self, file: &File, order: Order) -> Ended {
        let (mut outputs, mut error) = (HashMap::new(), None);
        match self.validate(file, order).await {
            Ok(output) => {
                self.keep(file, 0, "validate", &output).await;
                outputs.insert("validate", Value::from(output));
            }
            Err(failed) => error = Some(failed),
        }
        let context = self.context(file, "store_raw", 0, error.is_some());
        match self.handlers["bulk.store_raw"].run(&context).await {
            Ok(outcome) => {
                let output = self.commit(outcome).await.unwrap();
                self.keep(file, 1, "store_raw", &output).await;
                outputs.insert("store_raw", Value::from(output));
            }
            Err(failed) => drop(error.get_or_insert(failed)),
        }
        if error.is_none() {
            let (mut linked, mut extracted) = (Facts::new(), Facts::new());
            for chunk in self.chunks(file, order).await {
                add(&mut linked, &self.chunk(file, "bulk.link_patient", chunk).await.unwrap());
                add(&mut extracted, &self.chunk(file, "bulk.extract_findings", chunk).await.unwrap());
            }
            self.keep(file, 2, "link_patient", &linked).await;
            self.keep(file, 3, "extract_findings", &extracted).await;
            outputs.insert("link_patient", Value::from(linked));
            outputs.insert("extract_findings", Value::from(extracted));
        }
        let context = self.context(file, "audit", 0, error.is_some());
        let outcome = self.handlers["bulk.audit"].run(&context).await.unwrap();
        let mut output = self.commit(outcome).await.unwrap();
        let status = if error.is_some() { "failed" } else { "succeeded" };
        self.close(file, status).await;
        Ended {
            result: output.remove("result").unwrap(),
            with_issues: output.remove("with_issues").unwrap() == json!(true),
            error,
            outputs,
        }
    }

    async fn close(&self, file: &File, status: &'static str) {
        let (organization, job) = (self.clinic.organization, file.job);
        self.clinic
            .unit(move |connection| {
                Box::pin(async move {
                    sqlx::query(
                        "update jobs
                         set status = $3, finished_at = chartgate_now(),
                             error_code = case when $3 = 'failed' then 'x' end, error_class = case when $3 = 'failed' then 'ours' end
                         where organization_id = $1 and id = $2",
                    )
                    .bind(organization)
                    .bind(job)
                    .bind(status)
                    .execute(connection)
                    .await?;
                    Ok::<_, DbError>(())
                })
            })
            .await;
    }

    /// Take up and run.
    pub async fn ingest(&self, body: &[u8]) -> (File, Ended) {
        let file = self.take_up(body, "default").await;
        let ended = self.run(&file, Order::Forwards).await;
        (file, ended)
    }

    /// The lines of the outcome file.
    pub async fn outcomes(&self, file: &File) -> Vec<Value> {
        let key = format!("outcomes/{}/{}.ndjson", self.clinic.organization, file.job);
        let text = self.clinic.objects.objects.get(&key).await.unwrap();
        std::str::from_utf8(&text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        self.clinic.count(sql).await
    }

    /// A change by the organization itself.
    pub async fn execute(&self, sql: &'static str) {
        self.clinic
            .unit(move |connection| {
                Box::pin(async move {
                    sqlx::query(sql).execute(connection).await?;
                    Ok(())
                })
            })
            .await;
    }
}

pub fn patient_line(id: &str, mrn: &str) -> String {
    crate::clinical::patient(id, mrn, "1970-01-01").to_string()
}

pub fn observation_line(id: &str, patient: &str, value: u32) -> String {
    json!({
        "resourceType": "Observation",
        "id": id,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": "2020-01-01",
        "valueQuantity": {"value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
        "note": [{"text": "x".repeat(400)}],
    })
    .to_string()
}

/// Over four mebibytes of observations of these patients: more than one chunk.
pub fn many_lines(patients: usize, count: usize) -> Vec<String> {
    (0..count).map(|n| observation_line(&format!("o{n}"), &format!("p{}", n % patients), 60)).collect()
}
