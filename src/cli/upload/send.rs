//! The PUT itself, straight to object storage: the file as a stream, tried again while the other side is away.

use super::journal::Ticket;
use futures::TryStreamExt as _;
use indicatif::ProgressBar;
use std::path::Path;
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// Tries in all, with pauses of 1, 2, 4 and 8 seconds between them.
const TRIES: u32 = 5;

/// Why a file did not get to object storage.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The file cannot be read (any more).
    #[error("the file cannot be read")]
    File(#[from] std::io::Error),
    /// No answer, after all tries.
    #[error("object storage cannot be reached; run the same command again to go on")]
    Away(#[source] reqwest::Error),
    /// Object storage answered no.
    #[error("object storage refused the file with {status} ({code}){hint}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// S3's code.
        code: String,
        /// What to do.
        hint: &'static str,
    },
}

impl SendError {
    /// Nobody answered: the same command may work later.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// The other side has decided; another file may well go through.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// PUT the file. That the object is there already is fine: an earlier try's answer was lost.
pub async fn put(ticket: &Ticket, path: &Path, size: u64, bar: &ProgressBar) -> Result<(), SendError> {
    // No limit of the whole: five gigabytes take their time. A connection that stands still ends by itself.
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_mins(5))
        .build()
        .map_err(SendError::Away)?;
    let mut tries = 0;
    loop {
        tries += 1;
        bar.set_position(0);
        match attempt(&http, ticket, path, size, bar).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let may_pass = match &error {
                    SendError::Away(_) => true,
                    // 409: S3 answers so while an earlier PUT, whose connection was cut, is still under way.
                    SendError::Refused { status, .. } => *status >= 500 || [408, 409, 429].contains(status),
                    SendError::File(_) => false,
                };
                if !may_pass || tries >= TRIES {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_secs(1 << (tries - 1))).await;
            }
        }
    }
}

async fn attempt(
    http: &reqwest::Client,
    ticket: &Ticket,
    path: &Path,
    size: u64,
    bar: &ProgressBar,
) -> Result<(), SendError> {
    let file = tokio::fs::File::open(path).await?;
    let bar = bar.clone();
    let stream = ReaderStream::with_capacity(file, 256 * 1024).inspect_ok(move |piece| bar.inc(piece.len() as u64));
    let mut request = http.put(&ticket.url).body(reqwest::Body::wrap_stream(stream));
    for (name, value) in &ticket.headers {
        request = request.header(name, value);
    }
    if !ticket.headers.keys().any(|name| name.eq_ignore_ascii_case("content-length")) {
        request = request.header("content-length", size);
    }
    let response = request.send().await.map_err(SendError::Away)?;
    let status = response.status().as_u16();
    // 412: the URL was used, and by nobody but a run with this ticket.
    if response.status().is_success() || status == 412 {
        return Ok(());
    }
    let body = response.text().await.unwrap_or_default();
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("?", |(code, _)| code);
    let hint = match status {
        400 => ": the file changed while it was sent; run the command again",
        403 => ": the URL has ended, or something between here and there changed the request; run the command again",
        _ => "",
    };
    Err(SendError::Refused { status, code: code.to_owned(), hint })
}
