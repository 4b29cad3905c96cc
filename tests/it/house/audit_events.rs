//! What docs/audit.md says of the events.

use super::{dotted, root, section, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

#[test]
fn every_event_of_the_audit_log_is_listed_with_its_action() {
    let mut documented: BTreeMap<String, String> = BTreeMap::new();
    for line in section("docs/audit.md", "## Events").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        documented.insert(cells[1].trim_matches('`').to_owned(), cells[2].to_owned());
    }
    let mut written: Vec<(String, String)> = Vec::new();
    for code in sources().values() {
        for call in code.split("Record::new(").skip(1) {
            let call = call.split(';').next().unwrap_or_default();
            let action = call.split_once("Action::").and_then(|(_, rest)| rest.chars().next());
            let event = dotted(call.split("Action::").next().unwrap_or_default(), '"');
            written.extend(event.into_iter().zip(action.map(|action| action.to_string())));
        }
    }
    for entry in fs::read_dir(root().join("migrations")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for insert in text.split("insert into audit_records").skip(1) {
            // One event or, by a condition, several, and then the action of them all.
            let mut events = BTreeSet::new();
            for literal in insert.split(';').next().unwrap().split('\'').skip(1).step_by(2) {
                let named = dotted(&format!("'{literal}'"), '\'');
                if ["C", "R", "U", "D", "E"].contains(&literal) {
                    written.extend(std::mem::take(&mut events).into_iter().map(|event| (event, literal.to_owned())));
                }
                events.extend(named);
            }
        }
    }
    assert!(written.len() > 40, "{} records were found in the sources", written.len());
    let wrong: Vec<_> = written.iter().filter(|(event, action)| documented.get(event) != Some(action)).collect();
    assert!(wrong.is_empty(), "docs/audit.md says otherwise of {wrong:?}");
}
