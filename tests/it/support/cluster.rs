//! One throw-away PostgreSQL for the whole test suite, and one database a test.
//!
//! The cluster is shared between test processes (several binaries, or nextest with a process a test) and outlives none
//! of them by more than some seconds: a shared `flock` on `lease` is the count of its users, which the kernel keeps
//! right however a process ends; `gate` serializes those who start or remove it; a detached shell takes both
//! exclusively once nobody is left, stops the server and deletes its files. `fsync` is off.
//!
//! A database is cloned from a template that holds the migrated schema and is named by a hash of the migrations.

use chartgate::db::embedded::{account, binaries};
use chartgate::db::migrate;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// How long an unused cluster is kept for the next test run, in seconds.
const LINGER_SECONDS: &str = "10";

const SETTINGS: &str = "-c listen_addresses= -c max_connections=400 -c shared_buffers=64MB -c fsync=off -c synchronous_commit=off \
                        -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off";

/// Waits until nobody holds the lease, then removes the cluster. `$B`, `$L`, `$R`: binaries, linger, root.
const REAPER: &str = r#"while sleep "$L"; do
  flock -n -x "$R/gate" flock -n -x "$R/lease" sh -c '"$B/pg_ctl" -D "$R/pg/data" -m immediate stop >/dev/null; rm -rf "$R/pg"' && exit
done"#;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An empty database with the newest schema; dropped, as well as can be, with this value.
#[derive(Debug)]
pub struct TestDatabase {
    /// Its name in the shared cluster.
    pub name: String,
    options: PgConnectOptions,
}

impl TestDatabase {
    /// A fresh clone of the migrated template.
    pub async fn new() -> Self {
        let socket_dir = tokio::task::spawn_blocking(socket_dir).await.unwrap();
        let superuser = PgConnectOptions::new_without_pgpass().socket(&socket_dir).port(5432).username("postgres");
        let mut connection = PgConnection::connect_with(&superuser.clone().database("postgres")).await.unwrap();
        let template = template(&mut connection, &superuser).await;
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // A process of the same number may have left one: process ids come round.
        run(&mut connection, format!("drop database if exists {name} with (force)")).await;
        // With fsync off, copying files is several times faster than writing the clone through the WAL.
        run(&mut connection, format!("create database {name} template {template} strategy file_copy")).await;
        connection.close().await.unwrap();
        Self { options: superuser.database(&name), name }
    }

    /// Connects as superuser `postgres`; `Db` switches to the program's role by itself.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        janitor().send((self.options.clone().database("postgres"), self.name.clone())).unwrap();
    }
}

async fn run(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

/// Drops databases in a thread of its own, because a test's runtime ends with the test. What is left when the process
/// ends goes with the cluster.
fn janitor() -> &'static std::sync::mpsc::Sender<(PgConnectOptions, String)> {
    static JANITOR: OnceLock<std::sync::mpsc::Sender<(PgConnectOptions, String)>> = OnceLock::new();
    JANITOR.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel::<(PgConnectOptions, String)>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for (options, name) in receiver {
                runtime.block_on(async {
                    if let Ok(mut connection) = PgConnection::connect_with(&options).await {
                        let statement = format!("drop database if exists {name} with (force)");
                        let _ = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await;
                    }
                });
            }
        });
        sender
    })
}

/// The template of this schema, made by whoever comes first.
async fn template(connection: &mut PgConnection, superuser: &PgConnectOptions) -> String {
    let mut hash = Sha256::new();
    for migration in migrate::MIGRATOR.iter() {
        hash.update(&migration.checksum);
    }
    let name = format!("template_{}", &hex::encode(hash.finalize())[..16]);
    let exists = "select exists(select from pg_database where datname = $1 and datistemplate)";
    if sqlx::query_scalar(exists).bind(&name).fetch_one(&mut *connection).await.unwrap() {
        return name;
    }
    run(connection, "select pg_advisory_lock(42)".to_owned()).await;
    let exists: bool = sqlx::query_scalar(exists).bind(&name).fetch_one(&mut *connection).await.unwrap();
    if !exists {
        // Half-made by a process that was killed: it is not marked as a template yet.
        run(connection, format!("drop database if exists {name} with (force)")).await;
        run(connection, format!("create database {name}")).await;
        migrate::run(&superuser.clone().database(&name)).await.unwrap();
        run(connection, format!("alter database {name} is_template true allow_connections false")).await;
    }
    run(connection, "select pg_advisory_unlock(42)".to_owned()).await;
    name
}

/// Starts or joins the cluster, once a process; blocks.
fn socket_dir() -> PathBuf {
    static CLUSTER: Mutex<Option<(File, PathBuf)>> = Mutex::new(None);
    let mut cluster = CLUSTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    cluster.get_or_insert_with(join).1.clone()
}

/// Returns the lease, to be held as long as the process lives, and the socket's directory.
fn join() -> (File, PathBuf) {
    // One for each user: what another user left is neither readable nor removable.
    let parent = Some(std::env::temp_dir()).filter(|dir| dir.as_os_str().len() < 50).unwrap_or_else(|| "/tmp".into());
    let root = parent.join(format!("chartgate-tests-{}", rustix::process::geteuid().as_raw()));
    DirBuilder::new().recursive(true).mode(0o755).create(&root).unwrap();
    let account = account::choose(Path::new("/nonexistent"), None).unwrap();
    if let Some(account) = account {
        chown(&root, Some(account.uid), Some(account.gid)).unwrap();
    }
    let gate = open(&root.join("gate"), account);
    flock(&gate, FlockOperation::LockExclusive).unwrap();
    let lease = open(&root.join("lease"), account);
    flock(&lease, FlockOperation::LockShared).unwrap();
    let binaries = binaries::find(None, None).unwrap().dir;
    let dir = root.join("pg");
    if !is_up(&binaries, account, &dir) {
        start(&binaries, account, &dir);
        spawn_reaper(&binaries, account, &root);
    }
    (lease, dir)
}

/// For writing, as `flock` wants it; the reaper opens it as `account`.
fn open(path: &Path, account: Option<account::Account>) -> File {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    if let Some(account) = account {
        chown(path, Some(account.uid), Some(account.gid)).unwrap();
    }
    file
}

fn pg_ctl(binaries: &Path, account: Option<account::Account>, dir: &Path) -> Command {
    let mut command = account::command(&binaries.join("pg_ctl"), account);
    // Not `output()`: the server would inherit the pipes and keep us waiting for their end.
    command.arg("-D").arg(dir.join("data")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn is_up(binaries: &Path, account: Option<account::Account>, dir: &Path) -> bool {
    dir.join("ready").exists() && pg_ctl(binaries, account, dir).arg("status").status().unwrap().success()
}

fn start(binaries: &Path, account: Option<account::Account>, dir: &Path) {
    // Whatever is left of an earlier one.
    let _ = pg_ctl(binaries, account, dir).args(["-m", "immediate", "stop"]).status();
    let _ = fs::remove_dir_all(dir);
    DirBuilder::new().mode(0o700).create(dir).unwrap();
    if let Some(account) = account {
        chown(dir, Some(account.uid), Some(account.gid)).unwrap();
    }
    let initdb = account::command(&binaries.join("initdb"), account)
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"])
        .output()
        .unwrap();
    assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    let settings = format!("-k {} {SETTINGS}", dir.display());
    let started = pg_ctl(binaries, account, dir)
        .arg("-l")
        .arg(dir.join("log"))
        .arg("-o")
        .arg(settings)
        .args(["-w", "start"])
        .status()
        .unwrap();
    assert!(started.success(), "{}", fs::read_to_string(dir.join("log")).unwrap_or_default());
    fs::write(dir.join("ready"), "").unwrap();
}

/// In a session of its own, so that it outlives this process.
fn spawn_reaper(binaries: &Path, account: Option<account::Account>, root: &Path) {
    let mut command = Command::new("setsid");
    command
        .args(["-f", "sh", "-c", REAPER])
        .env("R", root)
        .env("B", binaries)
        .env("L", LINGER_SECONDS)
        .current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    assert!(command.status().unwrap().success());
}
