//! The PostgreSQL that the program starts itself, killed in every way that leaves something behind.

use crate::support::cluster::TestDatabase;
use crate::support::directory::TestDirectory;
use crate::support::program::{self, Program};
use chartgate::db::DbError;
use chartgate::db::embedded::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres, account, binaries};
use chartgate::db::log_settings::{OpenSetting, open_settings};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Starts in a thread of the blocking pool, which soon ends: the server must not end with it.
async fn start(options: &EmbeddedOptions) -> Result<EmbeddedPostgres, EmbeddedError> {
    let options = options.clone();
    tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&options)).await.unwrap()
}

/// Without `fsync` and `synchronous_commit`, where no commit has to survive.
fn quick(directory: impl Into<PathBuf>) -> EmbeddedOptions {
    EmbeddedOptions { durable: false, ..EmbeddedOptions::new(directory) }
}

async fn connect(server: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect_with(&server.connect_options("postgres")).await.unwrap()
}

async fn show(connection: &mut PgConnection, setting: &str) -> String {
    sqlx::query_scalar("select current_setting($1)").bind(setting).fetch_one(connection).await.unwrap()
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 30 s until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

fn is_alive(pid: u32) -> bool {
    // A zombie is dead; whether somebody reaps it is not ours to say.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[tokio::test]
async fn a_fresh_directory_becomes_a_durable_server_on_a_private_socket() {
    let directory = TestDirectory::new();
    let server = start(&EmbeddedOptions::new(directory.path())).await.unwrap();
    let mut connection = connect(&server).await;
    for (setting, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("wal_segment_size", "2MB"),
        ("backend_flush_after", "2MB"),
        ("listen_addresses", ""),
        ("log_min_messages", "log"),
        ("log_min_error_statement", "panic"),
        ("log_parameter_max_length_on_error", "0"),
        ("shared_preload_libraries", ""),
    ] {
        assert_eq!(show(&mut connection, setting).await, value, "{setting}");
    }
    assert_eq!(open_settings(&mut connection).await.unwrap(), []);
    // Neither the values nor the text of a statement that fails may reach the log: a cast, a parameter, a row.
    sqlx::query("select 'MRN-SECRET'::int").execute(&mut connection).await.unwrap_err();
    sqlx::query("select $1::text::int").bind("MRN-SECRET").execute(&mut connection).await.unwrap_err();
    sqlx::raw_sql("create table people (mrn text primary key); insert into people values ('MRN-SECRET')")
        .execute(&mut connection)
        .await
        .unwrap();
    let taken = sqlx::query("insert into people values ($1)").bind("MRN-SECRET").execute(&mut connection).await;
    let taken = DbError::from(taken.unwrap_err());
    let chain = format!("{taken} {taken:?} {}", std::error::Error::source(&taken).unwrap());
    assert!(chain.contains("23505 people_pkey") && !chain.contains("MRN-SECRET"), "{chain}");
    // What a server logs whose settings are others, and that `doctor` names them.
    sqlx::raw_sql("set log_min_messages = 'error'; set log_error_verbosity = 'default'; set log_statement = 'all'")
        .execute(&mut connection)
        .await
        .unwrap();
    let open: Vec<String> = open_settings(&mut connection).await.unwrap().iter().map(OpenSetting::remedy).collect();
    let expected = ["log_min_messages = 'log'", "log_error_verbosity = 'terse'", "log_statement = 'none'"];
    assert_eq!(open, expected.map(|set| format!("alter role chartgate_app set {set}")));
    let log = std::fs::read_to_string(directory.path().join("postgres/postgres.log")).unwrap();
    assert!(!log.contains("MRN-SECRET"), "{log}");
    assert_eq!(std::fs::metadata(server.socket_dir()).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn data_is_there_after_a_stop_and_a_second_start() {
    let directory = TestDirectory::new();
    let options = quick(directory.path());
    let server = start(&options).await.unwrap();
    let mut connection = connect(&server).await;
    sqlx::raw_sql("create table kept (id int); insert into kept values (7)").execute(&mut connection).await.unwrap();
    let pid = server.pid().unwrap();
    tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
    assert!(!is_alive(pid));
    let server = start(&options).await.unwrap();
    let kept: i32 = sqlx::query_scalar("select id from kept").fetch_one(&mut connect(&server).await).await.unwrap();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn a_killed_postmaster_is_started_again_with_its_data() {
    let directory = TestDirectory::new();
    let server = start(&EmbeddedOptions::new(directory.path())).await.unwrap();
    let mut connection = connect(&server).await;
    sqlx::raw_sql("create table kept (id int); insert into kept values (7)").execute(&mut connection).await.unwrap();
    for restarts in 1..=2 {
        let killed = server.pid().unwrap();
        signal(killed, Signal::KILL);
        wait_until("the supervisor restarted the server", || server.restarts() == restarts).await;
        assert_ne!(server.pid(), Some(killed));
        let kept: i32 = sqlx::query_scalar("select id from kept").fetch_one(&mut connect(&server).await).await.unwrap();
        assert_eq!(kept, 7);
    }
}

#[tokio::test]
async fn a_second_instance_on_the_same_directory_is_refused() {
    let directory = TestDirectory::new();
    let options = quick(directory.path());
    let _server = start(&options).await.unwrap();
    let error = start(&options).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    assert!(error.to_string().starts_with("another chartgate runs its database in "), "{error}");
}

#[tokio::test]
async fn a_pid_file_with_a_reused_number_does_not_stop_a_start() {
    let directory = TestDirectory::new();
    let options = quick(directory.path());
    let server = start(&options).await.unwrap();
    let pid_file = directory.path().join("postgres/cluster/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    let postmaster = server.pid().unwrap();
    tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
    // As a crash leaves it, with a number that now belongs to another process of the same account: PostgreSQL by itself
    // takes that for a running server.
    let account = account::choose(&directory.path().join("postgres/cluster"), None).unwrap();
    let mut other = account::command(Path::new("sleep"), account).arg("60").spawn().unwrap();
    std::fs::write(&pid_file, text.replacen(&postmaster.to_string(), &other.id().to_string(), 1)).unwrap();
    let server = start(&options).await.unwrap();
    connect(&server).await;
    assert!(matches!(other.try_wait(), Ok(None)), "the other process was left alone");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_address_works() {
    let directory = TestDirectory::new();
    let deep = directory.path().join("d".repeat(120));
    let server = start(&quick(deep)).await.unwrap();
    connect(&server).await;
    let socket_dir = server.socket_dir().to_owned();
    tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
    std::fs::remove_dir_all(socket_dir).unwrap();
}

#[tokio::test]
async fn a_directory_that_the_servers_account_cannot_enter_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = TestDirectory::new();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = start(&quick(directory.path().join("data"))).await.unwrap_err();
    assert!(matches!(&error, EmbeddedError::Unreachable { dir, .. } if dir == directory.path()), "{error}");
}

#[tokio::test]
async fn settings_of_the_caller_win() {
    let directory = TestDirectory::new();
    let settings = vec![("max_connections".to_owned(), "33".to_owned())];
    let server = start(&EmbeddedOptions { settings, ..quick(directory.path()) }).await.unwrap();
    assert_eq!(show(&mut connect(&server).await, "max_connections").await, "33");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let directory = TestDirectory::new();
    let settings = vec![("max_connections".to_owned(), "many".to_owned())];
    let error = start(&EmbeddedOptions { settings, ..quick(directory.path()) }).await.unwrap_err();
    assert!(error.to_string().contains("max_connections"), "{error}");
}

/// Not a test: the program that the next tests kill. It tells the postmaster's number, then every number that it has
/// committed.
#[tokio::test]
async fn program_that_gets_killed() {
    let Some(directory) = program::directory() else { return };
    let server = start(&EmbeddedOptions::new(directory)).await.unwrap();
    let mut connection = connect(&server).await;
    sqlx::raw_sql("create table if not exists kept (id int)").execute(&mut connection).await.unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "postmaster {}", server.pid().unwrap()).unwrap();
    for id in 1.. {
        sqlx::query("insert into kept values ($1)").bind(id).execute(&mut connection).await.unwrap();
        writeln!(out, "committed {id}").unwrap();
    }
}

/// The program, after its first commit, and its postmaster's number.
fn spawn_program(directory: &Path) -> (Program, u32) {
    let mut program = Program::spawn("embedded_postgres::program_that_gets_killed", directory);
    let postmaster = program.next("postmaster ").expect("the program started its server");
    program.next("committed ").expect("the program committed a row");
    (program, postmaster)
}

async fn committed_up_to(options: &EmbeddedOptions) -> u32 {
    let server = start(options).await.unwrap();
    let id: i32 = sqlx::query_scalar("select max(id) from kept").fetch_one(&mut connect(&server).await).await.unwrap();
    id.try_into().unwrap()
}

#[tokio::test]
async fn a_killed_program_leaves_no_server_behind_and_loses_no_commit() {
    let directory = TestDirectory::new();
    let (program, postmaster) = spawn_program(directory.path());
    let announced = program.kill("committed ").unwrap_or(1);
    wait_until("the postmaster of the killed program ended", || !is_alive(postmaster)).await;
    assert!(committed_up_to(&EmbeddedOptions::new(directory.path())).await >= announced);
}

#[tokio::test]
async fn a_program_starts_after_its_predecessor_and_the_postmaster_were_killed_though_nobody_reaps_them() {
    // We become the parent of whatever the helper leaves behind, and never reap it: its postmaster stays a zombie, as in
    // a container whose first process is not an init, and its number stays taken.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let directory = TestDirectory::new();
    let (program, postmaster) = spawn_program(directory.path());
    // Stopped, so that it cannot reap or replace its postmaster before it dies itself.
    signal(program.id(), Signal::STOP);
    signal(postmaster, Signal::KILL);
    let announced = program.kill("committed ").unwrap_or(1);
    wait_until("the postmaster was a zombie", || !is_alive(postmaster)).await;
    assert!(Path::new(&format!("/proc/{postmaster}")).exists(), "nobody reaped the postmaster");
    assert!(committed_up_to(&quick(directory.path())).await >= announced);
}

#[tokio::test]
async fn a_postmaster_that_outlived_its_program_is_stopped_by_the_next_start() {
    let directory = TestDirectory::new();
    let options = quick(directory.path());
    let server = start(&options).await.unwrap();
    tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
    // One that nobody ties to the life of a program, as `pg_ctl` starts it.
    let cluster = directory.path().canonicalize().unwrap().join("postgres/cluster");
    let account = account::choose(&cluster, None).unwrap();
    let binaries = binaries::find(None, None).unwrap();
    let started = account::command(&binaries.dir.join("pg_ctl"), account)
        .arg("-D")
        .arg(&cluster)
        .arg("-o")
        .arg(format!("-k {} -c listen_addresses=", cluster.display()))
        .args(["-l", "/dev/null", "-w", "start"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(started.success());
    let orphan: u32 =
        std::fs::read_to_string(cluster.join("postmaster.pid")).unwrap().lines().next().unwrap().parse().unwrap();
    let server = start(&options).await.unwrap();
    assert!(!is_alive(orphan));
    connect(&server).await;
}

#[tokio::test]
async fn every_test_has_a_migrated_database_of_its_own() {
    let (first, second) = tokio::join!(TestDatabase::new(), TestDatabase::new());
    assert_ne!(first.name, second.name);
    let mut connection = PgConnection::connect_with(&first.options()).await.unwrap();
    let tables: i64 = sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'public'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(tables > 20, "{tables}");
    sqlx::raw_sql("create table mine (id int)").execute(&mut connection).await.unwrap();
    let mut other = PgConnection::connect_with(&second.options()).await.unwrap();
    sqlx::raw_sql("create table mine (id int)").execute(&mut other).await.unwrap();
}
