//! The rules of the house, read from the sources: directions between modules, where SQL stands, codes that exist, and
//! docs that list what the code lists. No database.

mod audit_events;
mod security;

use chartgate::engine::catalog;
use chartgate::engine::definition::{KEYS as WORKFLOW_KEYS, KnownHandlers as _};
use chartgate::engine::registry::Registry;
use chartgate::engine::state::{JobStatus, StepStatus, TaskState};
use chartgate::http::problem::CODES;
use chartgate::objects::{Objects, ObjectsOptions};
use chartgate::{config, db::Db};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names that point up or sideways all the same. Each must still be used, so that the list can only shrink.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("auth", "audit", "a caller is named in audit records: `lib.rs` says so"),
    ("config", "secrets", "checks the form of keys: `lib.rs` says so"),
];

/// Files beside `db/` and `…store.rs` that hold SQL.
const SQL_PLACES: &[(&str, &str)] = &[
    ("app/checks.rs", "what must hold of the database before the start"),
    ("app/servers.rs", "creates the embedded database"),
    ("audit/mod.rs", "the audit log's one insert"),
    ("cli/bench/", "sets its own tables up and counts them"),
    ("engine/catalog.rs", "registers workflow definitions"),
    ("engine/wake.rs", "NOTIFY"),
    ("ingest/events.rs", "store of its subject"),
    ("ingest/issues.rs", "store of its subject"),
    ("ingest/patients.rs", "store of its subject"),
    ("ingest/payloads.rs", "store of its subject"),
    ("ingest/steps/audit.rs", "reads the outputs of the steps before it"),
    ("ingest/submit.rs", "calls submit_jobs"),
];

/// Crates that only one module may name.
const OWNED_CRATES: &[(&str, &[&str])] = &[
    ("queue", &["apalis::", "apalis_core::"]),
    ("objects", &["aws_sdk_s3::", "aws_sdk_sqs::", "aws_credential_types::", "aws_config::", "s3s::"]),
];

/// Codes of step errors that SQL writes.
const SQL_CODES: &[&str] = &["lease_lost", "worker_killed"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `src/**/*.rs` by path below `src`, without comments and unit tests.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), code.join("\n"))
        })
        .collect()
}

/// The module at the top of the tree that a file belongs to; none for `lib.rs` and `main.rs`.
fn module_of(path: &str) -> Option<&str> {
    let name = path.split('/').next()?.trim_end_matches(".rs");
    (!["lib", "main"].contains(&name)).then_some(name)
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The top modules that `crate::…` names, also in groups.
fn named_modules(code: &str) -> BTreeSet<&str> {
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for (index, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && c.is_ascii_lowercase() => {
                        named.insert(word(&group[index..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else if rest.starts_with(|c: char| c.is_ascii_lowercase()) {
            named.insert(word(rest));
        }
    }
    named
}

/// Module → row, from the table in `lib.rs`.
fn rows() -> BTreeMap<String, u32> {
    let mut rows = BTreeMap::new();
    for line in read("src/lib.rs").lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = line.split('|');
        let Some(row) = cells.next().and_then(|cell| cell.trim().parse().ok()) else { continue };
        rows.extend(backticked(cells.next().unwrap_or_default()).into_iter().map(|name| (name, row)));
    }
    rows
}

fn backticked(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The lines of a page between a heading and the next one of the same or a higher level.
fn section(page: &str, heading: &str) -> String {
    let text = read(page);
    let level = heading.chars().take_while(|c| *c == '#').count();
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{page} has no heading {heading:?}");
    let ends = |line: &&str| {
        let marks = line.chars().take_while(|c| *c == '#').count();
        !((1..=level).contains(&marks) && line[marks..].starts_with(' '))
    };
    lines.take_while(ends).collect::<Vec<_>>().join("\n") + "\n"
}

/// The first cells of a section's tables, where they are in backticks.
fn first_cells(page: &str, heading: &str) -> Vec<String> {
    let text = section(page, heading);
    text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(cell, _)| cell.to_owned())).collect()
}

/// String literals of `[a-z0-9_]+` that follow one of the openings, across line breaks.
fn literals_after(code: &str, openings: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for opening in openings {
        for rest in code.split(opening).skip(1) {
            let Some(literal) = rest.trim_start().strip_prefix('"') else { continue };
            let literal = literal.split('"').next().unwrap_or_default();
            if !literal.is_empty()
                && literal.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            {
                found.insert(literal.to_owned());
            }
        }
    }
    found
}

#[track_caller]
fn assert_same(what: &str, in_code: &BTreeSet<String>, in_docs: &BTreeSet<String>) {
    let missing: Vec<_> = in_code.difference(in_docs).collect();
    let orphaned: Vec<_> = in_docs.difference(in_code).collect();
    assert!(missing.is_empty() && orphaned.is_empty(), "{what}: missing {missing:?}, not in the code {orphaned:?}");
}

fn set<T: Into<String>>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(Into::into).collect()
}

#[test]
fn modules_name_only_what_stands_below_them() {
    let rows = rows();
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for (path, code) in &sources() {
        let Some(from) = module_of(path) else { continue };
        let Some(own) = rows.get(from) else {
            faults.push(format!("src/{path}: `{from}` is not in the table of src/lib.rs"));
            continue;
        };
        for to in named_modules(code) {
            // Not a module: a macro or an item of the crate's root.
            let Some(row) = rows.get(to).filter(|_| to != from) else { continue };
            if row > own {
                continue;
            }
            match EXCEPTIONS.iter().find(|(a, b, _)| (*a, *b) == (from, to)) {
                Some(exception) => {
                    used.insert(*exception);
                }
                None => faults.push(format!("src/{path}: `{from}` (row {own}) must not name `{to}` (row {row})")),
            }
        }
    }
    let unused: Vec<_> = EXCEPTIONS.iter().filter(|exception| !used.contains(*exception)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(unused.is_empty(), "exceptions that nobody needs any more: {unused:?}");
}

#[test]
fn every_module_of_the_library_stands_in_the_map() {
    let declared: BTreeSet<String> =
        read("src/lib.rs").lines().filter_map(|line| Some(word(line.strip_prefix("pub mod ")?).to_owned())).collect();
    // Foreseen modules may stand in the map before they exist.
    let missing: Vec<_> = declared.iter().filter(|name| !rows().contains_key(*name)).collect();
    assert!(missing.is_empty(), "not in the table of src/lib.rs: {missing:?}");
}

#[test]
fn sql_stands_in_its_places_only() {
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for (path, code) in &sources() {
        let file = path.rsplit('/').next().unwrap_or_default();
        let is_store = file == "store.rs" || file.ends_with("_store.rs") || path.starts_with("db/");
        if is_store || !["sqlx::query", "sqlx::raw_sql", "QueryBuilder"].iter().any(|name| code.contains(name)) {
            continue;
        }
        match SQL_PLACES.iter().find(|(place, _)| path.starts_with(place)) {
            Some((place, _)) => {
                used.insert(*place);
            }
            None => faults.push(format!("src/{path} holds SQL: move it to a store.rs")),
        }
    }
    let unused: Vec<_> = SQL_PLACES.iter().map(|(place, _)| *place).filter(|place| !used.contains(place)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(unused.is_empty(), "places that hold no SQL any more: {unused:?}");
}

#[test]
fn apalis_and_the_aws_sdk_are_named_by_their_module_only() {
    for (path, code) in &sources() {
        for (module, crates) in OWNED_CRATES {
            let named: Vec<_> = crates.iter().filter(|name| code.contains(**name)).collect();
            assert!(named.is_empty() || module_of(path) == Some(module), "src/{path} names {named:?}");
        }
    }
}

#[test]
fn every_code_that_is_named_exists() {
    let known = set(CODES.iter().map(|code| code.code));
    assert_eq!(known.len(), CODES.len(), "a code is there twice");
    for (path, code) in &sources() {
        let openings: &[&str] = match path.as_str() {
            path if path.starts_with("http/") => &["Problem::new("],
            "ingest/fhir/envelope.rs" => &["EnvelopeFault::new(", "at_entry("],
            _ => continue,
        };
        let unknown: Vec<_> = literals_after(code, openings).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "src/{path}: not in CODES: {unknown:?}");
    }
}

#[test]
fn every_error_code_has_a_page_and_every_page_a_code() {
    let mut codes = set(CODES.iter().map(|code| code.code));
    for (path, code) in &sources() {
        codes.extend(literals_after(code, &["::transient(", "::put_off(", "::sender(", "::ours("]));
        if path.starts_with("engine/") {
            codes.extend(literals_after(code, &["code: "]));
        }
    }
    let functions = read("migrations/0008_engine_functions.sql");
    for code in SQL_CODES {
        assert!(functions.contains(&format!("'{code}'")), "{code} is written by no function any more");
    }
    codes.extend(set(SQL_CODES.iter().copied()));
    let pages: BTreeSet<String> = fs::read_dir(root().join("docs/errors"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".md").map(str::to_owned))
        .filter(|name| name != "README")
        .collect();
    assert_same("docs/errors", &codes, &pages);
    assert_same(
        "src/app/error_pages.rs",
        &codes,
        &set(chartgate::http::error_pages::PAGES.iter().map(|(code, _)| *code)),
    );
    let listed: BTreeSet<String> =
        [first_links("## HTTP answers"), first_links("## Errors of steps")].into_iter().flatten().collect();
    assert_same("docs/errors/README.md", &codes, &listed);
    for page in &pages {
        let text = read(&format!("docs/errors/{page}.md"));
        assert!(text.starts_with(&format!("# `{page}`\n")), "docs/errors/{page}.md must begin with its code");
        for heading in ["## What it means", "## What to do"] {
            assert!(text.contains(heading), "docs/errors/{page}.md lacks {heading:?}");
        }
    }
}

fn first_links(heading: &str) -> Vec<String> {
    let text = section("docs/errors/README.md", heading);
    text.lines()
        .filter_map(|line| line.strip_prefix("| [`")?.split_once('`').map(|(code, _)| code.to_owned()))
        .collect()
}

#[test]
fn every_table_is_described() {
    let mut tables = BTreeSet::new();
    let migrations = fs::read_dir(root().join("migrations")).unwrap().map(|entry| entry.unwrap().path());
    // In their order: a table may be dropped, and made anew.
    for path in migrations.collect::<BTreeSet<PathBuf>>() {
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Some(made) = line.strip_prefix("create table ") {
                tables.insert(word(made).to_owned());
            } else if let Some(dropped) = line.strip_prefix("drop table ") {
                tables.remove(word(dropped));
            }
        }
    }
    let described: BTreeSet<String> = first_cells("docs/architecture.md", "## Tables")
        .into_iter()
        .filter(|cell| !cell.starts_with("chartgate_"))
        .collect();
    assert_same("docs/architecture.md", &tables, &described);
}

/// The words of the CHECK on a column, in the `create table` of that name.
fn checked_words(table: &str, column: &str) -> BTreeSet<String> {
    let migration = read("migrations/0003_jobs_and_queue.sql");
    let body = migration.split(&format!("create table {table} (")).nth(1).unwrap().split("\n)").next().unwrap();
    // On the column itself, or first in the table's one constraint, which a later migration may have replaced.
    let after = format!("{column} in (");
    let replaced = format!("alter table {table} add constraint {table}_states check (");
    let later = read("migrations/0015_chunks.sql");
    let place = body.find("_states check (").unwrap_or(0);
    let body = later.split(&replaced).nth(1).unwrap_or(&body[place..]);
    let words = body.split(&after).nth(1).unwrap().split(')').next().unwrap();
    words.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn states_are_the_same_words_in_code_sql_and_docs() {
    let jobs = set(JobStatus::ALL.iter().map(|status| status.as_str()));
    let steps = set(StepStatus::ALL.iter().map(|status| status.as_str()));
    let tasks = set(TaskState::ALL.iter().map(|state| state.as_str()));
    let page = "docs/state-machine.md";
    assert_same("jobs", &jobs, &set(first_cells(page, "## Jobs")));
    assert_same("steps", &steps, &set(first_cells(page, "## Steps")));
    assert_same("queue rows", &tasks, &set(first_cells(page, "## Queue rows")));
    assert_same("attempts", &checked_words("step_attempts", "outcome"), &set(first_cells(page, "## Attempts")));
    // `queued` covers the live ones.
    let stored = jobs.iter().filter(|word| !["running", "retrying"].contains(&word.as_str())).cloned().collect();
    assert_same("CHECK of jobs", &stored, &checked_words("jobs", "status"));
    let ended = steps.iter().filter(|word| !["pending", "running", "retrying"].contains(&word.as_str())).cloned();
    assert_same("CHECK of job_steps", &ended.collect(), &checked_words("job_steps", "status"));
    assert_same("CHECK of queue", &tasks, &checked_words("queue", "state"));
}

#[test]
fn every_route_is_described() {
    let description = serde_json::to_value(chartgate::http::description()).unwrap();
    let mut routes = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        routes.extend(methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    assert_same("docs/api.md", &routes, &set(first_cells("docs/api.md", "## All routes")));
}

#[test]
fn every_metric_is_described_with_its_labels() {
    let heading = "## Metrics";
    let metrics = chartgate::telemetry::metrics::METRICS;
    let listed = first_cells("docs/operations.md", heading).into_iter().filter(|cell| cell.starts_with("chartgate_"));
    let listed = listed.filter(|cell| !cell.contains(['{', '(']));
    assert_same("docs/operations.md", &set(metrics.iter().map(|metric| metric.name)), &listed.collect());
    let table = section("docs/operations.md", heading);
    for metric in metrics {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.name))).unwrap();
        let labels = backticked(row.split('|').nth(2).unwrap());
        assert_eq!(labels, metric.labels, "docs/operations.md: labels of {}", metric.name);
    }
}

#[test]
fn every_configuration_key_is_described() {
    let rows: Vec<String> = config::KEYS
        .iter()
        .map(|(key, others, default, meaning)| {
            let own = config::variable_of(key);
            let variables: Vec<_> =
                std::iter::once(own.as_str()).chain(others.iter().copied()).map(|name| format!("`{name}`")).collect();
            let default = if default.is_empty() { "–" } else { default };
            format!("| `{key}` | {} | {default} | {meaning} |\n", variables.join(", "))
        })
        .collect();
    let text = section("docs/configuration.md", "## All keys");
    let missing: String = rows.iter().filter(|row| !text.contains(*row)).cloned().collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks these rows:\n{missing}");
    assert_eq!(first_cells("docs/configuration.md", "## All keys").len(), rows.len(), "a row too many");
}

/// Literals of the form `noun.verb`.
fn dotted(code: &str, quote: char) -> BTreeSet<String> {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let is_dotted = |text: &&str| text.split_once('.').is_some_and(|(noun, verb)| is_word(noun) && is_word(verb));
    code.split(quote).filter(is_dotted).map(str::to_owned).collect()
}

#[test]
fn every_event_of_the_audit_log_is_listed() {
    /// What looks like an event in a file that writes records, and is none.
    const OTHERS: &[&str] = &["callback.test", "jobs.csv", "jobs.ndjson", "json.gz", "ndjson.gz", "secrets.key"];
    let mut events = BTreeSet::new();
    for (path, code) in &sources() {
        // Those that make records, and those that call what makes them.
        if ["Record::new(", "record_read(", "record_act(", "record_creation(", "record("]
            .iter()
            .any(|name| code.contains(name))
            && path != "audit/record.rs"
        {
            events.extend(dotted(code, '"').into_iter().filter(|text| !OTHERS.contains(&text.as_str())));
        }
    }
    for entry in fs::read_dir(root().join("migrations")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for insert in text.split("insert into audit_records").skip(1) {
            events.extend(dotted(insert.split(';').next().unwrap(), '\''));
        }
    }
    assert_same("docs/audit.md", &events, &set(first_cells("docs/audit.md", "## Events")));
}

#[test]
fn every_workflow_key_is_explained() {
    let headings =
        [("", "## Top level"), ("limits", "## `[limits]`"), ("step", "## `[[step]]`"), ("retry", "## `retry = { … }`")];
    assert_eq!(
        headings.map(|(name, _)| name).to_vec(),
        WORKFLOW_KEYS.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    for ((_, heading), (_, keys)) in headings.iter().zip(WORKFLOW_KEYS) {
        assert_same(heading, &set(keys.iter().copied()), &set(first_cells("workflows/README.md", heading)));
    }
}

#[test]
fn every_workflow_file_is_built_in_and_listed() {
    let files: BTreeSet<String> = fs::read_dir(root().join("workflows"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "toml"))
        .collect();
    let built_in = catalog::files(None).unwrap().into_iter().map(|(name, _)| name.replace("workflows/", ""));
    assert_same("EMBEDDED in engine/catalog.rs", &files, &built_in.collect());
    assert_same("workflows/README.md", &files, &set(first_cells("workflows/README.md", "## The files")));
}

#[tokio::test]
async fn every_handler_is_listed_with_its_parameters() {
    let options = ObjectsOptions {
        endpoint: None,
        region: "us-east-1".to_owned(),
        bucket: "none".to_owned(),
        access_key: None,
        secret_key: None,
        prefix: String::new(),
        timeout: std::time::Duration::from_secs(1),
    };
    // Nothing is connected before it is used.
    let db = Db::connect(sqlx::postgres::PgConnectOptions::new_without_pgpass(), 1);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = config::Config::from_sources(None, &|_| None).unwrap();
    let secrets = chartgate::secrets::Secrets::new(None, Path::new("/nonexistent"));
    let callbacks = chartgate::callbacks::Callbacks::new(&config, db.clone(), secrets).unwrap();
    let registry = Registry::default()
        .with(chartgate::ingest::steps::handlers(db, Objects::connect(&options)))
        .with(callbacks.handlers());
    let listed = set(first_cells("workflows/README.md", "## Handlers"));
    assert_same("workflows/README.md", &set(registry.names()), &listed);
    let table = section("workflows/README.md", "## Handlers");
    for handler in registry.names() {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{handler}` "))).unwrap();
        for param in registry.params_of(handler).unwrap() {
            assert!(row.contains(&format!("`{param}`")), "workflows/README.md: {handler} has the parameter `{param}`");
        }
    }
}

#[test]
fn the_api_description_is_the_reviewed_one() {
    let path = root().join("tests/it/snapshots/openapi.json");
    let now = serde_json::to_string_pretty(&chartgate::http::description()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &now).unwrap();
    }
    let reviewed = fs::read_to_string(&path).unwrap_or_default();
    let difference = reviewed.lines().zip(now.lines()).position(|(a, b)| a != b).unwrap_or_default() + 1;
    assert!(
        reviewed == now,
        "the API description changed, first in line {difference} of tests/it/snapshots/openapi.json. If that is meant: \
         `UPDATE_SNAPSHOTS=1 cargo test --test it the_api_description`, review the difference, and commit it"
    );
}

#[test]
fn every_link_in_the_docs_leads_somewhere() {
    fn pages(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pages(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![root().join("README.md"), root().join("workflows/README.md")];
    pages(&root().join("docs"), &mut found);
    let mut broken = Vec::new();
    for page in found {
        let text = fs::read_to_string(&page).unwrap();
        // Links may be broken over two lines.
        let text = text.replace("]\n(", "](");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if file.contains("://") {
                continue;
            }
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let leads = if anchor.is_empty() {
                path.exists()
            } else {
                fs::read_to_string(&path)
                    .is_ok_and(|text| text.lines().any(|line| anchor_of(line) == Some(anchor.to_owned())))
            };
            if !leads {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The anchor that a heading gets: lower case, dashes for spaces, nothing else but letters, digits and underscores.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#');
    (heading.len() < line.len() && heading.starts_with(' ')).then(|| {
        let kept = heading.trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
    })
}

#[test]
fn every_function_that_the_docs_name_exists() {
    let mut code: String = sources().into_values().collect();
    for entry in fs::read_dir(root().join("migrations")).unwrap() {
        code.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for page in ["docs/architecture.md", "docs/state-machine.md", "docs/scaling.md", "docs/adding-a-workflow.md"] {
        for name in backticked(&read(page)).iter().filter_map(|text| text.strip_suffix("()")) {
            let defined = [format!("create function {name}("), format!("fn {name}("), format!("fn {name}<")];
            assert!(
                defined.iter().any(|definition| code.contains(definition)),
                "{page} names `{name}()`, which is gone"
            );
        }
    }
}
