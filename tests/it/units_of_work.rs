//! What becomes of a transaction whose caller is dropped, as axum drops a handler when its client hangs up: the bare way
//! of sqlx leaves it open on a pooled connection, [`Db::unit`] does not.

use crate::support::cluster::TestDatabase;
use chartgate::db::{Db, DbError, Scope};
use chartgate::ids::OrganizationId;
use futures::FutureExt as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Acquire as _, Connection as _};
use std::pin::pin;
use std::time::{Duration, Instant};

const INSERT: &str = "insert into organizations (id, name) values ($1, $1::text)";

/// Sessions of the database that stand in an open transaction.
async fn open_transactions(observer: &mut PgConnection) -> i64 {
    let query = "select count(*) from pg_stat_activity
                 where datname = current_database() and state like 'idle in transaction%'";
    sqlx::query_scalar(query).fetch_one(observer).await.unwrap()
}

async fn organizations(observer: &mut PgConnection) -> usize {
    let count: i64 = sqlx::query_scalar("select count(*) from organizations").fetch_one(observer).await.unwrap();
    usize::try_from(count).unwrap()
}

/// Until the facts are there; the tests' own timeout ends it.
async fn wait_for_organizations(observer: &mut PgConnection, wanted: usize) {
    while organizations(observer).await < wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn insert(db: &Db) -> Result<(), DbError> {
    db.unit(Scope::Global, |connection| {
        Box::pin(async move {
            sqlx::query(INSERT).bind(OrganizationId::new()).execute(connection).await?;
            Ok(())
        })
    })
    .await
}

fn observer(database: &TestDatabase) -> impl Future<Output = PgConnection> {
    let options: PgConnectOptions = database.options();
    async move { PgConnection::connect_with(&options).await.unwrap() }
}

#[tokio::test]
async fn the_bare_way_loses_an_acknowledged_write_after_a_cancelled_begin() {
    let database = TestDatabase::new().await;
    let mut observer = observer(&database).await;
    let pool = PgPoolOptions::new().max_connections(1).connect_with(database.options()).await.unwrap();
    // The leak needs that `begin` was sent and its answer had not come when the caller was dropped: nearly always so, but a
    // server that waits for nothing but this connection may be quicker many times.
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        let mut connection = pool.acquire().await.unwrap();
        let polled = pin!(connection.begin()).now_or_never();
        assert!(polled.is_none_or(|begun| begun.is_ok()));
        drop(connection);
        // The next borrower gets the connection as it is.
        drop(pool.acquire().await.unwrap());
        if open_transactions(&mut observer).await > 0 {
            break;
        }
    }
    assert_eq!(
        open_transactions(&mut observer).await,
        1,
        "sqlx does not leak a cancelled `begin` any more: docs/decisions/0005-units-of-work.md can be told so"
    );
    sqlx::query(INSERT).bind(OrganizationId::new()).execute(&pool).await.unwrap();
    assert_eq!(organizations(&mut observer).await, 0, "acknowledged, and seen by nobody");
    pool.close().await;
    assert_eq!(organizations(&mut observer).await, 0, "acknowledged, and lost");
}

#[tokio::test]
async fn a_unit_whose_caller_is_dropped_goes_on_to_its_end() {
    const UNITS: usize = 500;
    let database = TestDatabase::new().await;
    let mut observer = observer(&database).await;
    // Fewer connections than callers: some are dropped while they wait for one.
    let db = Db::connect(database.options(), 2);
    for number in 0..UNITS {
        let mut unit = pin!(insert(&db));
        // Dropped at every moment from its first poll to some time after its commit.
        let patience = Duration::from_micros(u64::try_from(number % 50).unwrap() * 40);
        if unit.as_mut().now_or_never().is_none() {
            let _ = tokio::time::timeout(patience, unit).await;
        }
    }
    wait_for_organizations(&mut observer, UNITS).await;
    assert_eq!(organizations(&mut observer).await, UNITS);
    // The pool is as good as new: what it acknowledges is there for everybody.
    for number in 1..=10 {
        insert(&db).await.unwrap();
        assert_eq!(organizations(&mut observer).await, UNITS + number);
    }
    assert_eq!(open_transactions(&mut observer).await, 0);
}

#[tokio::test]
async fn a_unit_that_fails_or_panics_leaves_nothing_behind() {
    let database = TestDatabase::new().await;
    let mut observer = observer(&database).await;
    let db = Db::connect(database.options(), 1);
    let failed: Result<(), DbError> = db
        .unit(Scope::Global, |connection| {
            Box::pin(async move {
                sqlx::query(INSERT).bind(OrganizationId::new()).execute(connection).await?;
                Err(DbError::NotOneRow(0))
            })
        })
        .await;
    assert!(matches!(failed, Err(DbError::NotOneRow(0))));
    let panicked: Result<(), DbError> = db
        .unit(Scope::Global, |connection| {
            Box::pin(async move {
                sqlx::query(INSERT).bind(OrganizationId::new()).execute(connection).await?;
                panic!("on purpose")
            })
        })
        .await;
    assert!(matches!(panicked, Err(DbError::Panicked)));
    // One connection: this unit gets the one that the others have used.
    insert(&db).await.unwrap();
    assert_eq!(organizations(&mut observer).await, 1);
    assert_eq!(open_transactions(&mut observer).await, 0);
}

/// How much a thread's or a process's priority is lowered: the 19th field of `stat` (proc(5)), the 17th behind the name.
fn niceness(stat: &str) -> i32 {
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(16).unwrap().parse().unwrap()
}

async fn niceness_of_server(db: &Db) -> i32 {
    let process: i32 = db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move { Ok(sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await?) })
        })
        .await
        .unwrap();
    niceness(&std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap())
}

async fn niceness_of_units(db: &Db) -> i32 {
    let read = |_: &mut PgConnection| std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let stat = db
        .unit::<_, DbError, _>(Scope::Global, move |connection| Box::pin(async move { Ok(read(connection)) }))
        .await
        .unwrap();
    niceness(&stat)
}

#[tokio::test]
async fn background_units_and_computations_give_way_and_so_do_their_server_processes_if_they_are_ours() {
    let database = TestDatabase::new().await;
    let own = niceness(&std::fs::read_to_string("/proc/thread-self/stat").unwrap());
    let lowered = (own + 10).min(19);
    for (is_ours, server) in [(true, 10), (false, 0)] {
        let db = Db::connect(database.options(), 2).with_background(2, is_ours);
        let ordinary = niceness_of_server(&db).await;
        let background = db.background();
        assert_eq!(niceness_of_server(&background).await, if is_ours { server } else { ordinary });
        assert_eq!(niceness_of_units(&background).await, lowered);
        let computed = background.compute(|| std::fs::read_to_string("/proc/thread-self/stat").unwrap()).await.unwrap();
        assert_eq!(niceness(&computed), lowered);
        // The others are as they were.
        assert_eq!(niceness_of_units(&db).await, own);
        assert_eq!(niceness_of_server(&db).await, ordinary);
    }
    // Without a second pool it is the same database.
    let db = Db::connect(database.options(), 1);
    assert_eq!(niceness_of_units(&db.background()).await, own);
}
