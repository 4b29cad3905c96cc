//! The audit log: sealed in order, signed, published, verified; and what becomes of it when somebody changes it.

mod api;
mod model;
mod restores;
mod scale;
mod sealing;
mod tampering;

use crate::support::cluster::TestDatabase;
use crate::support::directory::TestDirectory;
use crate::support::objects::TestObjects;
use chartgate::audit::archive::{self, Recorder};
use chartgate::audit::note::PublicKey;
use chartgate::audit::sealer::{SealError, Sealer, SealerOptions};
use chartgate::audit::source::{Live, SourceError};
use chartgate::audit::verify::{Report, verify};
use chartgate::audit::{self, Action, Actor, Record};
use chartgate::db::{Db, DbError, Scope};
use chartgate::ids::OrganizationId;
use chartgate::objects::Objects;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;

/// A database, a bucket and a key of their own, without anything else of Chartgate.
pub struct Lab {
    pub db: Db,
    pub objects: TestObjects,
    pub database: TestDatabase,
    pub directory: TestDirectory,
}

impl Lab {
    pub async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let database = TestDatabase::new().await;
        Self {
            db: Db::connect(database.options(), 12),
            objects: TestObjects::start().await,
            database,
            directory: TestDirectory::new(),
        }
    }

    pub fn key_file(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    pub fn options(&self) -> SealerOptions {
        SealerOptions { tick: Duration::from_millis(20), duty: 1.0, ..SealerOptions::new(self.key_file()) }
    }

    pub fn sealer(&self) -> Sealer {
        self.sealer_to(self.objects.objects.clone())
    }

    pub fn sealer_to(&self, objects: Objects) -> Sealer {
        Sealer::new(self.db.clone(), objects, self.options())
    }

    /// As superuser, whom no trigger and no policy stops.
    pub async fn superuser(&self) -> PgConnection {
        let mut superuser = PgConnection::connect_with(&self.database.options()).await.unwrap();
        sqlx::raw_sql("set session_replication_role = replica").execute(&mut superuser).await.unwrap();
        superuser
    }

    pub async fn run(&self, statement: impl Into<String>) {
        let statement = AssertSqlSafe(statement.into());
        sqlx::raw_sql(statement).execute(&mut self.superuser().await).await.unwrap();
    }

    pub async fn count(&self, query: impl Into<String>) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut self.superuser().await).await.unwrap()
    }

    /// So many records, each transaction with some.
    pub async fn append(&self, organization: OrganizationId, records: usize) {
        let mut left = records;
        while left > 0 {
            let some = (left % 7 + 1).min(left);
            append(&self.db, organization, some).await;
            left -= some;
        }
    }

    /// Seal all that was committed before.
    pub async fn seal(&self) {
        self.seal_with(&mut self.sealer()).await;
    }

    pub async fn seal_with(&self, sealer: &mut Sealer) {
        let deadline = Instant::now() + Duration::from_mins(1);
        // Other databases of the cluster hold the horizon, too.
        while self.count(UNSEALED).await > 0 {
            match sealer.seal_batch().await {
                Ok(_) | Err(SealError::Db(DbError::Conflict(_))) => {}
                Err(error) => panic!("{error:?}"),
            }
            assert!(Instant::now() < deadline, "not sealed after a minute");
            tokio::task::yield_now().await;
        }
    }

    /// Seal, sign, publish.
    pub async fn checkpoint(&self) -> i64 {
        let mut sealer = self.sealer();
        self.seal_with(&mut sealer).await;
        let number = sealer.checkpoint().await.unwrap().expect("there is something to sign");
        sealer.publish().await.unwrap();
        number
    }

    /// The public key of the key's file.
    pub async fn anchors(&self) -> Vec<PublicKey> {
        let log: uuid::Uuid =
            sqlx::query_scalar("select id from audit_log").fetch_one(&mut self.superuser().await).await.unwrap();
        let key = chartgate::audit::keys::SigningKey::load(&self.key_file()).unwrap().unwrap();
        vec![key.key(log)]
    }

    pub fn live(&self) -> Live {
        Live::new(self.db.clone(), self.objects.objects.clone(), None)
    }

    pub async fn verify(&self) -> Report {
        verify(&mut self.live(), &self.anchors().await).await.unwrap()
    }

    /// The log as a file, and the verdict that was found while writing it.
    pub async fn export(&self) -> (Vec<u8>, Report) {
        let bytes = Sink::default();
        let mut recorder = Recorder::new(self.live(), bytes.clone());
        let report = verify(&mut recorder, &self.anchors().await).await.unwrap();
        recorder.finish(serde_json::to_value(&report).unwrap()).await.unwrap();
        let written = bytes.0.lock().unwrap().clone();
        (written, report)
    }
}

/// The verdict on an export.
pub async fn verify_export(bytes: &[u8], anchors: &[PublicKey]) -> Result<Report, SourceError> {
    archive::verify_export(bytes, anchors).await
}

/// Committed records that are in no batch.
pub const UNSEALED: &str = "select count(*) from audit_records r where not exists (
    select from audit_leaves l where r.id = any (l.record_ids))";

pub async fn append(db: &Db, organization: OrganizationId, records: usize) {
    db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
        Box::pin(async move {
            for number in 0..records {
                let actor = Actor { name: format!("key:{number}"), ..Actor::internal("test") };
                let mut record = Record::new(organization, "clinical.read", Action::Read, &actor);
                record.detail = Some(serde_json::json!({ "number": number, "found": true }));
                audit::append(connection, record).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
}

/// Bytes in memory.
#[derive(Clone, Default)]
pub struct Sink(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Sink {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
