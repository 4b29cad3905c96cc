//! Workflow files: the types and the whole-file validation. Pure.
//!
//! A file is policy as data; behavior is the handlers it names. Parsing is strict (unknown keys are refused) and
//! collects all faults at once, each with the file, the step and the key. The keys are explained in
//! `workflows/README.md`.

use super::retry::Policy;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use toml::{Table, Value};

/// Steps in a workflow, at most: the queue counts them in a small number, and more would not be readable.
pub const STEPS_MAX: usize = 20;

/// Keys of a workflow file's top level, of `[limits]`, `[[step]]` and `retry`; the docs list the same.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", &["name", "version", "summary", "ordering", "priority", "deadline", "limits", "step"]),
    ("limits", &["body_max_bytes", "entries_max"]),
    ("step", &["name", "handler", "timeout", "run", "retry", "each", "params"]),
    ("retry", &["attempts", "first_delay", "max_delay", "factor"]),
];

/// Which jobs of a workflow run one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// All jobs of one organization.
    Organization,
    /// All jobs of one patient (the submitter's ordering key) of one organization.
    Patient,
    /// No order.
    None,
}

/// When a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunWhen {
    /// Only when all earlier steps of the round succeeded.
    OnSuccess,
    /// Also after an earlier step failed for good.
    Always,
}

/// Bounds on what a workflow accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Largest body at intake, in bytes; the server's own limit applies too.
    pub body_max_bytes: Option<u64>,
    /// Most entries of a Bundle.
    pub entries_max: Option<u32>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepDefinition {
    /// Unique in the workflow; shown to senders.
    pub name: String,
    /// The registered handler.
    pub handler: String,
    /// Longest run of one attempt's preparation.
    pub timeout: Duration,
    /// When it runs.
    pub run: RunWhen,
    /// How it is repeated.
    pub retry: Policy,
    /// Run once for every chunk of the job (bulk files).
    pub each_chunk: bool,
    /// Handed to the handler.
    pub params: Arc<Table>,
}

/// One version of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowDefinition {
    /// The file's name without `.toml`.
    pub name: String,
    /// Raised with every change of content.
    pub version: i32,
    /// One sentence for people.
    pub summary: String,
    /// Which jobs wait for each other.
    pub ordering: Ordering,
    /// Smaller runs sooner, inside one organization.
    pub priority: i16,
    /// Longest time of one round, retries included.
    pub deadline: Option<Duration>,
    /// Bounds at intake.
    pub limits: Limits,
    /// In order.
    pub steps: Vec<StepDefinition>,
    /// The file's text.
    pub body: String,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
}

impl WorkflowDefinition {
    /// The index of the step of that name.
    #[must_use]
    pub fn step_index(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// The step after `index`: the next one, or, in a round that failed, the next that runs always.
    #[must_use]
    pub fn next_step(&self, index: usize, failed: bool) -> Option<i16> {
        self.steps
            .iter()
            .enumerate()
            .skip(index + 1)
            .find(|(_, step)| !failed || step.run == RunWhen::Always)
            .and_then(|(index, _)| i16::try_from(index).ok())
    }

    /// Whether jobs of this workflow are cut into chunks: bulk files.
    #[must_use]
    pub fn has_chunks(&self) -> bool {
        self.steps.iter().any(|step| step.each_chunk)
    }

    /// The consecutive steps with `each = "chunk"` around `index`, through which each chunk goes by itself; empty when the
    /// step has no chunks.
    #[must_use]
    pub fn region(&self, index: usize) -> std::ops::Range<usize> {
        let is_each = |index: usize| self.steps.get(index).is_some_and(|step| step.each_chunk);
        if !is_each(index) {
            return index..index;
        }
        let start = (0..index).rev().take_while(|before| is_each(*before)).last().unwrap_or(index);
        let end = (index..self.steps.len()).find(|after| !is_each(*after)).unwrap_or(self.steps.len());
        start..end
    }

    /// The steps that a first failure at `index` leaves out; they are written once a round.
    #[must_use]
    pub fn skipped_steps(&self, index: usize, failed_before: bool) -> Vec<(i16, String)> {
        if failed_before {
            return Vec::new();
        }
        self.steps
            .iter()
            .enumerate()
            .skip(index + 1)
            .filter(|(_, step)| step.run != RunWhen::Always)
            .filter_map(|(index, step)| Some((i16::try_from(index).ok()?, step.name.clone())))
            .collect()
    }
}

/// One fault of a workflow file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// Where in it, such as `step "validate", retry.attempts`; empty for the file as a whole.
    pub place: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}: {}: {}", self.file, self.place, self.message)
        }
    }
}

/// What a workflow file may name: handlers and the parameters that each understands.
pub trait KnownHandlers {
    /// The parameter names of that handler, or `None` if there is no such handler.
    fn params_of(&self, handler: &str) -> Option<&'static [&'static str]>;
    /// All names, for the message.
    fn names(&self) -> Vec<&str>;
}

/// Parse and check one file as a whole.
///
/// # Errors
/// Every fault found, not only the first.
pub fn parse(file: &str, body: &str, handlers: &dyn KnownHandlers) -> Result<WorkflowDefinition, Vec<Fault>> {
    let mut reader = Reader { file, faults: Vec::new() };
    let table: Table = match body.parse() {
        Ok(table) => table,
        Err(error) => {
            let error: toml::de::Error = error;
            reader.fault("", format!("is not TOML: {}", error.message()));
            return Err(reader.faults);
        }
    };
    let definition = reader.workflow(&table, body, handlers);
    match definition {
        Some(definition) if reader.faults.is_empty() => Ok(definition),
        _ => Err(reader.faults),
    }
}

struct Reader<'a> {
    file: &'a str,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, place: &str, message: impl Into<String>) {
        self.faults.push(Fault { file: self.file.to_owned(), place: place.to_owned(), message: message.into() });
    }

    fn refuse_unknown(&mut self, place: &str, table: &Table, section: &str) {
        let known = KEYS.iter().find(|(name, _)| *name == section).map_or(&[][..], |(_, keys)| *keys);
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.fault(&join(place, key), format!("is not a known key (known: {})", known.join(", ")));
        }
    }

    fn text<'t>(&mut self, place: &str, table: &'t Table, key: &str, required: bool) -> Option<&'t str> {
        match table.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
            Some(_) => {
                self.fault(&join(place, key), "must be a text that is not empty");
                None
            }
            None => {
                if required {
                    self.fault(&join(place, key), "is missing");
                }
                None
            }
        }
    }

    fn integer(&mut self, place: &str, table: &Table, key: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        match table.get(key) {
            None => None,
            Some(Value::Integer(number)) if range.contains(number) => Some(*number),
            Some(_) => {
                self.fault(
                    &join(place, key),
                    format!("must be a whole number from {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    fn duration(&mut self, place: &str, table: &Table, key: &str, max: Duration) -> Option<Duration> {
        let value = table.get(key)?;
        let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
        match parsed {
            Some(duration) if duration > Duration::ZERO && duration <= max => Some(duration),
            _ => {
                self.fault(
                    &join(place, key),
                    format!(
                        "must be a duration such as \"30s\" or \"5m\", at most {}",
                        humantime::format_duration(max)
                    ),
                );
                None
            }
        }
    }

    fn choice<T: Copy>(&mut self, place: &str, table: &Table, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = table.get(key)?;
        let found = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.fault(&join(place, key), format!("must be one of {}", names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    fn workflow(&mut self, table: &Table, body: &str, handlers: &dyn KnownHandlers) -> Option<WorkflowDefinition> {
        self.refuse_unknown("", table, "");
        let name = self.text("", table, "name", true).map(str::to_owned);
        if let Some(name) = &name {
            if !is_name(name) {
                self.fault("name", "must be lower-case letters, digits and dashes, at most 50");
            }
            let expected = self.file.rsplit('/').next().unwrap_or_default().trim_end_matches(".toml").to_owned();
            if *name != expected {
                self.fault("name", format!("must be the file's name, \"{expected}\""));
            }
        }
        let version = self.integer("", table, "version", 1..=1_000_000);
        if !table.contains_key("version") {
            self.fault("version", "is missing");
        }
        let summary = self.text("", table, "summary", true).unwrap_or_default().to_owned();
        let ordering = self.choice(
            "",
            table,
            "ordering",
            &[("organization", Ordering::Organization), ("patient", Ordering::Patient), ("none", Ordering::None)],
        );
        if !table.contains_key("ordering") {
            self.fault("ordering", "is missing");
        }
        let priority = self.integer("", table, "priority", -100..=100).unwrap_or(0);
        let deadline = self.duration("", table, "deadline", Duration::from_hours(24 * 30));
        let limits = self.limits(table);
        let steps = self.steps(table, handlers);
        Some(WorkflowDefinition {
            name: name?,
            version: i32::try_from(version?).ok()?,
            summary,
            ordering: ordering?,
            priority: i16::try_from(priority).ok()?,
            deadline,
            limits,
            steps,
            body: body.to_owned(),
            digest: Sha256::digest(body.as_bytes()).into(),
        })
    }

    fn limits(&mut self, table: &Table) -> Limits {
        let Some(value) = table.get("limits") else { return Limits::default() };
        let Some(limits) = value.as_table() else {
            self.fault("limits", "must be a table");
            return Limits::default();
        };
        self.refuse_unknown("limits", limits, "limits");
        Limits {
            body_max_bytes: self
                .integer("limits", limits, "body_max_bytes", 1..=1 << 40)
                .and_then(|value| u64::try_from(value).ok()),
            entries_max: self
                .integer("limits", limits, "entries_max", 1..=10_000_000)
                .and_then(|value| u32::try_from(value).ok()),
        }
    }

    fn steps(&mut self, table: &Table, handlers: &dyn KnownHandlers) -> Vec<StepDefinition> {
        let Some(Value::Array(items)) = table.get("step") else {
            self.fault("step", "at least one [[step]] is needed");
            return Vec::new();
        };
        if items.is_empty() || items.len() > STEPS_MAX {
            self.fault("step", format!("there must be 1 to {STEPS_MAX} steps, not {}", items.len()));
        }
        let mut steps: Vec<StepDefinition> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(item) = item.as_table() else {
                self.fault(&format!("step {index}"), "must be a table");
                continue;
            };
            if let Some(step) = self.step(index, item, handlers) {
                if steps.iter().any(|earlier| earlier.name == step.name) {
                    self.fault(&format!("step \"{}\"", step.name), "is there twice; step names must differ");
                }
                steps.push(step);
            }
        }
        if let Some(last) = steps.last()
            && last.run != RunWhen::Always
            && steps.iter().any(|step| step.run == RunWhen::Always)
        {
            let place = format!("step \"{}\"", last.name);
            self.fault(
                &join(&place, "run"),
                "the last step must be \"always\" when an earlier one is: it closes the job",
            );
        }
        steps
    }

    fn step(&mut self, index: usize, table: &Table, handlers: &dyn KnownHandlers) -> Option<StepDefinition> {
        let place = match table.get("name").and_then(Value::as_str) {
            Some(name) => format!("step \"{name}\""),
            None => format!("step {index}"),
        };
        self.refuse_unknown(&place, table, "step");
        let name = self.text(&place, table, "name", true).map(str::to_owned);
        if let Some(name) = &name
            && !is_name(&name.replace('_', "-"))
        {
            self.fault(&join(&place, "name"), "must be lower-case letters, digits, dashes and underscores, at most 50");
        }
        let params = match table.get("params") {
            None => Table::new(),
            Some(Value::Table(params)) => params.clone(),
            Some(_) => {
                self.fault(&join(&place, "params"), "must be a table");
                Table::new()
            }
        };
        let handler = self.text(&place, table, "handler", true).map(str::to_owned);
        if let Some(handler) = &handler {
            match handlers.params_of(handler) {
                None => {
                    let names = handlers.names().join(", ");
                    self.fault(&join(&place, "handler"), format!("no handler \"{handler}\" (known: {names})"));
                }
                Some(known) => {
                    for key in params.keys().filter(|key| !known.contains(&key.as_str())) {
                        self.fault(
                            &join(&place, &format!("params.{key}")),
                            format!("is not a parameter of \"{handler}\" (known: {})", known.join(", ")),
                        );
                    }
                }
            }
        }
        let timeout =
            self.duration(&place, table, "timeout", Duration::from_hours(24)).unwrap_or(Duration::from_mins(1));
        let run = self
            .choice(&place, table, "run", &[("on_success", RunWhen::OnSuccess), ("always", RunWhen::Always)])
            .unwrap_or(RunWhen::OnSuccess);
        let each_chunk = self.choice(&place, table, "each", &[("chunk", true)]).unwrap_or(false);
        if each_chunk && run == RunWhen::Always {
            self.fault(&join(&place, "each"), "a step that runs always cannot run for each chunk");
        }
        let retry = self.retry(&place, table);
        Some(StepDefinition {
            name: name?,
            handler: handler?,
            timeout,
            run,
            retry,
            each_chunk,
            params: Arc::new(params),
        })
    }

    fn retry(&mut self, place: &str, table: &Table) -> Policy {
        let default = Policy::default();
        let Some(value) = table.get("retry") else { return default };
        let Some(retry) = value.as_table() else {
            self.fault(
                &join(place, "retry"),
                "must be a table such as { attempts = 5, first_delay = \"1s\", max_delay = \"1m\", factor = 2.0 }",
            );
            return default;
        };
        let place = join(place, "retry");
        self.refuse_unknown(&place, retry, "retry");
        let attempts = self
            .integer(&place, retry, "attempts", 1..=1000)
            .and_then(|value| u16::try_from(value).ok())
            .unwrap_or(default.attempts);
        let first_delay =
            self.duration(&place, retry, "first_delay", Duration::from_hours(24)).unwrap_or(default.first_delay);
        let max_delay = self
            .duration(&place, retry, "max_delay", Duration::from_hours(24))
            .unwrap_or(default.max_delay.max(first_delay));
        let factor = match retry.get("factor") {
            None => default.factor,
            Some(value) => {
                #[expect(clippy::cast_precision_loss, reason = "checked against 1..=10 below")]
                let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
                match number {
                    Some(number) if (1.0..=10.0).contains(&number) => number,
                    _ => {
                        self.fault(&join(&place, "factor"), "must be a number from 1 to 10");
                        default.factor
                    }
                }
            }
        };
        if first_delay > max_delay {
            self.fault(&join(&place, "first_delay"), "must not be longer than max_delay");
        }
        Policy { attempts, first_delay, max_delay, factor }
    }
}

fn join(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}, {key}") }
}

fn is_name(text: &str) -> bool {
    (1..=50).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;
    impl KnownHandlers for Two {
        fn params_of(&self, handler: &str) -> Option<&'static [&'static str]> {
            match handler {
                "a" => Some(&["depth"]),
                "b" => Some(&[]),
                _ => None,
            }
        }
        fn names(&self) -> Vec<&str> {
            vec!["a", "b"]
        }
    }

    const GOOD: &str = r#"
name = "demo"
version = 3
summary = "Two steps."
ordering = "patient"
priority = -1
deadline = "1h"
[limits]
entries_max = 5
[[step]]
name = "first"
handler = "a"
timeout = "5s"
retry = { attempts = 4, first_delay = "1s", max_delay = "10s", factor = 3 }
[step.params]
depth = 2
[[step]]
name = "last"
handler = "b"
run = "always"
"#;

    #[test]
    fn a_good_file_is_read_whole() {
        let definition = parse("workflows/demo.toml", GOOD, &Two).unwrap();
        assert_eq!((definition.version, definition.ordering, definition.priority), (3, Ordering::Patient, -1));
        assert_eq!(definition.limits.entries_max, Some(5));
        assert_eq!(definition.steps[0].retry.attempts, 4);
        assert_eq!(definition.steps[1].run, RunWhen::Always);
        assert_eq!(definition.step_index("last"), Some(1));
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_places() {
        let bad = r#"
name = "other"
version = 0
ordering = "fifo"
colour = "blue"
[[step]]
name = "first"
handler = "c"
timeout = "soon"
retry = { attempts = 0, first_delay = "1h", max_delay = "1s", extra = 1 }
[[step]]
name = "first"
handler = "a"
[step.params]
width = 1
"#;
        let faults: Vec<String> =
            parse("workflows/demo.toml", bad, &Two).unwrap_err().iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(faults.join("\n"), @r#"
        workflows/demo.toml: colour: is not a known key (known: name, version, summary, ordering, priority, deadline, limits, step)
        workflows/demo.toml: name: must be the file's name, "demo"
        workflows/demo.toml: version: must be a whole number from 1 to 1000000
        workflows/demo.toml: summary: is missing
        workflows/demo.toml: ordering: must be one of "organization", "patient", "none"
        workflows/demo.toml: step "first", handler: no handler "c" (known: a, b)
        workflows/demo.toml: step "first", timeout: must be a duration such as "30s" or "5m", at most 1day
        workflows/demo.toml: step "first", retry, extra: is not a known key (known: attempts, first_delay, max_delay, factor)
        workflows/demo.toml: step "first", retry, attempts: must be a whole number from 1 to 1000
        workflows/demo.toml: step "first", retry, first_delay: must not be longer than max_delay
        workflows/demo.toml: step "first", params.width: is not a parameter of "a" (known: depth)
        workflows/demo.toml: step "first": is there twice; step names must differ
        "#);
    }

    #[test]
    fn an_always_step_must_not_be_followed_by_a_last_step_that_may_be_skipped() {
        let bad = GOOD.replace("run = \"always\"", "").replace("timeout = \"5s\"", "run = \"always\"");
        let faults = parse("demo.toml", &bad, &Two).unwrap_err();
        assert!(faults[0].message.contains("closes the job"), "{faults:?}");
    }
}
