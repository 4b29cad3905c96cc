//! What docs/security.md promises of the sources: no type prints what senders wrote, no library comes in unseen, and every
//! control names tests that exist.

use super::{backticked, module_of, read, root, section, set, sources, word};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Modules whose types carry what senders wrote.
const CLINICAL_MODULES: &[&str] = &["ingest", "http", "uploads", "objects"];

/// Types of those modules that print (`Debug`, derived or written by hand) although they hold text, and why that text is
/// nobody's: file, type, reason. Each must still be so, so that the list can only shrink.
const PRINTING: &[(&str, &str, &str)] = &[
    ("http/admin/lanes.rs", "BlockedLanes", "ids, states and numbers"),
    ("http/admin/organizations.rs", "Keys", "names that administrators gave to keys"),
    ("http/server/tls.rs", "TlsError", "paths of the configuration, and what is wrong with the files"),
    ("ingest/athena/event.rs", "EventFault", "a fixed sentence and the place of a member that we name"),
    ("ingest/bulk/piece.rs", "Piece", "writes its cut and the number of its items"),
    ("ingest/demographics.rs", "Demographics", "writes that it is redacted"),
    ("ingest/erasure/mod.rs", "Erasure", "a hash, a word for how far it is, and names of tables"),
    ("ingest/fhir/definitions/generate/formula.rs", "Formula", "FHIR's own definitions"),
    ("ingest/fhir/definitions/generate/formula.rs", "Token", "FHIR's own definitions"),
    ("ingest/fhir/definitions/generate/mod.rs", "GenerateError", "FHIR's own definitions"),
    ("ingest/fhir/definitions/load.rs", "LoadError", "FHIR's own definitions"),
    ("ingest/fhir/envelope.rs", "EnvelopeFault", "a fixed sentence and a place in the envelope"),
    ("ingest/fhir/node.rs", "Node", "writes its kind and its offsets"),
    ("ingest/issues.rs", "IssueCount", "codes of ours and counts"),
    ("ingest/subject/mrn.rs", "Mrn", "writes that it is redacted"),
    ("objects/error.rs", "NoAnswer", "S3's code, or the kind of a broken connection"),
    ("objects/error.rs", "ObjectError", "writes codes"),
    ("objects/mod.rs", "ObjectHead", "writes size and ETag"),
];

/// Types that hold text, as words of a field's type.
const TEXT_TYPES: &[&str] = &["String", "str", "Cow", "Bytes", "BytesMut", "Value", "RawValue", "Map", "Facts", "Node"];

/// A type that can be printed with `{:?}`.
struct Printing {
    file: String,
    name: String,
    /// It holds text that is not wrapped in `Phi`, or writes its `Debug` by hand.
    is_suspect: bool,
}

/// The text between an opening bracket at `at` and the one that closes it.
fn bracketed(code: &str, at: usize) -> &str {
    let (mut depth, mut end) = (0_usize, code.len());
    for (index, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'{' | b'[' | b'<' => depth += 1,
            // The arrow of a function's type closes nothing.
            b'>' if code.as_bytes()[index - 1] == b'-' => {}
            b')' | b'}' | b']' | b'>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            end = index;
            break;
        }
    }
    code.get(at + 1..end).unwrap_or_default()
}

/// Does a type's body name a type that holds text? What is in `Phi<…>` or `&'static` counts for nothing, and neither do
/// attributes, names of fields and names of variants.
fn holds_text(body: &str, is_enum: bool) -> bool {
    let mut plain = body.replace("&'static str", "").replace("&'static [&'static str]", "");
    for (opening, bracket) in [("Phi<", '<'), ("#[", '[')] {
        while let Some(at) = plain.find(opening) {
            let inner = bracketed(&plain, at + opening.find(bracket).unwrap()).len();
            plain.replace_range(at..(at + opening.len() + inner + 1).min(plain.len()), "");
        }
    }
    if plain.contains("Vec<u8>") || plain.contains("[u8]") {
        return true;
    }
    let mut depth = 0_usize;
    let mut rest = plain.as_str();
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_alphabetic() || first == '_' {
            let name = word(rest);
            rest = &rest[name.len()..];
            let is_field = rest.starts_with(':') && !rest.starts_with("::");
            if !(is_field || is_enum && depth == 0) && TEXT_TYPES.contains(&name) {
                return true;
            }
            continue;
        }
        match first {
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        rest = &rest[first.len_utf8()..];
    }
    false
}

/// The printable types of a source file.
fn printing(file: &str, code: &str) -> Vec<Printing> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("#[derive(") {
        let derives = bracketed(code, at + "#[derive".len());
        if !derives.split(',').any(|derive| derive.trim() == "Debug") {
            continue;
        }
        let rest = &code[at..];
        let Some((keyword, start)) = ["struct ", "enum "]
            .iter()
            .filter_map(|keyword| Some((*keyword, rest.find(keyword)?)))
            .min_by_key(|(_, start)| *start)
        else {
            continue;
        };
        let rest = &rest[start + keyword.len()..];
        let name = word(rest).to_owned();
        let is_suspect = rest
            .find(['{', '(', ';'])
            .is_some_and(|at| !rest[at..].starts_with(';') && holds_text(bracketed(rest, at), keyword == "enum "));
        found.push(Printing { file: file.to_owned(), name, is_suspect });
    }
    for rest in code.split("Debug for ").skip(1) {
        found.push(Printing { file: file.to_owned(), name: word(rest).to_owned(), is_suspect: true });
    }
    found
}

/// Where secrets are checked, and how each place compares them: a comparison that ends at the first difference tells a patient
/// caller how far a guess was right.
const COMPARED: &[(&str, &str)] = &[
    ("auth/keys.rs", ".ct_eq("),
    ("auth/webhooks/mod.rs", "fits |= aws_lc_rs::constant_time::verify_slices_are_equal("),
    ("auth/jwt/mod.rs", "jsonwebtoken::crypto::verify("),
];

/// Words of which none is compared with `==` or `!=`.
const SECRET_WORDS: &[&str] = &[
    "secret",
    "secrets",
    "secret_sha256",
    "digest",
    "signature",
    "signatures",
    "tag",
    "mac",
    "token",
    "sealed_secret",
];

#[test]
fn what_is_secret_is_compared_in_constant_time() {
    let sources = sources();
    for (path, how) in COMPARED {
        assert!(sources[*path].contains(how), "{path} does not compare by {how}");
    }
    let checks = |path: &str| {
        path.starts_with("auth/") || ["callbacks/signature.rs", "console/session.rs", "secrets.rs"].contains(&path)
    };
    let mut read = 0;
    let mut faults = Vec::new();
    for (path, code) in sources.iter().filter(|(path, _)| checks(path)) {
        for line in code.lines().filter(|line| ["==", "!="].iter().any(|sign| line.contains(sign))) {
            read += 1;
            let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            if words.any(|word| SECRET_WORDS.contains(&word)) {
                faults.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    assert!(read > 15, "only {read} comparisons are found: the reader does not read");
    assert!(faults.is_empty(), "compare these in constant time:\n{faults:#?}");
}

#[test]
fn what_senders_wrote_cannot_be_printed() {
    let sources = sources();
    let types: Vec<Printing> = sources
        .iter()
        .filter(|(path, _)| module_of(path).is_some_and(|module| CLINICAL_MODULES.contains(&module)))
        .filter(|(path, _)| !path.contains("/tests/"))
        .flat_map(|(path, code)| printing(path, code))
        .collect();
    assert!(types.len() > 100, "only {} types are found: the reader does not read", types.len());
    let suspects: BTreeSet<(&str, &str)> =
        types.iter().filter(|one| one.is_suspect).map(|one| (one.file.as_str(), one.name.as_str())).collect();
    let listed: BTreeSet<(&str, &str)> = PRINTING.iter().map(|(file, name, _)| (*file, *name)).collect();
    let faults: Vec<_> = suspects.difference(&listed).collect();
    assert!(
        faults.is_empty(),
        "these print text that a sender may have written: wrap it in `Phi`, or drop `Debug`, or say in PRINTING why it is \
         nobody's:\n{faults:#?}"
    );
    let gone: Vec<_> = listed.difference(&suspects).collect();
    assert!(gone.is_empty(), "PRINTING lists what does not print text any more: {gone:?}");
    assert!(PRINTING.iter().all(|(_, _, reason)| reason.len() > 10), "each with its reason");
}

#[test]
fn the_reader_of_types_sees_text_wherever_it_stands() {
    let seen = |code: &str| printing("x.rs", code).iter().any(|one| one.is_suspect);
    for text in [
        "#[derive(Debug)]\nstruct A { name: String }",
        "#[derive(Clone, Debug)]\npub struct A(pub Option<Vec<u8>>);",
        "#[derive(Debug)]\n#[serde(x)]\npub(super) struct A<'a> { a: u8, body: &'a [u8] }",
        "#[derive(Debug)]\nenum A { B, String, C { said: Cow<'a, str> } }",
        "#[derive(Debug)]\nstruct A { a: Phi<String>, b: BTreeMap<String, u8> }",
        "#[derive(Debug)]\nstruct A<'a> { a: &'a str }",
        "impl std::fmt::Debug for A {",
    ] {
        assert!(seen(text), "{text}");
    }
    for text in [
        "#[derive(Clone)]\nstruct A { name: String }",
        "#[derive(Debug)]\nstruct A { name: &'static str, hash: [u8; 32] }",
        "#[derive(Debug)]\nenum A { String, Value(u8) }",
        "#[derive(Debug)]\nstruct A { name: Phi<Option<String>>, b: u8 }",
        "#[derive(Debug)]\nstruct A { #[serde(with = \"String\")] at: u8 }\nstruct B { name: String }",
        "#[derive(Debug)]\nstruct A;\nstruct B { name: String }",
    ] {
        assert!(!seen(text), "{text}");
    }
}

#[test]
fn the_lock_file_holds_nothing_that_deny_toml_refuses() {
    let deny: toml::Table = toml::from_str(&read("deny.toml")).unwrap();
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let text = |value: &toml::Value, key: &str| value.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let packages: Vec<(String, String, Option<String>)> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(one, "name").unwrap(), text(one, "version").unwrap(), text(one, "source")))
        .collect();
    let registries = set(deny["sources"]["allow-registry"].as_array().unwrap().iter().filter_map(toml::Value::as_str));
    for (name, _, source) in &packages {
        let known = source.as_ref().is_none_or(|source| registries.contains(source.trim_start_matches("registry+")));
        assert!(known && (source.is_some() || name == "chartgate"), "{name} comes from {source:?}");
    }
    let bans = &deny["bans"];
    for ban in bans["deny"].as_array().unwrap() {
        let (name, reason) = (text(ban, "crate").unwrap(), text(ban, "reason").unwrap());
        // Of the others, cargo-deny knows whether they are built at all.
        let never = reason.contains("RUSTSEC");
        assert!(!(never && packages.iter().any(|(package, ..)| *package == name)), "{name} is in Cargo.lock: {reason}");
    }
    for skip in bans["skip"].as_array().unwrap() {
        let wanted = text(skip, "crate").unwrap();
        let exists = packages.iter().any(|(name, version, _)| format!("{name}@{version}") == wanted);
        assert!(exists && text(skip, "reason").is_some(), "deny.toml skips {wanted}, which is gone, or says no reason");
    }
    assert!(
        deny["advisories"]["ignore"].as_array().unwrap().is_empty(),
        "an ignored advisory needs a reason and a date here"
    );
}

/// The tests of a file that run: functions with an attribute that makes them one and none that leaves them out; what
/// `contract!` lists, it makes tests of.
fn tests_of(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut found = BTreeSet::new();
    for (index, line) in lines.iter().enumerate() {
        let name = line.split_once("fn ").filter(|(before, _)| before.is_empty() || before.ends_with(' '));
        let Some((_, name)) = name else { continue };
        let above: Vec<&&str> =
            lines[..index].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//")).collect();
        let has = |attribute: &str| above.iter().any(|line| line.starts_with(attribute));
        if (has("#[test]") || has("#[tokio::test")) && !has("#[ignore") {
            found.insert(word(name).to_owned());
        }
    }
    let listed = text.split_once("\ncontract!(").and_then(|(_, rest)| rest.split_once(");"));
    found.extend(listed.into_iter().flat_map(|(names, _)| names.split(',')).map(|name| name.trim().to_owned()));
    found
}

#[test]
fn a_function_that_nobody_runs_is_no_test() {
    let text = "#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\nasync fn two() {}\nfn helper() {}\n\
                #[ignore]\n#[test]\nfn ignored() {}\n#[test]\n#[ignore = \"slow\"]\nfn slow() {}\ncontract!(\n    three,\n    four,\n);\n";
    let found: Vec<String> = tests_of(text).into_iter().filter(|name| !name.is_empty()).collect();
    assert_eq!(found, ["four", "one", "three", "two"]);
}

#[test]
fn every_control_names_tests_that_exist() {
    fn functions(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                functions(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(tests_of(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut known = BTreeSet::new();
    for dir in ["tests", "src"] {
        functions(&root().join(dir), &mut known);
    }
    let table = section("docs/security.md", "## Controls and their tests");
    let rows: Vec<Vec<String>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| control"))
        .map(|line| backticked(line.split('|').nth(2).unwrap_or_default()))
        .collect();
    assert!(rows.len() >= 15, "the table has {} rows", rows.len());
    for names in rows {
        let tests: Vec<_> = names.iter().filter(|name| !name.contains(['.', '/'])).collect();
        assert!(!tests.is_empty(), "a control without a test: {names:?}");
        let gone: Vec<_> = tests.iter().filter(|name| !known.contains(**name)).collect();
        assert!(gone.is_empty(), "docs/security.md names tests that are gone: {gone:?}");
    }
}

#[test]
fn compose_gives_every_process_one_key_and_the_example_names_all_that_it_asks_for() {
    let (compose, example) = (read("compose.yaml"), read(".env.example"));
    let asked: BTreeSet<&str> =
        compose.split("${").skip(1).filter_map(|rest| rest.split_once(":?")).map(|(name, _)| name).collect();
    let given: BTreeSet<&str> = example.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(asked.contains("CHARTGATE_SECRETS_KEY"), "what one container seals, another one opens: {asked:?}");
    let missing: Vec<_> = asked.difference(&given).collect();
    assert!(missing.is_empty(), ".env.example lacks {missing:?}");
}
