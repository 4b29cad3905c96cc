//! `bench validate`: the validator over a corpus on one core, beside `serde_json` building a tree of the same bytes; and
//! the memory that a long NDJSON file takes.

use crate::ingest::fhir::{sample, validate};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::fs;
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is validated, and how long.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory with `.json` and `.ndjson` files; without one, generated Bundles.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Seconds for each of the two sides.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Also validate an NDJSON file of so many megabytes, and print the memory that it took.
    #[arg(long)]
    ndjson_megabytes: Option<u64>,
}

/// Measure.
///
/// # Errors
/// An unreadable corpus.
pub fn run(arguments: &Arguments, scratch: &Path) -> anyhow::Result<Value> {
    // First, while the process is small: the peak of memory is the process's own.
    let long_file = match arguments.ndjson_megabytes {
        Some(megabytes) => Some(ndjson(megabytes, scratch)?),
        None => None,
    };
    let documents = match &arguments.corpus {
        Some(directory) => corpus(directory)?,
        None => (0..64).map(|seed| sample::bundle(seed, 4, sample::Size::Full)).collect(),
    };
    let bytes: usize = documents.iter().map(Vec::len).sum();
    let budget = Duration::from_secs(arguments.seconds) * 2;
    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    let (mut errors, mut rounds) = (0, 0);
    let started = Instant::now();
    // In turns, so that both sides meet the same moods of the machine; the best round of each counts.
    while rounds < 3 || started.elapsed() < budget {
        let begun = Instant::now();
        errors = documents.iter().map(|body| validate::resource(body, None).errors).sum::<u64>();
        ours = ours.min(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for body in &documents {
            black_box(serde_json::from_slice::<Value>(body).is_ok());
        }
        theirs = theirs.min(begun.elapsed().as_secs_f64());
        rounds += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of a corpus")]
    let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
    let mut figures = json!({
        "bench": "validate",
        "documents": documents.len(),
        "megabytes": rounded(rate(1.0)),
        "rounds": rounds,
        "errors": errors,
        "megabytes_per_second": rounded(rate(ours)),
        "serde_json_value_megabytes_per_second": rounded(rate(theirs)),
        "ratio": (theirs / ours * 100.0).round() / 100.0,
    });
    if let (Some(figures), Some(Value::Object(long_file))) = (figures.as_object_mut(), long_file) {
        figures.extend(long_file);
    }
    Ok(figures)
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Every file; of NDJSON every line is a document.
fn corpus(directory: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut documents = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("json") => documents.push(fs::read(&path)?),
            Some("ndjson") => {
                let lines = fs::read(&path)?;
                documents
                    .extend(lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
            }
            _ => {}
        }
    }
    anyhow::ensure!(!documents.is_empty(), "there are no .json or .ndjson files in {}", directory.display());
    Ok(documents)
}

/// Write the file, and validate it as the command line does.
fn ndjson(megabytes: u64, scratch: &Path) -> anyhow::Result<Value> {
    fs::create_dir_all(scratch)?;
    let path = scratch.join("bench.ndjson");
    let bundle: Value = serde_json::from_slice(&sample::bundle(1, 4, sample::Size::Full))?;
    let lines: Vec<String> =
        bundle["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].to_string() + "\n").collect();
    let (mut written, mut count) = (0u64, 0u64);
    let mut file = BufWriter::new(fs::File::create(&path)?);
    for line in lines.iter().cycle() {
        if written >= megabytes * 1_000_000 {
            break;
        }
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
        count += 1;
    }
    file.into_inner()?.sync_all()?;
    let begun = Instant::now();
    let (checked, errors) = super::super::validate::count(&path)?;
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    anyhow::ensure!(checked == count, "{count} lines were written and {checked} validated");
    #[expect(clippy::cast_precision_loss, reason = "bytes of one file")]
    let rate = written as f64 / 1e6 / seconds;
    Ok(json!({
        "ndjson_lines": count,
        "ndjson_errors": errors,
        "ndjson_megabytes_per_second": rounded(rate),
        "peak_memory_megabytes": peak_memory(),
    }))
}

/// The process's peak of resident memory (proc(5), `VmHWM`), in megabytes.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1_000)
}
