//! PostgreSQL started by the program itself: for `demo`, for tests and for installations on one machine.
//!
//! For: somebody who has the PostgreSQL programs installed but no server, and types one command.
//!
//! Promises:
//! - the same durability as a server of one's own (`fsync`, full-page writes and data checksums on);
//! - a unix socket in a directory of mode 0700 and no TCP port, so that nobody else on the machine gets in;
//! - a `kill -9` of either side, at any moment, needs no repair by hand: a dead postmaster is started again, a dead
//!   program takes its postmaster along, and the next start clears away whatever was left;
//! - one program at a time on a data directory (a lock that the kernel drops with its holder);
//! - no clinical value in `postgres.log`.
//!
//! Leaves to others: migrations (`db::migrate`), roles and pools (`db`), and the choice between this and
//! `DATABASE_URL` (`config`). Nothing is downloaded.
//!
//! Below `data_dir/postgres/`: `lock`, `cluster/` (the data), `run/` (the socket; wiped at every start), `postgres.log`.

pub mod account;
pub mod binaries;
mod cluster;
mod orphan;
mod settings;
mod supervisor;

pub use supervisor::EmbeddedPostgres;

use std::io;
use std::path::{Path, PathBuf};

/// How to run the server.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The cluster lives in `postgres/` below this directory, which is made when it is missing.
    pub data_dir: PathBuf,
    /// `false` only for tests: no `fsync`, so that a crash of the machine may lose or tear data.
    pub durable: bool,
    /// Further server settings (`("shared_buffers", "1GB")`), which win over our own.
    pub settings: Vec<(String, String)>,
    /// Directory of `postgres` and `initdb`; searched for when `None` (see [`binaries::find`]).
    pub binaries: Option<PathBuf>,
    /// Account of the server when we are root; `postgres`, else `nobody`, when `None`.
    pub run_as: Option<String>,
}

impl EmbeddedOptions {
    /// A durable server in `data_dir`, everything else as found on the machine.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), durable: true, settings: Vec::new(), binaries: None, run_as: None }
    }
}

/// Why the server does not run. Every message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// PostgreSQL is not installed, or is too old.
    #[error(
        "no PostgreSQL server programs of version {} or newer found: install them (`apt-get install postgresql`), or set DATABASE_URL",
        binaries::MAJOR_MIN
    )]
    NoBinaries,
    /// The directory that the configuration names does not hold usable programs.
    #[error("{} holds no `postgres` and `initdb` of version {}", .dir.display(), wanted(*.major))]
    UnusableBinaries {
        /// As configured.
        dir: PathBuf,
        /// The major version of the existing cluster.
        major: Option<u32>,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "{} was made by PostgreSQL {major}, whose programs are not installed: install them (`apt-get install postgresql-{major}`), or choose another data directory",
        .cluster.display()
    )]
    OtherMajor {
        /// The cluster's directory.
        cluster: PathBuf,
        /// What `PG_VERSION` says.
        major: u32,
    },
    /// Another process holds the lock.
    #[error("another chartgate runs its database in {}: stop it, or choose another data directory", .dir.display())]
    InUse {
        /// `data_dir/postgres`.
        dir: PathBuf,
    },
    /// No account to run PostgreSQL under, or one that PostgreSQL refuses.
    #[error("{0}")]
    Account(String),
    /// The server's account cannot reach a directory that it needs.
    #[error("{} cannot be entered by uid {uid}, as which PostgreSQL runs: choose another data directory, or `chmod o+x` it", .dir.display())]
    Unreachable {
        /// The parent directory that is closed.
        dir: PathBuf,
        /// The server's user.
        uid: u32,
    },
    /// A server that we did not start still works in the cluster.
    #[error("processes of an earlier PostgreSQL still use {}: stop them, then start again", .cluster.display())]
    Busy {
        /// The cluster's directory.
        cluster: PathBuf,
    },
    /// `initdb` failed.
    #[error("initdb could not make a cluster: {output}")]
    Initdb {
        /// What it printed.
        output: String,
    },
    /// The postmaster ended before it was ready.
    #[error("PostgreSQL ended while starting ({status}); last lines of its log: {log}")]
    Ended {
        /// Exit code or signal.
        status: String,
        /// The end of `postgres.log`, on one line.
        log: String,
    },
    /// The postmaster runs but accepts no connections (a long crash recovery, or a disk that hangs).
    #[error("PostgreSQL was not ready after {seconds} s; see {}", .log.display())]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// Its log.
        log: PathBuf,
    },
    /// A file or a process could not be handled.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl EmbeddedError {
    /// For `map_err`: an [`EmbeddedError::Io`] that says what was tried on which path.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn wanted(major: Option<u32>) -> String {
    major.map_or_else(|| format!("{} or newer", binaries::MAJOR_MIN), |major| major.to_string())
}
