//! Whom the resources of one Bundle are about: its Patients, by everything that a reference may say.

use super::mrn::{Declared, Mrn, MrnRules, declared, patient_mrns, temporary_numbers};
use super::reference::{Reference, conditional, plain, references_to};
use super::{Outside, Subject};
use crate::ingest::demographics::Demographics;
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::split::{Bundle, Entry};
use std::collections::{BTreeSet, HashMap};

/// The patients of a Bundle, by everything that a reference within the Bundle may say.
pub struct Directory {
    by_reference: HashMap<String, Target>,
    by_number: HashMap<Mrn, BTreeSet<u32>>,
    patients: HashMap<u32, Listed>,
}

/// A Patient of the Bundle.
struct Listed {
    references: Vec<Reference>,
    numbers: BTreeSet<Mrn>,
    is_rejected: bool,
}

#[derive(Clone, Copy)]
enum Target {
    Patient(u32),
    Other,
}

impl Directory {
    /// Nobody stands beside the resource: of a piece of a file, so that it says the same wherever the file is cut.
    #[must_use]
    pub fn empty() -> Self {
        Self { by_reference: HashMap::new(), by_number: HashMap::new(), patients: HashMap::new() }
    }

    /// Who refers to a Patient that is left out (`skip`) waits. Other entries that are left out are no targets.
    #[must_use]
    pub fn new(bundle: &Bundle<'_>, skip: &BTreeSet<u32>, rules: &MrnRules) -> Self {
        let mut directory = Self::empty();
        // Those that are left out last: where a name means one of them too, nobody may be taken for it.
        let (left_out, kept): (Vec<_>, Vec<_>) = bundle.entries.iter().partition(|entry| skip.contains(&entry.index));
        let kept = kept.into_iter().map(|entry| (entry, false));
        for (entry, is_rejected) in kept.chain(left_out.into_iter().map(|entry| (entry, true))) {
            let Some(resource) = &entry.resource else { continue };
            let is_patient = resource.resource_type == "Patient";
            if is_rejected && !is_patient {
                continue;
            }
            let target = if is_patient { Target::Patient(entry.index) } else { Target::Other };
            let full_url = entry.full_url.as_deref().map(str::to_owned);
            let relative = resource.id.as_deref().map(|id| format!("{}/{id}", resource.resource_type));
            for reference in full_url.into_iter().chain(relative) {
                directory.by_reference.insert(reference, target);
            }
            if is_patient {
                let numbers = patient_mrns(&resource.object, rules);
                for number in &numbers {
                    directory.by_number.entry(number.clone()).or_default().insert(entry.index);
                }
                let references = references_to(resource, entry.full_url.as_deref());
                directory.patients.insert(entry.index, Listed { references, numbers, is_rejected });
            }
        }
        directory
    }

    /// Whom the resource of an entry is about.
    #[must_use]
    pub fn subject_of(&self, entry: &Entry<'_>, rules: &MrnRules) -> Subject {
        let Some(resource) = &entry.resource else { return Subject::Nobody };
        // `subject` is also a CodeableConcept or a canonical in definitional resources: those have no `reference`.
        let member = ["subject", "patient", "beneficiary", "for"].iter().find_map(|name| resource.object.object(name));
        let Some(subject) = member else { return Subject::Nobody };
        let text = subject.owned("reference");
        let mut outside = Outside::default();
        if let Some(identifier) = subject.object("identifier") {
            match declared(&identifier) {
                // The type is rarely written here. A number that is no MRN meets nobody: only MRNs are ever looked up.
                Declared::Mrn | Declared::Untyped => outside.mrns.extend(rules.read(&identifier)),
                Declared::Temporary => outside.temporary.extend(rules.read(&identifier)),
                Declared::Other => {}
            }
        }
        let mut within = None;
        if let Some(text) = text {
            if let Some(fragment) = text.strip_prefix('#') {
                match contained(&resource.object, fragment) {
                    Some(patient) if patient.string("resourceType").as_deref() == Some("Patient") => {
                        outside.mrns.extend(patient_mrns(&patient, rules));
                        outside.temporary.extend(temporary_numbers(&patient, rules));
                        let has_number = !outside.mrns.is_empty() || !outside.temporary.is_empty();
                        let says = Demographics::of(&patient);
                        outside.says = (has_number && says.can_contradict()).then(|| Box::new(says));
                    }
                    Some(_) => return Subject::Nobody,
                    None => {}
                }
            } else if let Some(numbers) = conditional(&text, rules) {
                outside.mrns.extend(numbers);
            } else {
                match self.by_reference.get(plain(&text)) {
                    Some(Target::Patient(entry)) => within = Some((*entry, text)),
                    Some(Target::Other) => return Subject::Nobody,
                    None => outside.references.extend(Reference::parse(&text)),
                }
            }
        }
        self.settle(within, outside)
    }

    /// Bring what the reference says together with the Patients of the Bundle: by the reference, and by the numbers.
    fn settle(&self, within: Option<(u32, String)>, mut outside: Outside) -> Subject {
        let mut entries: BTreeSet<u32> =
            outside.mrns.iter().filter_map(|number| self.by_number.get(number)).flatten().copied().collect();
        let is_plain = outside.references.is_empty() && outside.temporary.is_empty() && outside.says.is_none();
        let mut only = None;
        if let Some((entry, text)) = within {
            entries.insert(entry);
            let listed = self.patients.get(&entry);
            if listed.is_some_and(|listed| outside.mrns.is_subset(&listed.numbers)) {
                only = Some(entry);
            } else if let Some(listed) = listed.filter(|listed| listed.references.is_empty()) {
                // It can only be named by its numbers.
                outside.mrns.extend(listed.numbers.iter().cloned());
            }
            if listed.is_some_and(|listed| listed.is_rejected && listed.references.is_empty()) && text.len() <= 500 {
                outside.references.insert(Reference::Absolute(text));
            }
        } else if is_plain && entries.len() == 1 {
            // By its references too, so that it stays the same subject as in a Bundle without the Patient.
            let unnamed = |entry: &u32| self.patients.get(entry).is_some_and(|listed| listed.references.is_empty());
            only = entries.first().copied().filter(unnamed);
        }
        if let Some(entry) = only.filter(|entry| self.patients.get(entry).is_some_and(|listed| !listed.is_rejected)) {
            return Subject::Entry(entry);
        }
        for listed in entries.iter().filter_map(|entry| self.patients.get(entry)) {
            outside.references.extend(listed.references.iter().cloned());
            outside.is_rejected |= listed.is_rejected;
        }
        if outside == Outside::default() { Subject::Nobody } else { Subject::Outside(outside) }
    }
}

fn contained<'a>(resource: &Object<'a>, id: &str) -> Option<Object<'a>> {
    resource.objects("contained").into_iter().find(|object| object.string("id").as_deref() == Some(id))
}
