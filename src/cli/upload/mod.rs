//! `upload FILE…`: asks for a presigned URL, PUTs the file straight to object storage, and follows its job.
//!
//! A run that was cut off goes on where it was: what was asked for is remembered ([`journal`]) by server and by the file's
//! hash, so that the same command again sends to the same URL, or only waits if the object is there already.

mod journal;
mod send;

pub use send::SendError;

use super::client::{Client, ClientError, encode};
use super::out;
use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use journal::{Journal, Ticket};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Upload bulk files (NDJSON, a JSON array, or one Bundle; plain or gzip) and print their jobs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate upload --wait export/*.ndjson\n  chartgate upload nightly.ndjson.gz --json\n\n\
The same command again goes on where a cut one stopped. Exit code 1: a file was refused, or, with --wait, its job failed."
)]
pub struct Arguments {
    /// Files: .ndjson, .json, and the same with .gz.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Follow each job to its end; exit 1 if one failed.
    #[arg(long)]
    wait: bool,
    /// One JSON line a file, and with --wait a second one: its job at the end.
    #[arg(long)]
    json: bool,
    /// Media type, if the file's name does not tell.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Where uploads under way are remembered [default: chartgate in `XDG_STATE_HOME`, or ~/.local/state/chartgate].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// What is known of a file before it is sent.
struct Local {
    path: PathBuf,
    size: u64,
    sha256: String,
    content_type: String,
}

/// Upload; exit 1 if a file cannot be read or was refused or, with `--wait`, a job did not succeed.
///
/// # Errors
/// A server that cannot be reached.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    let journal = Journal::open(arguments.state_dir.as_deref(), client.url())?;
    let mut failed = false;
    for path in &arguments.files {
        let local = match read(path, arguments.content_type.as_deref(), !arguments.json).await {
            Ok(local) => local,
            // The others may be good.
            Err(error) => {
                failed = true;
                out::error(&format!("{error:#}"));
                continue;
            }
        };
        let (ticket, is_resumed) = match one(&client, &journal, &local, !arguments.json).await {
            Ok(done) => done,
            Err(error) if is_refusal(&error) => {
                failed = true;
                out::error(&format!("{}: {error:#}", path.display()));
                continue;
            }
            Err(error) => return Err(error),
        };
        if arguments.json {
            out::json(&json!({
                "file": path.display().to_string(), "jobId": ticket.job, "uploadId": ticket.upload,
                "sha256": local.sha256, "sizeBytes": local.size, "resumed": is_resumed,
            }))?;
        } else {
            let again = if is_resumed { " (begun by an earlier run)" } else { "" };
            out::line(&format!("{}: {}{again}", path.display(), ticket.job));
        }
        if arguments.wait {
            let ended = follow(&client, &ticket.job, !arguments.json).await?;
            failed |= !super::jobs::has_succeeded(&ended);
            journal.forget(&local.sha256);
            let stored = ended["payload"]["sha256"].as_str().unwrap_or(&local.sha256);
            if stored != local.sha256 {
                failed = true;
                out::error(&format!(
                    "{}: the server holds other bytes than this file has: SHA-256 {stored} there, {} here",
                    path.display(),
                    local.sha256
                ));
            }
            if arguments.json {
                out::json(&ended)?;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ClientError>(), Some(ClientError::Refused { .. }))
        || error.downcast_ref::<send::SendError>().is_some_and(send::SendError::is_refusal)
}

/// The media type that a file's name says.
fn content_type(path: &Path) -> anyhow::Result<&'static str> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("ndjson" | "jsonl") => Ok("application/fhir+ndjson"),
        Some("json") => Ok("application/fhir+json"),
        _ => bail!("{}: the name does not tell what it is; say --content-type application/fhir+ndjson", path.display()),
    }
}

/// Size and hash, read once; the file may be larger than memory.
async fn read(path: &Path, given: Option<&str>, show: bool) -> anyhow::Result<Local> {
    let content_type = match given {
        Some(given) => given.to_owned(),
        None => content_type(path)?.to_owned(),
    };
    let owned = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        // A pipe cannot be read twice, and waits for ever when nobody writes.
        if !std::fs::metadata(&owned)?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let mut file = std::fs::File::open(&owned)?;
        let bar = bytes_bar("hashing", file.metadata()?.len(), show);
        let (mut hash, mut size, mut buffer) = (Sha256::new(), 0u64, vec![0; 1 << 20]);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            size += read as u64;
            bar.set_position(size);
        }
        bar.finish_and_clear();
        Ok::<_, std::io::Error>((size, hex::encode(hash.finalize())))
    });
    let (size, sha256) = hashed.await?.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(size > 0, "{} is empty", path.display());
    Ok(Local { path: path.to_owned(), size, sha256, content_type })
}

/// Send a file to its job, as the command does; answers the job.
pub(super) async fn bring(client: &Client, path: &Path, state_dir: &Path) -> anyhow::Result<String> {
    let journal = Journal::open(Some(state_dir), client.url())?;
    let local = read(path, None, false).await?;
    let (ticket, _) = one(client, &journal, &local, false).await?;
    journal.forget(&local.sha256);
    Ok(ticket.job)
}

/// Bring one file to its job. True: an earlier run had begun it.
async fn one(client: &Client, journal: &Journal, local: &Local, show: bool) -> anyhow::Result<(Ticket, bool)> {
    if let Some(ticket) = journal.find(&local.sha256) {
        match status(client, &ticket.job).await?.as_deref() {
            Some("awaiting_upload") if ticket.is_good() => {
                put(client, &ticket, local, show).await?;
                return Ok((ticket, true));
            }
            Some("queued" | "running" | "retrying" | "succeeded" | "succeeded_with_issues") => {
                return Ok((ticket, true));
            }
            _ => journal.forget(&local.sha256),
        }
    }
    let name = local.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // Of the name only the extension goes out: names of files may be names of patients.
    let extension = if name.to_ascii_lowercase().ends_with(".gz") { "gz" } else { "" };
    let kind = if local.content_type.ends_with("ndjson") { "ndjson" } else { "json" };
    let filename = if extension.is_empty() { format!("file.{kind}") } else { format!("file.{kind}.gz") };
    let request = json!({
        "contentType": local.content_type, "sizeBytes": local.size, "sha256": local.sha256, "filename": filename,
    });
    let answer: Value = client.post("/v1/ingestion/upload-url", &request).await?;
    let ticket = Ticket::of(&answer).context("the server does not answer like Chartgate")?;
    journal.remember(&local.sha256, &ticket)?;
    put(client, &ticket, local, show).await?;
    Ok((ticket, false))
}

/// The job's status; nothing if the server does not know it (any more).
async fn status(client: &Client, job: &str) -> anyhow::Result<Option<String>> {
    match client.get::<Value>(&format!("/v1/ingestion/jobs/{}", encode(job))).await {
        Ok(view) => Ok(view["status"].as_str().map(str::to_owned)),
        Err(ClientError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn put(client: &Client, ticket: &Ticket, local: &Local, show: bool) -> anyhow::Result<()> {
    let bar = bytes_bar("sending", local.size, show);
    send::put(ticket, &local.path, local.size, &bar).await?;
    bar.finish_and_clear();
    // Only a hint: without it the object is found all the same, a little later.
    let path = format!("/v1/ingestion/uploads/{}/complete", encode(&ticket.upload));
    let _ = client.post::<Value>(&path, &json!({})).await;
    Ok(())
}

fn bytes_bar(what: &'static str, size: u64, show: bool) -> ProgressBar {
    let bar = ProgressBar::new(size);
    if !show || !out::is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg:<9} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}

/// Poll a job to its end, with a bar of its chunks for people.
async fn follow(client: &Client, job: &str, show: bool) -> anyhow::Result<Value> {
    let bar = ProgressBar::new(0);
    if !show || !out::is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg:<17} {wide_bar} {pos}/{len} chunks {per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut seen = String::new();
    loop {
        let view: Value = client.get(&format!("/v1/ingestion/jobs/{}?wait=2", encode(job))).await?;
        let status = view["status"].as_str().unwrap_or_default();
        if view["progress"]["unit"] == "chunks" {
            bar.set_length(view["progress"]["total"].as_u64().unwrap_or(0));
            bar.set_position(view["progress"]["done"].as_u64().unwrap_or(0));
        }
        let step = view["currentStep"].as_str().unwrap_or(status);
        bar.set_message(step.to_owned());
        if show && !out::is_terminal() && seen != step {
            step.clone_into(&mut seen);
            out::line(&format!("  {status}: {step}"));
        }
        if ["succeeded", "succeeded_with_issues", "failed", "cancelled", "expired"].contains(&status) {
            bar.finish_and_clear();
            if show {
                out::line(&format!("  {status}: {}", view["message"].as_str().unwrap_or_default()));
                if view["result"].is_object() {
                    out::line(&format!("  result: {}", view["result"]));
                }
            }
            return Ok(view);
        }
        // The long poll answers at a change; a busy fan-out changes all the time.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::content_type;
    use std::path::Path;

    #[test]
    fn the_name_tells_the_media_type_also_of_a_compressed_file() {
        for (name, expected) in [
            ("a.ndjson", Some("application/fhir+ndjson")),
            ("a.NDJSON.GZ", Some("application/fhir+ndjson")),
            ("a.jsonl", Some("application/fhir+ndjson")),
            ("a.json.gz", Some("application/fhir+json")),
            ("a.gz", None),
            ("a", None),
        ] {
            assert_eq!(content_type(Path::new(name)).ok(), expected, "{name}");
        }
    }
}
