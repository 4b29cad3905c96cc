//! A whole Chartgate on a fresh database and a fresh object store: real router on a real port, real queue, real
//! workers, and a database clock that tests move by hand.

use super::cluster::TestDatabase;
use super::directory::TestDirectory;
use super::objects::TestObjects;
use chartgate::app::App;
use chartgate::auth::store::{self, KeyGrant};
use chartgate::auth::{NewKey, Role};
use chartgate::config::jwt::IssuerConfig;
use chartgate::config::{Config, LimitsConfig};
use chartgate::db::{DbError, Scope};
use chartgate::engine::handler::StepHandler;
use chartgate::engine::{Engine, EngineOptions, sweeper};
use chartgate::http::{self, server::tls::Tls};
use chartgate::ids::{JobId, OrganizationId};
use chartgate::objects::Objects;
use chartgate::queue::Workers;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How an application reaches object storage.
pub type Through = Box<dyn Fn(&TestObjects) -> Objects + Send>;

/// Handlers that a test adds.
pub type Handlers = Vec<(&'static str, Arc<dyn StepHandler>)>;

/// How long a test waits for a persisted fact, at most.
const PATIENCE: Duration = Duration::from_mins(1);

/// An organization with one key a role.
pub struct TestOrganization {
    pub id: OrganizationId,
    pub sender: String,
    pub reader: String,
    pub admin: String,
}

/// What a test asks for.
pub struct Setup {
    pub handlers: Handlers,
    /// Workflow files (name without `.toml`, text).
    pub workflows: Vec<(&'static str, String)>,
    pub engine: EngineOptions,
    pub connections: u32,
    /// A migrated database of the test's own, as its owner; else a clone of the shared cluster's template.
    pub database: Option<PgConnectOptions>,
    /// Where S3 is reached instead of directly (a proxy of the test's).
    pub s3: Option<Through>,
    /// `cors.origins` of the configuration.
    pub origins: Vec<String>,
    /// What else of the configuration is different.
    pub configure: fn(&mut Config),
    /// Whose tokens are accepted.
    pub jwt: Vec<IssuerConfig>,
    /// Other limits than the defaults.
    pub limits: Box<dyn FnOnce(&mut LimitsConfig) + Send>,
    /// HTTPS; the URL of the application then says so.
    pub tls: Option<Arc<Tls>>,
}

impl Default for Setup {
    fn default() -> Self {
        let engine = EngineOptions {
            lease: Duration::from_secs(5),
            poll: Duration::from_millis(20),
            concurrency: 32,
            ..EngineOptions::default()
        };
        Self {
            handlers: Vec::new(),
            workflows: Vec::new(),
            engine,
            connections: 12,
            database: None,
            s3: None,
            origins: Vec::new(),
            configure: |_| {},
            jwt: Vec::new(),
            limits: Box::new(|_| {}),
            tls: None,
        }
    }
}

pub struct TestApp {
    pub app: Arc<App>,
    pub url: String,
    pub organization: TestOrganization,
    pub platform: String,
    /// As the owner of everything.
    pub owner_options: PgConnectOptions,
    _database: Option<TestDatabase>,
    pub objects: TestObjects,
    pub client: reqwest::Client,
    engine_options: EngineOptions,
    _workflows: TestDirectory,
    pub stop: CancellationToken,
}

/// Running workers with their sweeper.
pub struct TestWorkers {
    pub engine: Arc<Engine>,
    pub workers: Workers,
    stop: CancellationToken,
}

impl TestWorkers {
    pub async fn stop(self) {
        self.stop.cancel();
        self.workers.shutdown().await;
    }
}

pub fn test_config() -> Config {
    let values = [
        ("CHARTGATE_DATABASE_ALLOW_UNSAFE", "true"),
        // 32 bytes that seal secrets, so that no test writes a file for them.
        ("CHARTGATE_SECRETS_KEY", "dGhpcyBpcyB0aGUga2V5IG9mIHRoZSB0ZXN0cyBvbmw="),
    ];
    let value = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::from_sources(None, &value).unwrap()
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let database = if setup.database.is_none() { Some(TestDatabase::new().await) } else { None };
        let owner_options = setup.database.or(database.as_ref().map(TestDatabase::options)).unwrap();
        let objects = TestObjects::start().await;
        let workflows = TestDirectory::new();
        for (name, text) in &setup.workflows {
            std::fs::write(workflows.path().join(format!("{name}.toml")), text).unwrap();
        }
        let mut config = test_config();
        config.workflows_dir = Some(workflows.path().to_owned());
        config.data_dir = workflows.path().join("data");
        config.database.connections_max = setup.connections;
        config.cors_origins = setup.origins;
        (setup.configure)(&mut config);
        config.jwt = setup.jwt;
        // Whole matrices of refusals come from one address here.
        config.limits.failed_authentications_per_minute = 0;
        (setup.limits)(&mut config.limits);
        let s3 = setup.s3.map_or_else(|| objects.objects.clone(), |through| through(&objects));
        let app = App::build_with(config, owner_options.clone(), s3, setup.handlers).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if setup.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(http::server::serve(
            listener,
            setup.tls,
            Arc::clone(&app),
            chartgate::console::routes(),
            stop.clone(),
        ));
        tokio::spawn(app.wake.clone().notify_others(app.db.clone(), stop.clone()));
        let organization = create_organization(&app, "Test Hospital").await;
        let platform = create_key(&app, None, Role::Platform).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let engine_options = setup.engine;
        Self {
            app,
            url,
            organization,
            platform,
            owner_options,
            _database: database,
            objects,
            client,
            engine_options,
            _workflows: workflows,
            stop,
        }
    }

    /// The same database, store and keys under an application with other handlers.
    pub async fn rebuilt(self, handlers: Handlers) -> Self {
        let config = self.app.config.clone();
        self.anew(config, handlers).await
    }

    /// The same under another configuration.
    pub async fn reconfigured(self, configure: fn(&mut Config)) -> Self {
        let mut config = self.app.config.clone();
        configure(&mut config);
        self.anew(config, Vec::new()).await
    }

    async fn anew(mut self, config: Config, handlers: Handlers) -> Self {
        let objects = self.objects.objects.clone();
        self.app = App::build_with(config, self.owner_options.clone(), objects, handlers).await.unwrap();
        self.stop.cancel();
        self.stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(http::server::serve(
            listener,
            None,
            Arc::clone(&self.app),
            chartgate::console::routes(),
            self.stop.clone(),
        ));
        tokio::spawn(self.app.wake.clone().notify_others(self.app.db.clone(), self.stop.clone()));
        self
    }

    pub async fn organization(&self, name: &str) -> TestOrganization {
        create_organization(&self.app, name).await
    }

    /// Workers and a sweeper in this process.
    pub fn workers(&self) -> TestWorkers {
        self.workers_with(self.engine_options.clone())
    }

    pub fn workers_with(&self, options: EngineOptions) -> TestWorkers {
        let engine = self.app.start_engine_with(options);
        let stop = CancellationToken::new();
        tokio::spawn(sweeper::run(Arc::clone(&engine), stop.clone()));
        let workers = Workers::start(Arc::clone(&engine), vec!["test".to_owned()]);
        TestWorkers { engine, workers, stop }
    }

    /// A connection as the owner of everything.
    pub async fn owner(&self) -> PgConnection {
        PgConnection::connect_with(&self.owner_options).await.unwrap()
    }

    /// Move the database's clock.
    pub async fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap();
        sqlx::query(
            "insert into clock_offset (offset_us) values ($1)
             on conflict (single) do update set offset_us = clock_offset.offset_us + excluded.offset_us",
        )
        .bind(by)
        .execute(&mut self.owner().await)
        .await
        .unwrap();
        self.app.wake.signal();
    }

    pub async fn get(&self, key: &str, path: &str) -> (u16, Value) {
        let response = self.client.get(format!("{}{path}", self.url)).bearer_auth(key).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    pub async fn post(&self, key: &str, path: &str, body: &Value) -> (u16, Value) {
        let response =
            self.client.post(format!("{}{path}", self.url)).bearer_auth(key).json(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// POST a Bundle with the sender's key.
    pub async fn submit(&self, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.submit_as(&self.organization.sender, None, body).await
    }

    pub async fn submit_as(
        &self,
        key: &str,
        idempotency: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        let mut request = self
            .client
            .post(format!("{}/v1/ingestion/fhir/Bundle", self.url))
            .bearer_auth(key)
            .header("content-type", "application/fhir+json")
            .body(body);
        if let Some(idempotency) = idempotency {
            request = request.header("idempotency-key", idempotency);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    pub async fn job(&self, job: &str) -> Value {
        let (status, view) = self.get(&self.platform, &format!("/v1/ingestion/jobs/{job}")).await;
        assert_eq!(status, 200, "{view}");
        view
    }

    /// Wait until the job's status is that.
    pub async fn wait_for(&self, job: &str, wanted: &str) -> Value {
        self.wait_until(job, wanted, |view| view["status"] == json!(wanted)).await
    }

    pub async fn wait_until(&self, job: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.job(job).await;
            if condition(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "job {job} is not {what} after {PATIENCE:?}: {view:#}");
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Wait until the queue is empty.
    pub async fn run_until_idle(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut owner = self.owner().await;
        loop {
            let rows: i64 = sqlx::query_scalar("select count(*) from queue").fetch_one(&mut owner).await.unwrap();
            if rows == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{rows} rows are still in the queue after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One number from the database.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.owner().await).await.unwrap()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn create_organization(app: &App, name: &str) -> TestOrganization {
    let id = OrganizationId::new();
    let named = name.to_owned();
    app.db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::insert_organization(connection, id, &named).await })
        })
        .await
        .unwrap()
        .unwrap();
    TestOrganization {
        id,
        sender: create_key(app, Some(id), Role::Sender).await,
        reader: create_key(app, Some(id), Role::Reader).await,
        admin: create_key(app, Some(id), Role::Admin).await,
    }
}

pub async fn create_key(app: &App, organization: Option<OrganizationId>, role: Role) -> String {
    let key = NewKey::generate();
    let text = key.key.clone();
    app.db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                let grant =
                    KeyGrant { organization, role, name: "test".into(), source: "default".into(), expires_at: None };
                store::insert_key(connection, &key, &grant).await
            })
        })
        .await
        .unwrap();
    text
}

/// A job id out of an answer.
pub fn job_of(answer: &Value) -> String {
    let job = answer["jobId"].as_str().unwrap_or_else(|| panic!("no jobId in {answer}"));
    job.parse::<JobId>().unwrap();
    job.to_owned()
}

/// The status of a named step.
pub fn step_of<'v>(view: &'v Value, name: &str) -> &'v Value {
    view["steps"].as_array().unwrap().iter().find(|step| step["name"] == json!(name)).unwrap()
}
