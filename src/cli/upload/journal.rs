//! Uploads under way, so that a cut one goes on: one small file each, for the owner's eyes only, because a presigned URL is a
//! permission. Named by server and content, never by the file's name.

use crate::clock::Clock;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A presigned URL and its job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ticket {
    /// The upload.
    pub upload: String,
    /// Its job.
    pub job: String,
    /// For one PUT.
    pub url: String,
    /// All of them, as they are.
    pub headers: BTreeMap<String, String>,
    /// When the URL ends.
    pub expires_at: String,
}

impl Ticket {
    /// From the server's answer.
    pub fn of(answer: &Value) -> Option<Self> {
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let headers = answer["headers"].as_object()?.iter();
        Some(Self {
            upload: text("uploadId")?,
            job: text("jobId")?,
            url: text("uploadUrl")?,
            headers: headers.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
            expires_at: text("expiresAt")?,
        })
    }

    /// A job waits for its object for a day after the URL's end.
    fn is_old(&self) -> bool {
        let now = Clock::system().now();
        OffsetDateTime::parse(&self.expires_at, &Rfc3339).is_ok_and(|end| end + time::Duration::days(7) < now)
    }

    /// There is time to begin a PUT.
    pub fn is_good(&self) -> bool {
        let soon = Clock::system().now() + time::Duration::seconds(30);
        OffsetDateTime::parse(&self.expires_at, &Rfc3339).is_ok_and(|end| end > soon)
    }
}

/// The directory of tickets for one server.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    server: String,
}

impl Journal {
    /// Make the directory if it is missing.
    pub fn open(given: Option<&Path>, server: &str) -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = || {
            Some(variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?.join("chartgate"))
        };
        let base = given.map(Path::to_owned).or_else(state).unwrap_or_else(|| PathBuf::from(".chartgate"));
        let directory = base.join("uploads");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make {}; say --state-dir", directory.display()))?;
        let journal = Self { directory, server: server.to_owned() };
        journal.tidy();
        Ok(journal)
    }

    /// Tickets whose URL ended long ago are of no use: by then their jobs have ended, or expired.
    fn tidy(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let ticket =
                std::fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<Ticket>(&bytes).ok());
            if ticket.is_some_and(|ticket| ticket.is_old()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, sha256: &str) -> PathBuf {
        let name = Sha256::digest(format!("{}\n{sha256}", self.server));
        self.directory.join(format!("{}.json", hex::encode(name)))
    }

    /// The ticket for this content; an unreadable one is none.
    pub fn find(&self, sha256: &str) -> Option<Ticket> {
        serde_json::from_slice(&std::fs::read(self.path(sha256)).ok()?).ok()
    }

    /// Keep a ticket.
    pub fn remember(&self, sha256: &str, ticket: &Ticket) -> anyhow::Result<()> {
        let path = self.path(sha256);
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&serde_json::to_vec(ticket)?)?;
            std::fs::rename(&beside, &path)
        };
        write().with_context(|| format!("cannot write {}; say --state-dir", path.display()))
    }

    /// The upload is over.
    pub fn forget(&self, sha256: &str) {
        let _ = std::fs::remove_file(self.path(sha256));
    }
}
