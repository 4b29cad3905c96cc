//! `validate FILE…`: the validator of the `validate` step, on this machine, without any server.

use super::out;
use crate::ingest::fhir::issue::{self, Issue, Report};
use crate::ingest::fhir::validate;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes of a line of NDJSON; a longer one is an issue, and is not read into memory.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Check FHIR R4 resources on this machine, without any server.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A file is one resource (a Bundle of any type, a Patient, …), or, if its name ends in .ndjson or \
                        .jsonl, one resource a line. Names that end in .gz are unpacked.\n\nExamples:\n  chartgate \
                        validate bundle.json\n  chartgate validate --json *.json\n  chartgate validate --outcome \
                        Patient.ndjson.gz"
)]
pub struct Arguments {
    /// Files with FHIR resources.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One JSON line a file: {file, valid, issues, total}.
    #[arg(long)]
    json: bool,
    /// One FHIR OperationOutcome a file, a line each.
    #[arg(long, conflicts_with = "json")]
    outcome: bool,
    /// A file, or a directory of .json files, with Questionnaires and CodeSystems that the others speak of. May be given
    /// several times.
    #[arg(long, value_name = "PATH")]
    context: Vec<PathBuf>,
    /// Read every file as NDJSON, whatever its name.
    #[arg(long)]
    ndjson: bool,
}

/// What was found in a file.
#[derive(Default)]
struct Found {
    issues: Vec<Issue>,
    total: u64,
    errors: u64,
    resources: u64,
}

impl Found {
    fn take(&mut self, report: Report) {
        self.total += report.total;
        self.errors += report.errors;
        self.resources += 1;
        let room = issue::ISSUES_KEPT_MAX.saturating_sub(self.issues.len());
        self.issues.extend(report.issues.into_iter().take(room));
    }
}

/// Check; exit 1 if a file is invalid.
///
/// # Errors
/// An unreadable file.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut all_valid = true;
    let mut beside = Vec::new();
    // Files that are checked together know one another.
    let together = arguments.files.iter().filter(|file| arguments.files.len() > 1 && is_definition(file));
    for path in arguments.context.iter().chain(together) {
        read_context(path, &mut beside).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let mut context = validate::Context::default();
    for (file, body) in &beside {
        let is_asked_for = !arguments.files.contains(file);
        context
            .add(body)
            .or_else(|error| if is_asked_for { Err(error) } else { Ok(()) })
            .with_context(|| format!("{} is not JSON", file.display()))?;
    }
    for file in &arguments.files {
        let found =
            check(file, arguments.ndjson, &context).with_context(|| format!("cannot read {}", file.display()))?;
        let valid = found.errors == 0;
        all_valid &= valid;
        if arguments.json {
            let file = file.display().to_string();
            out::json(&json!({ "file": file, "valid": valid, "issues": found.issues, "total": found.total }))?;
        } else if arguments.outcome {
            out::json(&outcome(&found))?;
        } else {
            print(file, &found);
        }
    }
    Ok(if all_valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// It begins like a Questionnaire or a CodeSystem: only those are read twice.
fn is_definition(file: &Path) -> bool {
    let mut head = [0; 512];
    let read = File::open(file).and_then(|mut file| file.read(&mut head)).unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..read]);
    let kinds = ["\"Questionnaire\"", "\"CodeSystem\""];
    head.contains("\"resourceType\"") && kinds.iter().any(|kind| head.contains(kind))
}

/// The file, or the .json files of the directory.
fn read_context(path: &Path, bodies: &mut Vec<(PathBuf, Vec<u8>)>) -> std::io::Result<()> {
    if !path.is_dir() {
        bodies.push((path.to_owned(), std::fs::read(path)?));
        return Ok(());
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    for file in files {
        bodies.push((file.clone(), std::fs::read(&file)?));
    }
    Ok(())
}

/// Resources of a file, and errors in them.
///
/// # Errors
/// An unreadable file.
pub fn count(path: &Path) -> std::io::Result<(u64, u64)> {
    check(path, false, &validate::Context::default()).map(|found| (found.resources, found.errors))
}

fn check(path: &Path, ndjson: bool, context: &validate::Context<'_>) -> std::io::Result<Found> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (name, reader): (&str, Box<dyn Read>) = match name.strip_suffix(".gz") {
        Some(inner) => (inner, Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(File::open(path)?)))),
        None => (name, Box::new(File::open(path)?)),
    };
    let mut found = Found::default();
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    if ndjson || matches!(extension, Some("ndjson" | "jsonl")) {
        lines(BufReader::with_capacity(256 * 1024, reader), &mut found, context)?;
    } else {
        let mut body = Vec::new();
        BufReader::new(reader).read_to_end(&mut body)?;
        found.take(validate::resource_in(&body, None, context));
    }
    Ok(found)
}

/// One resource a line; blank lines are passed over. Offsets are those in the (unpacked) file.
fn lines(mut reader: impl BufRead, found: &mut Found, context: &validate::Context<'_>) -> std::io::Result<()> {
    let (mut line, mut number, mut offset) = (Vec::new(), 0u64, 0u64);
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        if line.len() > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            found.take(validate::line_too_long(number, offset));
            offset += line.len() as u64 + rest_of_line(&mut reader)?;
            continue;
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            let mut report = validate::resource_in(&line, Some(number), context);
            for issue in &mut report.issues {
                issue.byte_offset = issue.byte_offset.map(|within| within + offset);
            }
            found.take(report);
        }
        offset += line.len() as u64;
    }
}

/// Step over what is left of a line; how many bytes that were.
fn rest_of_line(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0u64;
    loop {
        let buffer = reader.fill_buf()?;
        let (used, ends) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        skipped += used as u64;
        if ends {
            return Ok(skipped);
        }
    }
}

fn outcome(found: &Found) -> Value {
    let shaped = found.issues.iter().map(|issue| {
        let offset = issue.byte_offset.and_then(|offset| i64::try_from(offset).ok());
        issue::outcome_issue(
            issue.severity.as_str(),
            issue.code,
            &issue.message,
            issue.expression.as_deref(),
            issue.pointer.as_deref(),
            offset,
        )
    });
    issue::operation_outcome(shaped.collect())
}

fn print(file: &Path, found: &Found) {
    let verdict = if found.errors == 0 { "valid" } else { "invalid" };
    let resources = if found.resources > 1 { format!(" ({} lines)", found.resources) } else { String::new() };
    out::line(&format!("{}: {verdict}{resources}", file.display()));
    for issue in &found.issues {
        let line = issue.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let place = issue.expression.as_deref().map(|place| format!(" {place}")).unwrap_or_default();
        let offset = issue.byte_offset.map(|offset| format!(" (byte {offset})")).unwrap_or_default();
        out::line(&format!("  {line}{}{place}: {}{offset}", issue.severity.as_str(), issue.message));
    }
    let kept = found.issues.len() as u64;
    if found.total > kept {
        out::line(&format!("  … and {} more", found.total - kept));
    }
}
