//! Clients that hang up at random moments, on a small pool behind a slow connection to the database: no transaction is
//! left open, and every 202 that was seen has its job.
//!
//! The full size: `CHARTGATE_DISCONNECTS=5000 cargo test --test it http::disconnects`.

use super::{BUNDLE, FHIR, call, post_bundle, small};
use crate::support::app::{Setup, TestApp, job_of};
use crate::support::cluster::TestDatabase;
use crate::support::slow_postgres::SlowPostgres;
use chartgate::db::{Db, DbError, Scope};
use chartgate::ids::OrganizationId;
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How late the database's answers come.
const DELAY: Duration = Duration::from_millis(3);
/// Long enough for any answer.
const PATIENT: Duration = Duration::from_secs(10);

fn requests(default: u64) -> u64 {
    std::env::var("CHARTGATE_DISCONNECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn count(options: &PgConnectOptions, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

const OPEN: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and (state like 'idle in transaction%' or state = 'active')";

/// Until nothing is under way any more.
async fn drain(options: &PgConnectOptions) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(options, OPEN).await > 0 {
        assert!(Instant::now() < deadline, "a transaction is still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_unit_dropped_at_any_moment_on_a_pool_of_two_leaks_nothing_where_the_bare_way_does() {
    let database = TestDatabase::new().await;
    let slow = SlowPostgres::start(&database.options(), DELAY);
    let options = slow.options(&database.options());
    let mut random = StdRng::seed_from_u64(1);

    let bare = PgPoolOptions::new().max_connections(2).connect_with(options.clone()).await.unwrap();
    let mut leaks = 0;
    for _ in 0..requests(300) {
        let _ = tokio::time::timeout(moment(&mut random, 1), bare.begin()).await;
        leaks += i64::from(count(&database.options(), OPEN).await > 0);
    }
    assert!(leaks > 0, "the bare way left no transaction open: sqlx is mended, and `Db::unit` could be simpler");
    bare.close().await;

    let db = Db::connect(options, 2);
    let acknowledged = Arc::new(AtomicU64::new(0));
    for number in 0..requests(300) {
        let unit = db.unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                let insert = "insert into organizations (id, name) values ($1, $1::text)";
                sqlx::query(insert).bind(OrganizationId::new()).execute(connection).await?;
                Ok(())
            })
        });
        if let Ok(done) = tokio::time::timeout(moment(&mut random, number), unit).await {
            done.unwrap();
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    drain(&database.options()).await;
    let rows = count(&database.options(), "select count(*) from organizations").await;
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    assert!(rows >= i64::try_from(acknowledged).unwrap(), "{acknowledged} acknowledged, {rows} there");
    assert!(acknowledged > 0 && acknowledged < requests(300), "both kinds happened");
    db.unit::<_, DbError, _>(Scope::Global, |_| Box::pin(async { Ok(()) })).await.unwrap();
}

/// Before, between or after the statements of a short transaction; each tenth caller is patient, also on a busy machine.
fn moment(random: &mut StdRng, number: u64) -> Duration {
    if number.is_multiple_of(10) { PATIENT } else { Duration::from_micros(random.random_range(100..25_000)) }
}

#[tokio::test]
async fn clients_that_hang_up_leave_no_transaction_open_and_no_202_without_its_job() {
    let database = TestDatabase::new().await;
    let slow = SlowPostgres::start(&database.options(), DELAY);
    let setup = Setup { database: Some(slow.options(&database.options())), connections: 4, ..Setup::default() };
    let app = TestApp::with(setup).await;
    let address = app.url.strip_prefix("http://").unwrap().to_owned();
    let requests = requests(300);
    let seen: Vec<String> = futures::stream::iter(0..requests)
        .map(|seed| {
            let (address, app) = (address.clone(), &app);
            async move { hang_up(&address, app, seed).await }
        })
        .buffer_unordered(16)
        .filter_map(|seen| async move { seen })
        .collect()
        .await;
    drain(&database.options()).await;
    let jobs = count(&database.options(), "select count(*) from jobs").await;
    let seen_count = i64::try_from(seen.len()).unwrap();
    assert!(seen_count > 0 && seen_count < i64::try_from(requests).unwrap(), "{seen_count} of {requests} were seen");
    assert!(jobs >= seen_count, "{seen_count} were seen, {jobs} are there");
    for job in &seen {
        app.job(job).await;
    }
    // Nothing is half there.
    let whole = "select count(*) from jobs j
        join payloads p on p.organization_id = j.organization_id and p.sha256 = j.payload_sha256
        join queue q on q.job_id = j.id
        join idempotency_keys k on k.job_id = j.id";
    assert_eq!(count(&database.options(), whole).await, jobs);
    // Everything still works, on every connection of the pool.
    let after = (0..8).map(|number| post_bundle(&app, &[FHIR], small(1_000_000 + number)));
    for answer in futures::future::join_all(after).await {
        let job = job_of(&answer.json());
        assert_eq!((answer.status, &app.job(&job).await["status"]), (202, &serde_json::json!("queued")));
    }
    let listed = call(&app, Method::GET, "/v1/ingestion/jobs?limit=1", &app.organization.sender, &[], "").await;
    assert_eq!(listed.status, 200);
    drain(&database.options()).await;
}

/// Send a request (most are submissions), and read its answer unless it takes too long. Returns the job of a 202.
async fn hang_up(address: &str, app: &TestApp, seed: u64) -> Option<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let (key, body) = (&app.organization.sender, small(seed));
    let request = if seed.is_multiple_of(5) {
        format!("GET /v1/ingestion/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n").into_bytes()
    } else {
        let head = format!(
            "POST {BUNDLE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/fhir+json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    };
    let mut stream = TcpStream::connect(address).await.ok()?;
    let sent =
        if seed % 10 == 1 || random.random_bool(0.9) { request.len() } else { random.random_range(1..request.len()) };
    stream.write_all(&request[..sent]).await.ok()?;
    let patience = match seed % 10 {
        1 => PATIENT,
        _ => Duration::from_micros(random.random_range(500..120_000)),
    };
    let mut answer = vec![0; 8192];
    let length = tokio::time::timeout(patience, stream.read(&mut answer)).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    let body = text.strip_prefix("HTTP/1.1 202")?.split("\r\n\r\n").nth(1)?;
    Some(job_of(&serde_json::from_str(body).ok()?))
}
