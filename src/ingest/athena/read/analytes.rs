//! Common analytes: which LOINC codes each name can have, so that a name that contradicts its code is noticed.

/// What is said of a name that contradicts its code.
pub const CONFLICT: &str = "The code means something else than the name: both are kept.";

/// Words of a name, and the codes of what it names. A name belongs to the first row that has one of its words, so what is
/// more particular comes first.
const ANALYTES: [(&[&str], &[&str]); 26] = [
    (
        &["a1c", "hba1c", "glycated", "glycohemoglobin"],
        &["4548-4", "17856-6", "59261-8", "4549-2", "41995-2", "71875-9"],
    ),
    (
        &["glucose"],
        &["2345-7", "2339-0", "1558-6", "14749-6", "2340-8", "41653-7", "14771-0", "1521-4", "2350-7", "5792-7"],
    ),
    (&["hdl"], &["2085-9", "14646-4"]),
    (&["ldl"], &["13457-7", "2089-1", "18262-6", "22748-8"]),
    (&["triglyceride", "triglycerides"], &["2571-8", "14927-8"]),
    (&["cholesterol"], &["2093-3", "14647-2"]),
    (&["bun", "urea"], &["3094-0", "6299-2", "22664-7"]),
    (&["creatinine"], &["2160-0", "38483-4", "14682-9", "2161-8"]),
    (&["egfr", "gfr"], &["33914-3", "48642-3", "48643-1", "62238-1", "98979-8"]),
    (&["sodium"], &["2951-2", "2947-0"]),
    (&["potassium"], &["2823-3", "6298-4"]),
    (&["chloride"], &["2075-0"]),
    (&["calcium"], &["17861-6", "1995-0"]),
    (&["magnesium"], &["19123-9"]),
    (&["hemoglobin", "hgb"], &["718-7", "20509-6", "30313-1", "59260-0"]),
    (&["hematocrit", "hct"], &["4544-3", "20570-8"]),
    (&["wbc", "leukocytes"], &["6690-2", "26464-8"]),
    (&["rbc", "erythrocytes"], &["789-8", "26453-1"]),
    (&["platelet", "platelets", "plt"], &["777-3", "26515-7"]),
    (&["tsh", "thyrotropin"], &["3016-3", "11580-8"]),
    (&["alt", "sgpt"], &["1742-6", "1743-4"]),
    (&["ast", "sgot"], &["1920-8", "30239-8"]),
    (&["bilirubin"], &["1975-2", "42719-5", "1968-7"]),
    (&["albumin"], &["1751-7", "61151-7"]),
    (&["inr"], &["6301-6", "34714-6"]),
    (&["psa"], &["2857-1", "35741-8"]),
];

/// Whether a LOINC code is known to mean another analyte than the name does.
pub fn contradicts(name: &str, code: &str) -> bool {
    let lower = name.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(32).collect();
    let Some(named) = ANALYTES.iter().position(|(names, _)| words.iter().any(|word| names.contains(word))) else {
        return false;
    };
    ANALYTES.iter().position(|(_, codes)| codes.contains(&code)).is_some_and(|coded| coded != named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::athena::read::value::is_loinc;
    use std::collections::HashSet;

    #[test]
    fn every_code_is_one_and_belongs_to_one_analyte() {
        let mut seen = HashSet::new();
        for code in ANALYTES.iter().flat_map(|(_, codes)| codes.iter()) {
            assert!(is_loinc(code), "{code}");
            assert!(seen.insert(code), "{code}");
        }
    }

    #[test]
    fn a_name_contradicts_only_the_codes_of_others() {
        for (name, code, expected) in [
            ("glucose, fasting", "4548-4", true),
            ("Glucose", "2345-7", false),
            ("Hemoglobin A1c", "4548-4", false),
            ("Hemoglobin A1c", "718-7", true),
            ("HDL Cholesterol", "2085-9", false),
            ("HDL Cholesterol", "2093-3", true),
            ("BUN/Creatinine ratio", "3097-3", false),
            ("Glucose", "99999-9", false),
            ("Lead", "4548-4", false),
            ("salt", "1742-6", false),
        ] {
            assert_eq!(contradicts(name, code), expected, "{name} with {code}");
        }
    }
}
