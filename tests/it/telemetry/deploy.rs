//! The files of `deploy/` and the runbook, held against the program: metrics that exist, alerts with their sections, commands
//! that can be run.

use chartgate::telemetry::metrics::{Kind, METRICS};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `promtool`, where Prometheus is installed; else the test says that it was not run.
pub fn promtool(arguments: &[&str], directory: &Path) -> Option<(bool, String)> {
    let Ok(output) = Command::new("promtool").args(arguments).current_dir(directory).output() else {
        println!("SKIPPED: promtool is not installed (Debian: prometheus)");
        return None;
    };
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Everything that looks like a metric of ours.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("chartgate_")).map(str::to_owned).collect()
}

fn is_known(name: &str) -> bool {
    METRICS.iter().any(|metric| match metric.kind {
        Kind::Counter | Kind::Gauge => name == metric.name,
        Kind::Histogram(_) => {
            name.strip_prefix(metric.name).is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
        }
    })
}

#[test]
fn every_metric_in_alerts_dashboard_and_runbook_exists_and_the_dashboard_shows_each() {
    let dashboard = read("deploy/grafana/chartgate.json");
    let alerts = read("deploy/prometheus/alerts.yml");
    for (file, text) in [
        ("alerts.yml", alerts.as_str()),
        ("tests.yml", &read("deploy/prometheus/tests.yml")),
        ("chartgate.json", &dashboard),
        ("runbook.md", &read("docs/runbook.md")),
    ] {
        let unknown: Vec<_> = named(text).into_iter().filter(|name| !is_known(name)).collect();
        // A prefix of several: `chartgate_…`.
        let unknown: Vec<_> = unknown.into_iter().filter(|name| name != "chartgate_").collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let shown = named(&dashboard);
    let missing: Vec<_> = METRICS
        .iter()
        .filter(|metric| !shown.iter().any(|name| name.starts_with(metric.name)))
        .map(|m| m.name)
        .collect();
    assert!(missing.is_empty(), "on no panel: {missing:?}");
    // Ids and places of panels are unique, and each asks something.
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["title"].as_str().unwrap().is_empty() && !panel["description"].as_str().unwrap().is_empty());
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
    }
}

/// Name → the lines of the rule.
fn alerts() -> BTreeMap<String, String> {
    let text = read("deploy/prometheus/alerts.yml");
    let rules = text.split("- alert: ").skip(1);
    rules.map(|rule| (rule.lines().next().unwrap().to_owned(), rule.to_owned())).collect()
}

#[test]
fn every_alert_says_what_to_do_and_every_section_of_the_runbook_is_an_alerts() {
    let runbook = read("docs/runbook.md");
    let sections: BTreeMap<&str, &str> =
        runbook.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let alerts = alerts();
    assert!(alerts.len() > 20, "{}", alerts.len());
    let (known, written): (Vec<&str>, Vec<&str>) =
        (alerts.keys().map(String::as_str).collect(), sections.keys().copied().collect());
    assert_eq!(known, written, "alerts and sections of docs/runbook.md");
    for (name, rule) in &alerts {
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(rule.contains(part), "{name} lacks {part}");
        }
        let anchor = format!("runbook_url: docs/runbook.md#{}", name.to_lowercase());
        assert!(rule.contains(&anchor), "{name}: {anchor}");
        for part in ["**Means.**", "**Look.**", "**Mend.**", "**Mended when:**"] {
            assert!(sections[name.as_str()].contains(part), "{name}: {part}");
        }
    }
    // Each fires once and stays quiet once.
    let tests = read("deploy/prometheus/tests.yml");
    for name in alerts.keys() {
        for fact in ["fires", "stays quiet"] {
            assert!(tests.contains(&format!("name: {name} {fact}\n")), "{name} {fact}");
        }
    }
}

#[test]
fn promtool_finds_the_rules_right_and_each_alert_fires_when_it_should() {
    let directory = root().join("deploy/prometheus");
    for arguments in
        [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "tests.yml"]]
    {
        let Some((ok, said)) = promtool(&arguments, &directory) else { return };
        assert!(ok && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}

/// Words of a command line: quotes keep spaces together.
pub fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.into_iter().filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_command_of_the_runbook_and_of_operations_can_be_run() {
    let mut checked = 0;
    for page in ["docs/runbook.md", "docs/operations.md", "docs/traces.md"] {
        let text = read(page);
        // In blocks of shell, and between backticks in sentences.
        let blocks = text.split("```bash\n").skip(1).filter_map(|rest| rest.split("```").next());
        let lines = blocks.flat_map(str::lines).map(str::trim).filter(|line| line.starts_with("chartgate "));
        let mut commands: Vec<(bool, String)> =
            lines.map(|line| (false, line.split(" #").next().unwrap().trim_end_matches(" &").to_owned())).collect();
        let prose: String = text.split("```").step_by(2).collect();
        let quoted = prose.split('`').skip(1).step_by(2).filter(|code| code.starts_with("chartgate "));
        // What names a place for something else is no whole command: `chartgate jobs explain JOB`, `--role …`.
        commands.extend(quoted.filter(|code| !code.contains('…')).map(|code| (true, code.to_owned())));
        for (is_prose, line) in commands {
            let parsed = chartgate::cli::command().try_get_matches_from(words(&line));
            // A sentence may name a command without what it needs.
            let is_fine = parsed.as_ref().is_err_and(|error| {
                use clap::error::ErrorKind::{DisplayVersion, MissingRequiredArgument};
                error.kind() == DisplayVersion || (is_prose && error.kind() == MissingRequiredArgument)
            });
            assert!(parsed.is_ok() || is_fine, "{page}: {line}\n{}", parsed.unwrap_err());
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}
