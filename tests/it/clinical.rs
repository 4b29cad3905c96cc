//! The steps of the FHIR workflow on a real database and the embedded S3: what is stored, whose it is, what it says.

pub mod corpus;
mod erasure;
mod erasure_objects;
mod erasure_patient;
mod findings;
pub mod findings_corpus;
mod linking;
mod linking_acts;
mod linking_decisions;
mod linking_order;
mod linking_rules;
mod steps;
mod validator;
mod view;
pub use view::MISCOUNTED;
mod view_waiting;

use crate::support::cluster::TestDatabase;
use crate::support::objects::TestObjects;
use chartgate::db::{Db, DbError, Scope};
use chartgate::engine::handler::{Facts, Memo, StepContext, StepError, StepHandler};
use chartgate::ids::{JobId, OrganizationId};
use chartgate::ingest::steps::handlers;
use chartgate::ingest::view::{ClinicalQuery, ClinicalView, ITEMS_MAX, clinical};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::Connection as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The steps in the workflow's order.
const STEPS: [(&str, &str); 5] = [
    ("validate", "fhir.validate"),
    ("store_raw", "raw.store"),
    ("link_patient", "fhir.link_patient"),
    ("extract_findings", "fhir.extract_findings"),
    ("audit", "job.audit"),
];

/// One organization with the steps' handlers, run without the engine.
pub struct Clinic {
    pub db: Db,
    pub objects: TestObjects,
    pub organization: OrganizationId,
    handlers: HashMap<&'static str, Arc<dyn StepHandler>>,
    next_seq: AtomicI64,
    database: TestDatabase,
}

/// An accepted payload.
#[derive(Clone, Copy)]
pub struct Accepted {
    pub job: JobId,
    pub seq: i64,
}

impl Clinic {
    pub async fn open() -> Self {
        Self::with_settings(json!({})).await
    }

    pub async fn with_settings(settings: Value) -> Self {
        let database = TestDatabase::new().await;
        let db = Db::connect(database.options(), 8);
        let objects = TestObjects::start().await;
        let organization = OrganizationId::new();
        db.unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                sqlx::query("insert into organizations (id, name, settings) values ($1, $2, $3)")
                    .bind(organization)
                    .bind(organization.to_string())
                    .bind(settings)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
        .unwrap();
        let handlers = handlers(db.clone(), objects.objects.clone()).into_iter().collect();
        Self { db, objects, organization, handlers, next_seq: AtomicI64::new(1), database }
    }

    /// A connection as the owner of everything.
    pub async fn owner(&self) -> sqlx::PgConnection {
        sqlx::PgConnection::connect_with(&self.database.options()).await.unwrap()
    }

    /// What the intake does, in short.
    pub async fn accept(&self, body: &[u8], source: &str) -> Accepted {
        let (organization, job) = (self.organization, JobId::new());
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let (body, source) = (body.to_vec(), source.to_owned());
        let sha256 = Sha256::digest(&body).to_vec();
        self.unit(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "insert into payloads (organization_id, sha256, size_bytes, content_type, body, created_at)
                     values ($1, $2, $3, 'application/fhir+json', $4, chartgate_now()) on conflict do nothing",
                )
                .bind(organization)
                .bind(&sha256)
                .bind(i64::try_from(body.len()).unwrap())
                .bind(&body)
                .execute(&mut *connection)
                .await?;
                sqlx::query(
                    "insert into jobs (organization_id, id, workflow, workflow_version, source, source_label, status, seq,
                                       payload_sha256, submitted_by, created_at, updated_at)
                     values ($1, $2, 'fhir-bundle', 1, 'webhook', $3, 'queued', $4, $5, 'test', chartgate_now(), chartgate_now())",
                )
                .bind(organization)
                .bind(job)
                .bind(source)
                .bind(seq)
                .bind(&sha256)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await;
        Accepted { job, seq }
    }

    /// One step: prepared, its effect run in a unit of work, its output kept as the engine keeps it.
    pub async fn step(&self, accepted: Accepted, name: &str, params: toml::Table) -> Result<Facts, StepError> {
        let position = STEPS.iter().position(|(step, _)| *step == name).unwrap();
        let context = StepContext {
            organization: self.organization,
            job: accepted.job,
            seq: accepted.seq,
            round: 1,
            step: name.to_owned(),
            attempt: 1,
            failed_before: false,
            params: Arc::new(params),
            chunk: 0,
            memo: Memo::default(),
        };
        let outcome = self.handlers[STEPS[position].1].run(&context).await?;
        let mut output = outcome.output;
        if let Some(effect) = outcome.effect {
            let more = loop {
                let effect = Arc::clone(&effect);
                let run = self.db.unit::<_, StepError, _>(Scope::Organization(self.organization), move |connection| {
                    effect(connection)
                });
                match run.await {
                    Err(error) if error.code == "database_conflict" => {}
                    other => break other?,
                }
            };
            output.extend(more);
        }
        let (organization, name, facts) = (self.organization, name.to_owned(), Value::from(output.clone()));
        self.unit(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at, output)
                     values ($1, $2, 1, $3, $4, 'succeeded', 1, chartgate_now(), $5) on conflict do nothing",
                )
                .bind(organization)
                .bind(accepted.job)
                .bind(i16::try_from(position).unwrap())
                .bind(name)
                .bind(facts)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await;
        Ok(output)
    }

    /// All steps of a payload, in order.
    /// Every entry of a processed payload is accounted for, by the outputs of its steps.
    pub fn assert_accounted(outputs: &HashMap<&'static str, Facts>) {
        let number = |step: &str, pointer: &str| {
            let output = Value::from(outputs[step].clone());
            output.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{step}{pointer} in {output}"))
        };
        let accepted = number("validate", "/accepted");
        assert_eq!(number("validate", "/resources"), accepted + number("validate", "/rejected"));
        let linked = ["/events", "/unchanged", "/repeated"].map(|name| number("link_patient", name));
        assert_eq!(linked.iter().sum::<u64>(), accepted, "{linked:?}");
        let extracted = ["/entries", "/left_out/demographics", "/left_out/type_without_findings"]
            .map(|name| number("extract_findings", name));
        assert_eq!(extracted.iter().sum::<u64>(), accepted, "{extracted:?}");
    }

    pub async fn ingest_from(&self, body: &[u8], source: &str) -> Result<HashMap<&'static str, Facts>, StepError> {
        let accepted = self.accept(body, source).await;
        self.process(accepted).await
    }

    pub async fn process(&self, accepted: Accepted) -> Result<HashMap<&'static str, Facts>, StepError> {
        let mut outputs = HashMap::new();
        for (name, _) in STEPS {
            outputs.insert(name, self.step(accepted, name, toml::Table::new()).await?);
        }
        Self::assert_accounted(&outputs);
        Ok(outputs)
    }

    pub async fn ingest(&self, bundle: &Value) -> HashMap<&'static str, Facts> {
        self.ingest_from(bundle.to_string().as_bytes(), "default").await.unwrap()
    }

    pub async fn unit<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut sqlx::PgConnection) -> futures::future::BoxFuture<'c, Result<T, DbError>>
            + Send
            + 'static,
    {
        self.db.unit(Scope::Organization(self.organization), work).await.unwrap()
    }

    /// One number from the database, for this organization.
    pub async fn count(&self, sql: &'static str) -> i64 {
        self.unit(move |connection| Box::pin(async move { Ok(sqlx::query_scalar(sql).fetch_one(connection).await?) }))
            .await
    }

    pub async fn view(&self, mrn: &str) -> ClinicalView {
        self.view_with(mrn, None, false).await
    }

    pub async fn view_with(&self, mrn: &str, system: Option<&str>, history: bool) -> ClinicalView {
        let (organization, mrn, system) = (self.organization, mrn.to_owned(), system.map(str::to_owned));
        self.unit(move |connection| {
            Box::pin(async move {
                let system = system.as_deref();
                let query = ClinicalQuery { mrn: &mrn, system, history, cursor: None, limit: ITEMS_MAX };
                clinical(connection, organization, query).await
            })
        })
        .await
    }
}

/// Items of a category, as a reader gets them. They live until the test ends.
pub fn items(view: &ClinicalView, category: &str) -> &'static Vec<Value> {
    let mut view: Value = serde_json::from_slice(&view.json()).unwrap();
    let items: Vec<Value> = serde_json::from_value(view["clinical_data"][category].take()).unwrap();
    Box::leak(Box::new(items))
}

/// A Bundle of these resources, in which each has the fullUrl `urn:uuid:{id}`.
pub fn bundle(bundle_type: &str, resources: &[Value]) -> Value {
    let entries: Vec<Value> = resources
        .iter()
        .map(|resource| {
            let id = resource["id"].as_str().unwrap_or("none");
            json!({"fullUrl": format!("urn:uuid:{id}"), "resource": resource, "request": {"method": "POST", "url": "X"}})
        })
        .collect();
    json!({"resourceType": "Bundle", "type": bundle_type, "entry": entries})
}

pub fn patient(id: &str, mrn: &str, birth_date: &str) -> Value {
    let kind = json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]});
    json!({
        "resourceType": "Patient",
        "id": id,
        "identifier": [{"type": kind, "system": "urn:hospital", "value": mrn}],
        "name": [{"family": "Sample", "given": ["Ada"]}],
        "birthDate": birth_date,
    })
}

pub fn condition(id: &str, subject: &str) -> Value {
    json!({"resourceType": "Condition", "id": id, "code": {"text": "asthma"}, "subject": {"reference": subject}})
}
