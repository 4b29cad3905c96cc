//! One cluster on disk and its postmaster: make it, start it, stop it. Watching over it is the supervisor's part.

use super::account::{self, Account};
use super::binaries::{self, Binaries};
use super::{EmbeddedError, EmbeddedOptions, orphan, settings};
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Crash recovery replays at most `max_wal_size`, which is minutes on a slow disk.
const READY_WITHIN: Duration = Duration::from_mins(5);
/// A fast shutdown ends with a checkpoint of everything in memory.
const FAST_WITHIN: Duration = Duration::from_mins(1);
/// `sun_path` holds 107 bytes; `/.s.PGSQL.5432.lock` takes 19 of them.
const SOCKET_DIR_BYTES_MAX: usize = 88;
/// Size of a file of PostgreSQL's log of changes. One that is not there yet is filled with zeros while all commits wait for it:
/// 50 to 100 ms beside a bulk file at PostgreSQL's 16 MB (docs/decisions/0016-work-that-gives-way.md).
const LOG_FILE_MEGABYTES: u32 = 2;
/// The log is set aside at a start once it has this size; with what we let PostgreSQL log, that is months.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A cluster whose lock we hold, with or without a running postmaster.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    account: Option<Account>,
    data: PathBuf,
    run: PathBuf,
    log: PathBuf,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    /// Held as long as we live; the kernel drops it with us.
    _lock: File,
}

impl Cluster {
    /// Take the directory, make the cluster if there is none. Nothing runs yet.
    pub fn open(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let dir = make_directories(options)?;
        let lock = take_lock(&dir)?;
        let data = dir.join("cluster");
        let existing = major_of_cluster(&data)?;
        let binaries =
            binaries::find(options.binaries.as_deref(), existing).map_err(|error| match (error, existing) {
                (EmbeddedError::NoBinaries, Some(major)) => EmbeddedError::OtherMajor { cluster: data.clone(), major },
                (error, _) => error,
            })?;
        let account = account::choose(&data, options.run_as.as_deref())?;
        account::check_reachable(&dir, account)?;
        account::check_reachable(&binaries.dir.join("postgres"), account)?;
        give(&dir, account)?;
        if existing.is_none() {
            initialize(&binaries, account, &data, options.durable)?;
        }
        let mut settings =
            if options.durable { settings::durable(&binaries, account, &data) } else { settings::throw_away() };
        // The last one of a name wins.
        settings.extend(options.settings.iter().cloned());
        let run = socket_directory(&dir);
        Ok(Self { binaries, account, data, run, log: dir.join("postgres.log"), settings, child: None, _lock: lock })
    }

    /// Start the postmaster and wait until it accepts connections. `interrupted` is asked all the while.
    ///
    /// The calling thread must live as long as the server: the kernel stops the postmaster when the **thread** that
    /// forked it ends.
    pub fn start(&mut self, interrupted: impl Fn() -> bool) -> Result<(), EmbeddedError> {
        orphan::clear(&self.data)?;
        self.wipe_socket_directory()?;
        self.set_log_aside()?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(EmbeddedError::io("open", &self.log))?;
        let errors = log.try_clone().map_err(EmbeddedError::io("open", &self.log))?;
        let program = self.binaries.dir.join("postgres");
        let mut command = account::command(&program, self.account);
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.run);
        command.args(self.settings.iter().map(|(name, value)| format!("-c{name}={value}")));
        // Its own process group: Ctrl-C in our terminal reaches us only, we drain, and stop the database last.
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        end_with_this_thread(&mut command);
        let child = self.child.insert(command.spawn().map_err(EmbeddedError::io("start", &program))?);

        let deadline = Instant::now() + READY_WITHIN;
        let pid_file = self.data.join("postmaster.pid");
        loop {
            if let Some(status) = child.try_wait().map_err(EmbeddedError::io("watch", &program))? {
                self.child = None;
                return Err(EmbeddedError::Ended { status: describe(status), log: last_lines(&self.log) });
            }
            if fs::read_to_string(&pid_file).is_ok_and(|text| orphan::is_ready(&text, child.id())) {
                return Ok(());
            }
            if Instant::now() > deadline || interrupted() {
                self.stop();
                return Err(EmbeddedError::NotReady { seconds: READY_WITHIN.as_secs(), log: self.log.clone() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has the postmaster ended? (Then it has been reaped.)
    pub fn ended(&mut self) -> Option<String> {
        // An error of waitpid means that there is no such child (any more).
        let status = self
            .child
            .as_mut()?
            .try_wait()
            .map_or_else(|error| Some(error.to_string()), |status| status.map(describe))?;
        self.child = None;
        Some(status)
    }

    /// Fast shutdown: connections are ended, a checkpoint is written. Immediate, then killed, if that takes too long;
    /// both only cost the next start a recovery.
    pub fn stop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        let Some(mut child) = self.child.take() else { return };
        for (signal, within) in
            [(Signal::INT, FAST_WITHIN), (Signal::QUIT, Duration::from_secs(10)), (Signal::KILL, FAST_WITHIN)]
        {
            // It may have ended in this instant; waiting tells.
            let _ = kill_process(Pid::from_child(&child), signal);
            let deadline = Instant::now() + within;
            while Instant::now() < deadline {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn socket_dir(&self) -> &Path {
        &self.run
    }

    /// PostgreSQL checks `.s.PGSQL.5432.lock` as it checks `postmaster.pid`, so a stale one stops it just the same.
    fn wipe_socket_directory(&self) -> Result<(), EmbeddedError> {
        match fs::remove_dir_all(&self.run) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(EmbeddedError::io("remove", &self.run)(error));
            }
            _ => {}
        }
        // Not recursive: if somebody else made the short directory in between, this fails rather than trusts it.
        DirBuilder::new().mode(0o700).create(&self.run).map_err(EmbeddedError::io("create", &self.run))?;
        give(&self.run, self.account)
    }

    fn set_log_aside(&self) -> Result<(), EmbeddedError> {
        if fs::metadata(&self.log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            fs::rename(&self.log, self.log.with_extension("log.1")).map_err(EmbeddedError::io("rename", &self.log))?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `data_dir` (which other accounts may enter if we are root: the server runs as one) and `data_dir/postgres` (which
/// nobody else may). Returns the latter as an absolute path without links, as the server sees it.
fn make_directories(options: &EmbeddedOptions) -> Result<PathBuf, EmbeddedError> {
    let outer = &options.data_dir;
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(outer).map_err(EmbeddedError::io("create", outer))?;
    let dir = outer.canonicalize().map_err(EmbeddedError::io("open", outer))?.join("postgres");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(EmbeddedError::io("create", &dir))?;
    Ok(dir)
}

/// How often, and how long after one another, the lock of the directory is asked for: one second in all.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

fn take_lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(EmbeddedError::io("open", &path))?;
    // A process that this one starts has a copy of every open file between its fork and its exec: the lock of a server that
    // was stopped a moment ago may outlive it by as long as that takes.
    for attempt in 0.. {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if attempt < LOCK_ATTEMPTS => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(EmbeddedError::InUse { dir: dir.to_owned() }),
            Err(error) => return Err(EmbeddedError::io("lock", &path)(error.into())),
        }
    }
    Ok(lock)
}

fn major_of_cluster(data: &Path) -> Result<Option<u32>, EmbeddedError> {
    let path = data.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let invalid =
                || EmbeddedError::io("understand", &path)(std::io::Error::from(std::io::ErrorKind::InvalidData));
            text.trim().parse().map(Some).map_err(|_| invalid())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EmbeddedError::io("read", &path)(error)),
    }
}

/// Below the data, or a short directory of its own where the path would not fit into a socket address.
fn socket_directory(dir: &Path) -> PathBuf {
    let run = dir.join("run");
    if run.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
        return run;
    }
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    PathBuf::from(format!("/tmp/.chartgate-{:016x}", hasher.finish()))
}

fn give(path: &Path, account: Option<Account>) -> Result<(), EmbeddedError> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid), Some(account.gid)).map_err(EmbeddedError::io("change the owner of", path))
}

/// initdb beside the final place, then rename: a half-made cluster is never used.
fn initialize(binaries: &Binaries, account: Option<Account>, data: &Path, durable: bool) -> Result<(), EmbeddedError> {
    let new = data.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(EmbeddedError::io("remove", &new)(error));
        }
        _ => {}
    }
    let program = binaries.dir.join("initdb");
    let mut command = account::command(&program, account);
    command.arg("-D").arg(&new).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
        "--data-checksums",
    ]);
    if durable {
        command.arg(format!("--wal-segsize={LOG_FILE_MEGABYTES}"));
    } else {
        command.arg("--no-sync");
    }
    let output = command.stdin(Stdio::null()).output().map_err(EmbeddedError::io("start", &program))?;
    if !output.status.success() {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if text.contains("could not look up effective user ID") {
            return Err(EmbeddedError::Account(format!(
                "PostgreSQL needs an account, and uid {} has no entry in /etc/passwd: add one, or set DATABASE_URL",
                rustix::process::geteuid().as_raw()
            )));
        }
        return Err(EmbeddedError::Initdb { output: one_line(&text) });
    }
    fs::rename(&new, data).map_err(EmbeddedError::io("rename", &new))?;
    let parent = data.parent().unwrap_or(data);
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(EmbeddedError::io("sync", parent))
}

/// The kernel sends SIGINT (fast shutdown) to the child when the calling thread ends, however it ends.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "std offers no other way to set the parent-death signal")]
fn end_with_this_thread(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: prctl(2) and
    // getppid(2) are system calls without locks or allocation, and building the error from a number allocates nothing.
    // std runs it after setuid(2), which would clear the signal again.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::INT))?;
            // The parent died before the signal was set: nobody would ever stop this child.
            if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
        });
    }
}

/// Elsewhere a killed program leaves its server running, and the next start stops it.
#[cfg(not(target_os = "linux"))]
fn end_with_this_thread(_: &mut Command) {}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    one_line(&lines[lines.len().saturating_sub(5)..].join("\n"))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_a_short_socket_directory_that_is_the_same_every_time() {
        let short = Path::new("/var/lib/chartgate/postgres");
        assert_eq!(socket_directory(short), short.join("run"));
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert!(socket_directory(&long).as_os_str().len() <= SOCKET_DIR_BYTES_MAX);
        assert_eq!(socket_directory(&long), socket_directory(&long));
    }
}
