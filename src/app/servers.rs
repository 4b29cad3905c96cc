//! PostgreSQL and S3: the configured ones, our own embedded ones, or those of a running embedded instance.
//!
//! An embedded instance writes `{data_dir}/run/endpoints.json` (mode 0600), through which `serve --role worker` joins it.

use super::StartError;
use crate::config::Config;
use crate::db::embedded::{EmbeddedOptions, EmbeddedPostgres};
use crate::db::{DbError, migrate};
use crate::objects::embedded::{CreatedObject, EmbeddedS3, EmbeddedS3Options};
use crate::objects::notifications::NotificationQueue;
use crate::objects::{Objects, ObjectsOptions};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Database of the embedded instance.
const DATABASE: &str = "chartgate";
/// An S3 request's answer must begin within this time; the engine repeats what fails.
const S3_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a running embedded instance is reached.
#[derive(Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// Directory of PostgreSQL's socket.
    pub postgres_socket_dir: PathBuf,
    /// Database name.
    pub database: String,
    /// `http://host:port` of S3, if it is embedded too.
    pub s3_endpoint: Option<String>,
    /// Key of the embedded S3.
    pub s3_access_key: String,
    /// Its secret.
    pub s3_secret_key: String,
}

/// The servers that this process uses; those that are its own stop with it.
pub struct Servers {
    /// As the program's role.
    pub database: PgConnectOptions,
    /// As the owner of the tables, where we know how.
    pub owner: Option<PgConnectOptions>,
    /// S3.
    pub objects: Objects,
    /// What appears in the embedded S3 of this process, for a watcher.
    pub created: Option<UnboundedReceiver<CreatedObject>>,
    /// Embedded PostgreSQL of this process.
    postgres: Option<EmbeddedPostgres>,
    /// Embedded S3 of this process.
    s3: Option<EmbeddedS3>,
}

impl Servers {
    /// Start or find the servers, apply the migrations, make the bucket. `may_start` is false for processes that only
    /// join (a worker beside an embedded instance).
    ///
    /// # Errors
    /// [`StartError`], saying what to do next.
    pub async fn start(config: &Config, may_start: bool) -> Result<Self, StartError> {
        let joined = if !may_start && (config.database.url.is_none() || config.s3.embedded) {
            Some(read_endpoints(&config.data_dir)?)
        } else {
            None
        };
        let mut postgres = None;
        let (database, owner) = match (&config.database.url, &joined) {
            (Some(url), _) => configured(config, url)?,
            (None, Some(endpoints)) => (embedded_options(&endpoints.postgres_socket_dir), None),
            (None, None) => {
                let options = EmbeddedOptions::new(&config.data_dir);
                let server = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&options))
                    .await
                    .map_err(|_| StartError::Server("the embedded PostgreSQL did not start".to_owned()))?
                    .map_err(|error| StartError::Server(with_cause(&error)))?;
                create_database(&server).await?;
                let options = (embedded_options(server.socket_dir()), Some(server.connect_options(DATABASE)));
                postgres = Some(server);
                options
            }
        };
        if let Some(owner) = &owner {
            migrate::run(owner).await.map_err(|error| StartError::Server(with_cause(&error)))?;
        }
        let mut s3 = None;
        let mut created = None;
        let objects = match (config.s3.embedded, &joined) {
            (false, _) => Objects::connect(&objects_options(
                config,
                config.s3.endpoint.clone(),
                config.s3.access_key.clone(),
                config.s3.secret_key.clone(),
            )),
            (true, Some(endpoints)) => Objects::connect(&objects_options(
                config,
                endpoints.s3_endpoint.clone(),
                Some(endpoints.s3_access_key.clone()),
                Some(SecretString::from(endpoints.s3_secret_key.clone())),
            )),
            (true, None) => {
                let (access_key, secret_key) = s3_credentials(&config.data_dir)?;
                let (told, hints) = unbounded_channel();
                created = Some(hints);
                let server = EmbeddedS3::start(EmbeddedS3Options {
                    dir: config.data_dir.join("objects"),
                    listen: listen_again(config).await,
                    access_key: access_key.clone(),
                    secret_key: secret_key.clone(),
                    region: config.s3.region.clone(),
                    created: Some(told),
                })
                .await
                .map_err(|error| StartError::Server(with_cause(&error)))?;
                let objects = Objects::connect(&objects_options(
                    config,
                    Some(server.endpoint()),
                    Some(access_key),
                    Some(secret_key),
                ));
                objects.ensure_bucket().await.map_err(|error| StartError::Server(with_cause(&error)))?;
                s3 = Some(server);
                objects
            }
        };
        if let Some(postgres) = &postgres {
            write_endpoints(config, postgres, s3.as_ref())?;
        }
        Ok(Self { database, owner, objects, created, postgres, s3 })
    }

    /// The configured queue of notifications.
    ///
    /// # Errors
    /// [`StartError`] if its URL is none of a queue.
    pub fn notification_queue(config: &Config) -> Result<Option<NotificationQueue>, StartError> {
        let Some(url) = &config.s3.events_queue_url else { return Ok(None) };
        let (access_key, secret_key) = (config.s3.access_key.clone(), config.s3.secret_key.clone());
        let queue = NotificationQueue::connect(url, &objects_options(config, None, access_key, secret_key));
        let wrong = || StartError::Server("s3.events_queue_url is not the URL of a queue".to_owned());
        queue.map(Some).ok_or_else(wrong)
    }

    /// Stop what is ours: S3 first, PostgreSQL last.
    pub async fn stop(self) {
        if let Some(s3) = self.s3 {
            s3.stop().await;
        }
        if let Some(postgres) = self.postgres {
            let _ = tokio::task::spawn_blocking(move || postgres.stop()).await;
        }
    }

    /// Process id of the embedded PostgreSQL, if it is ours and up.
    #[must_use]
    pub fn postgres_pid(&self) -> Option<u32> {
        self.postgres.as_ref().and_then(EmbeddedPostgres::pid)
    }
}

/// Where the embedded S3 listens: if any port will do, the one that it had before, as long as nobody else has it. Workers that
/// joined go on, and URLs that were signed stay good, when this process is started anew.
async fn listen_again(config: &Config) -> SocketAddr {
    let wanted = config.s3.listen;
    if wanted.port() != 0 {
        return wanted;
    }
    let endpoint = read_endpoints(&config.data_dir).ok().and_then(|endpoints| endpoints.s3_endpoint);
    let port = endpoint.and_then(|endpoint| endpoint.rsplit(':').next()?.parse().ok());
    let Some(port) = port else { return wanted };
    let before = SocketAddr::new(wanted.ip(), port);
    if tokio::net::TcpListener::bind(before).await.is_ok() { before } else { wanted }
}

fn embedded_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass().socket(socket_dir).port(5432).username("chartgate_app").database(DATABASE)
}

fn configured(config: &Config, url: &SecretString) -> Result<(PgConnectOptions, Option<PgConnectOptions>), StartError> {
    let parse = |url: &SecretString, key: &str| -> Result<PgConnectOptions, StartError> {
        // The parser's error may quote the URL with its password.
        url.expose_secret().parse().map_err(|_| {
            StartError::Server(format!("{key} is not a PostgreSQL URL such as postgres://user:password@host/database"))
        })
    };
    let database = parse(url, "database.url")?;
    let owner = match &config.database.migrate_url {
        Some(url) => Some(parse(url, "database.migrate_url")?),
        // The working role owns nothing; the migrations were run by somebody else.
        None if database.get_username() == "chartgate_app" => None,
        None => Some(database.clone()),
    };
    Ok((database, owner))
}

fn objects_options(
    config: &Config,
    endpoint: Option<String>,
    access_key: Option<String>,
    secret_key: Option<SecretString>,
) -> ObjectsOptions {
    ObjectsOptions {
        endpoint,
        region: config.s3.region.clone(),
        bucket: config.s3.bucket.clone(),
        access_key,
        secret_key,
        prefix: config.s3.prefix.clone(),
        timeout: S3_TIMEOUT,
    }
}

async fn create_database(server: &EmbeddedPostgres) -> Result<(), StartError> {
    let create = async {
        let mut connection = PgConnection::connect_with(&server.connect_options("postgres")).await?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
        if !exists {
            sqlx::raw_sql(AssertSqlSafe(format!("create database {DATABASE}"))).execute(&mut connection).await?;
        }
        connection.close().await
    };
    create.await.map_err(|error| StartError::Db(DbError::from(error)))
}

/// Key and secret of the embedded S3: made once, kept in a file that only we can read.
fn s3_credentials(data_dir: &Path) -> Result<(String, SecretString), StartError> {
    #[derive(Serialize, Deserialize)]
    struct Stored {
        access_key: String,
        secret_key: String,
    }
    let path = data_dir.join("s3-credentials.json");
    let stored: Stored = if let Ok(bytes) = fs::read(&path) {
        serde_json::from_slice(&bytes)
            .map_err(|_| StartError::Server(format!("{} is damaged: remove it", path.display())))?
    } else {
        let (mut access, mut secret) = ([0u8; 10], [0u8; 32]);
        rand::fill(&mut access);
        rand::fill(&mut secret);
        let stored = Stored { access_key: hex::encode(access), secret_key: hex::encode(secret) };
        write_private(&path, &stored)?;
        stored
    };
    Ok((stored.access_key, SecretString::from(stored.secret_key)))
}

fn write_endpoints(config: &Config, postgres: &EmbeddedPostgres, s3: Option<&EmbeddedS3>) -> Result<(), StartError> {
    let (s3_access_key, s3_secret_key) = match s3 {
        Some(_) => {
            let (access_key, secret_key) = s3_credentials(&config.data_dir)?;
            (access_key, secret_key.expose_secret().to_owned())
        }
        None => Default::default(),
    };
    let endpoints = Endpoints {
        postgres_socket_dir: postgres.socket_dir().to_owned(),
        database: DATABASE.to_owned(),
        s3_endpoint: s3.map(EmbeddedS3::endpoint),
        s3_access_key,
        s3_secret_key,
    };
    write_private(&config.data_dir.join("run").join("endpoints.json"), &endpoints)
}

fn read_endpoints(data_dir: &Path) -> Result<Endpoints, StartError> {
    let path = data_dir.join("run").join("endpoints.json");
    let missing = || {
        StartError::Server(format!(
            "no embedded instance runs on {}: start `chartgate serve` there first, or set DATABASE_URL and the S3 settings",
            data_dir.display()
        ))
    };
    let bytes = fs::read(path).map_err(|_| missing())?;
    serde_json::from_slice(&bytes).map_err(|_| missing())
}

/// Write a JSON file with mode 0600, whole or not at all.
///
/// # Errors
/// [`StartError::Server`] naming the file.
pub(crate) fn write_private<T: Serialize>(path: &Path, value: &T) -> Result<(), StartError> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| StartError::Server(format!("cannot write {}: {error}", path.display())))
}

/// An error with its causes in one line.
fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
