//! The generator of the definitions table: from the specification's StructureDefinitions, ValueSets and CodeSystems to
//! one compact text. Run by `chartgate definitions generate` when a release of FHIR is taken in, never at run time.
//!
//! Nothing in it is particular to R4: the definitions of R4B and R5 (npm `hl7.fhir.r4b.core`, `hl7.fhir.r5.core`) are
//! read by the same code. The notation is described in `load.rs` beside it.

mod formula;
mod terminology;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use terminology::Terminology;

/// Why no table can be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file or directory cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// A file is not JSON.
    #[error("{0} is not JSON: {1}")]
    Json(PathBuf, serde_json::Error),
    /// There is no StructureDefinition among the files.
    #[error("no StructureDefinition with a snapshot was found")]
    Nothing,
    /// A definition that the table's notation has no words for.
    #[error("{0}")]
    Unsupported(String),
}

/// The table, and what was left out of it.
pub struct Generated {
    /// The text to be committed.
    pub table: String,
    /// Invariants that the notation has no words for: `key type expression`, sorted.
    pub untranslated: Vec<String>,
    /// Value sets of required bindings that cannot be listed.
    pub unlisted: Vec<String>,
}

/// Make the table from all definitions under a directory: `.json` or `.json.gz`, single resources or Bundles of them.
///
/// # Errors
/// [`GenerateError`].
pub fn generate(directory: &Path, release: &str) -> Result<Generated, GenerateError> {
    let mut generator = Generator::default();
    for file in files(directory)? {
        let document = read(&file)?;
        match document["resourceType"].as_str() {
            Some("Bundle") => {
                let entries = document["entry"].as_array().map(Vec::as_slice).unwrap_or_default();
                for entry in entries {
                    generator.take(&entry["resource"]);
                }
            }
            _ => generator.take(&document),
        }
    }
    generator.write(release)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, GenerateError> {
    let fault = |error| GenerateError::Read(directory.to_owned(), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // The JSON Schema of the specification lies beside its definitions and is none.
        let is_definition = !name.starts_with("fhir.schema") && !name.starts_with('.');
        let plain = Path::new(name.strip_suffix(".gz").unwrap_or(name));
        if is_definition && plain.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Value, GenerateError> {
    let fault = |error| GenerateError::Read(path.to_owned(), error);
    let bytes = std::fs::read(path).map_err(fault)?;
    let bytes = if path.extension().is_some_and(|extension| extension == "gz") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(fault)?;
        plain
    } else {
        bytes
    };
    serde_json::from_slice(&bytes).map_err(|error| GenerateError::Json(path.to_owned(), error))
}

#[derive(Default)]
struct Generator {
    /// By name; a later file with the same definition replaces an earlier one.
    structures: BTreeMap<String, Value>,
    terminology: Terminology,
}

/// A type of the table under construction.
struct Type {
    kind: char,
    base: String,
    elements: Vec<String>,
    invariants: BTreeMap<String, String>,
}

impl Generator {
    fn take(&mut self, resource: &Value) {
        match resource["resourceType"].as_str() {
            Some("StructureDefinition") => {
                let is_type = resource["derivation"] != "constraint"
                    && matches!(resource["kind"].as_str(), Some("complex-type" | "resource"))
                    && resource["snapshot"]["element"].is_array();
                if let (true, Some(name)) = (is_type, resource["type"].as_str()) {
                    self.structures.insert(name.to_owned(), resource.clone());
                }
            }
            Some("ValueSet" | "CodeSystem") => self.terminology.take(resource),
            _ => {}
        }
    }

    fn write(self, release: &str) -> Result<Generated, GenerateError> {
        let mut types: BTreeMap<String, Type> = BTreeMap::new();
        let mut sets: BTreeMap<String, String> = BTreeMap::new();
        let (mut untranslated, mut unlisted) = (BTreeSet::new(), BTreeSet::new());
        // A package may hold definitions of a later release beside its own: the version is that of `Resource`.
        let version = self.structures.get("Resource").and_then(|resource| resource["fhirVersion"].as_str());
        let version = version.ok_or(GenerateError::Nothing)?;
        for (name, structure) in &self.structures {
            if structure["fhirVersion"] != version {
                continue;
            }
            let base = structure["baseDefinition"].as_str().and_then(|url| url.rsplit('/').next()).unwrap_or("-");
            let kind = if structure["kind"] == "resource" { 'r' } else { 'c' };
            let kind = if structure["abstract"] == true { kind.to_ascii_uppercase() } else { kind };
            types.insert(
                name.clone(),
                Type { kind, base: base.to_owned(), elements: Vec::new(), invariants: BTreeMap::new() },
            );
            let elements = structure["snapshot"]["element"].as_array().map(Vec::as_slice).unwrap_or_default();
            for element in elements {
                let Some(path) = element["path"].as_str() else { continue };
                self.element(name, path, element, &mut types, &mut sets, &mut unlisted)?;
            }
            for element in elements {
                let Some(path) = element["path"].as_str() else { continue };
                let constraints = element["constraint"].as_array().map(Vec::as_slice).unwrap_or_default();
                for constraint in constraints {
                    invariant(name, path, constraint, &mut types, &mut untranslated);
                }
            }
        }
        // An inherited invariant is that of the base.
        let inherited: Vec<(String, String)> = types
            .iter()
            .flat_map(|(name, of)| of.invariants.keys().map(move |key| (name.clone(), key.clone())))
            .filter(|(name, key)| {
                let mut base = types.get(&types[name].base);
                std::iter::from_fn(|| {
                    let found = base?;
                    base = types.get(&found.base);
                    Some(found)
                })
                .any(|ancestor| ancestor.invariants.contains_key(key))
            })
            .collect();
        for (name, key) in inherited {
            types.get_mut(&name).map(|of| of.invariants.remove(&key));
        }
        let table = render(release, version, &types, &sets);
        Ok(Generated {
            table,
            untranslated: untranslated.into_iter().collect(),
            unlisted: unlisted.into_iter().collect(),
        })
    }

    fn element(
        &self,
        root: &str,
        path: &str,
        element: &Value,
        types: &mut BTreeMap<String, Type>,
        sets: &mut BTreeMap<String, String>,
        unlisted: &mut BTreeSet<String>,
    ) -> Result<(), GenerateError> {
        let Some((parent, name)) = path.rsplit_once('.') else { return Ok(()) };
        // What a base type defines is taken from there.
        let base_path = element["base"]["path"].as_str().unwrap_or(path);
        let is_own = base_path.split('.').next() == Some(root) || !self.structures.contains_key(root);
        if !is_own && parent == root {
            return Ok(());
        }
        if !is_own && types.contains_key(parent) && matches!(name, "id" | "extension" | "modifierExtension") {
            return Ok(());
        }
        let minimum = element["min"].as_u64().unwrap_or(0);
        let many = if element["max"] == "1" || element["max"] == "0" { '1' } else { '*' };
        let kinds = element["type"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut words = Vec::new();
        if let Some(reference) = element["contentReference"].as_str() {
            words.push(reference.rsplit('#').next().unwrap_or(reference).to_owned());
        }
        for kind in kinds {
            let code = kind["code"].as_str().unwrap_or_default();
            let code = code.strip_prefix("http://hl7.org/fhirpath/System.").unwrap_or(code);
            if matches!(code, "BackboneElement" | "Element") && !name.ends_with("[x]") {
                // `Element` itself is the type of extensions' owners only; everywhere else it has children of its own.
                let base = code.to_owned();
                types.entry(path.to_owned()).or_insert(Type {
                    kind: 'b',
                    base,
                    elements: Vec::new(),
                    invariants: BTreeMap::new(),
                });
                words.push(path.to_owned());
                continue;
            }
            let word = match (code, name) {
                ("String", "id")
                    if self.structures.get(root).is_some_and(|of| of["kind"] == "resource") && parent == root =>
                {
                    "id"
                }
                ("String", _) => "string",
                (other, _) => other,
            };
            let targets: Vec<&str> = kind["targetProfile"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default()
                .iter()
                .filter_map(|target| target.as_str()?.rsplit('/').next())
                .collect();
            let is_open = targets.is_empty() || targets.contains(&"Resource") || word == "canonical";
            words.push(if is_open { word.to_owned() } else { format!("{word}({})", targets.join("|")) });
        }
        let mut line = format!("{name} {minimum}{many} {}", words.join(","));
        if let Some(set) = required_set(element) {
            match self.terminology.expand(set) {
                Some(codes) => {
                    sets.insert(set.to_owned(), codes);
                    let _ = write!(line, " !{set}");
                }
                None => {
                    unlisted.insert(set.to_owned());
                }
            }
        }
        let Some(of) = types.get_mut(parent) else {
            return Err(GenerateError::Unsupported(format!("{path} has no parent type")));
        };
        of.elements.push(line);
        Ok(())
    }
}

/// The value set of a required binding, without its version.
fn required_set(element: &Value) -> Option<&str> {
    let binding = &element["binding"];
    (binding["strength"] == "required").then_some(())?;
    binding["valueSet"].as_str()?.split('|').next()
}

fn invariant(
    root: &str,
    path: &str,
    constraint: &Value,
    types: &mut BTreeMap<String, Type>,
    untranslated: &mut BTreeSet<String>,
) {
    let (Some(key), Some(expression)) = (constraint["key"].as_str(), constraint["expression"].as_str()) else { return };
    // What an element takes over from its own datatype is checked there.
    let is_own = path == root || types.contains_key(path);
    let from_elsewhere = constraint["source"].as_str().is_some_and(|source| !source.ends_with(&format!("/{root}")));
    if key == "ele-1" || (from_elsewhere && path != root) {
        return;
    }
    let severity = if constraint["severity"] == "error" { 'e' } else { 'w' };
    let expression = correction(key).unwrap_or(expression);
    let translated = is_own.then(|| formula::translate(root, expression)).flatten();
    match translated {
        Some(formula) => {
            let line = format!("{key} {severity} {}", formula.prefix());
            if let Some(of) = types.get_mut(path) {
                of.invariants.insert(key.to_owned(), line);
            }
        }
        None => {
            if !from_elsewhere {
                untranslated.insert(format!("{key} {path} {expression}"));
            }
        }
    }
}

/// Expressions of the specification that contradict their own text, as later releases put them right.
fn correction(key: &str) -> Option<&'static str> {
    // "If there are more than one enableWhen, enableBehavior must be specified": R4 counts to two.
    (key == "que-12").then_some("enableWhen.count() > 1 implies enableBehavior.exists()")
}

fn render(release: &str, version: &str, types: &BTreeMap<String, Type>, sets: &BTreeMap<String, String>) -> String {
    let mut table = format!(
        "# FHIR {release} ({version}): types, required codes and invariants, extracted from the specification's own\n\
         # StructureDefinitions, ValueSets and CodeSystems (HL7 FHIR, http://hl7.org/fhir/{release}, CC0-1.0).\n\
         # Made by `chartgate definitions generate`; not to be edited. Notation: src/ingest/fhir/definitions/load.rs.\n\
         R {release} {version}\n"
    );
    for (url, codes) in sets {
        let _ = writeln!(table, "V {url}");
        table.push_str(codes);
    }
    for (name, of) in types {
        let _ = writeln!(table, "T {name} {} {}", of.kind, of.base);
        for element in &of.elements {
            let _ = writeln!(table, "E {element}");
        }
        for line in of.invariants.values() {
            let _ = writeln!(table, "I {line}");
        }
    }
    table
}
