//! Statuses and flags in the words of the clinical view; what is not known stays as it was written.

use super::fields::fold;

/// What is said of a code that is none of LOINC's.
pub const NO_LOINC: &str = "Has not the form of a LOINC code (number, hyphen, check digit).";

/// Words that mean that an entry should never have been made: it leaves the current view.
const ERRORS: [&str; 6] = ["enteredinerror", "error", "deleted", "inerror", "erroneous", "markedaserror"];

fn known(text: &str, words: &[(&[&str], &'static str)]) -> String {
    let folded = fold(text);
    if ERRORS.contains(&folded.as_str()) {
        return "entered-in-error".to_owned();
    }
    meant(text, words)
}

fn meant(text: &str, words: &[(&[&str], &'static str)]) -> String {
    let folded = fold(text);
    let found = words.iter().find(|(written, _)| written.contains(&folded.as_str()));
    found.map_or_else(|| text.to_owned(), |(_, meant)| (*meant).to_owned())
}

/// What people write into a list to say that it is empty.
const DENIALS: [&str; 26] = [
    "none",
    "nil",
    "noneknown",
    "nonereported",
    "nka",
    "nkda",
    "nkfa",
    "noallergies",
    "nodrugallergies",
    "noknownallergy",
    "noknownallergies",
    "noknowndrugallergy",
    "noknowndrugallergies",
    "noknownmedicationallergies",
    "noknownfoodallergies",
    "noknownenvironmentalallergies",
    "noproblems",
    "noactiveproblems",
    "noknownproblem",
    "noknownproblems",
    "noknownactiveproblems",
    "noknownconditions",
    "nomedications",
    "noknownmedications",
    "nocurrentmedications",
    "nomedicationsreported",
];

/// Whether the name of an entry says that there is none.
pub fn denies(name: &str) -> bool {
    let folded: String = fold(name).chars().filter(|c| c.is_alphanumeric()).collect();
    DENIALS.contains(&folded.as_str())
        || folded.strip_suffix("nkda").or(folded.strip_suffix("nka")).is_some_and(|rest| DENIALS.contains(&rest))
}

/// Whether a text stands where nothing is to be said.
pub fn is_placeholder(text: &str) -> bool {
    matches!(fold(text).as_str(), "n/a" | "na" | "none" | "no" | "null" | "-" | "unknown" | "notapplicable")
}

/// Of a medication.
pub fn of_medication(text: &str) -> String {
    known(
        text,
        &[
            (&["active", "current", "taking", "prescribed", "ongoing"], "active"),
            (&["stopped", "discontinued", "inactive", "dc'd", "dc", "ended"], "stopped"),
            (&["completed", "finished"], "completed"),
            (&["onhold", "held", "hold", "suspended"], "on-hold"),
            (&["cancelled", "canceled"], "cancelled"),
            (&["nottaking", "nottaken", "notstarted"], "not-taken"),
        ],
    )
}

/// Of a problem or an allergy: `clinical_status`.
pub fn of_statement(text: &str) -> String {
    known(
        text,
        &[
            (&["active", "current", "ongoing"], "active"),
            (&["inactive", "deactivated", "historical", "hidden"], "inactive"),
            (&["resolved", "cured"], "resolved"),
            (&["recurrence", "recurrent"], "recurrence"),
            (&["relapse", "relapsed"], "relapse"),
            (&["remission", "inremission"], "remission"),
            (&["ruledout", "refuted"], "refuted"),
        ],
    )
}

/// Of an immunization or a procedure.
pub fn of_act(text: &str) -> String {
    known(
        text,
        &[
            (&["administered", "completed", "complete", "done", "performed", "given", "closed"], "completed"),
            (&["notdone", "notgiven", "notadministered", "refused", "declined", "notperformed"], "not-done"),
            (&["inprogress", "ongoing"], "in-progress"),
            (&["planned", "scheduled", "ordered", "pending"], "preparation"),
            (&["cancelled", "canceled"], "cancelled"),
        ],
    )
}

/// Of an encounter: athenahealth's encounter and appointment statuses (`f` booked, `o` open, `x` cancelled, `2` checked in,
/// `3` checked out, `4` charge entered).
pub fn of_encounter(text: &str) -> String {
    known(
        text,
        &[
            (&["closed", "finished", "completed", "4", "3", "checkedout", "chargeentered", "done"], "finished"),
            (&["open", "inprogress", "pend", "review"], "in-progress"),
            (&["2", "checkedin", "arrived"], "arrived"),
            (&["f", "filled", "booked", "scheduled", "future", "planned", "confirmed", "o"], "planned"),
            (&["x", "cancelled", "canceled"], "cancelled"),
        ],
    )
}

/// Of a laboratory result.
pub fn of_result(text: &str) -> String {
    known(
        text,
        &[
            (&["final", "f", "closed", "completed", "reviewed"], "final"),
            (&["preliminary", "prelim", "p", "partial"], "preliminary"),
            (&["corrected", "c", "correction"], "corrected"),
            (&["amended"], "amended"),
            (&["cancelled", "canceled", "x"], "cancelled"),
            (&["pending", "registered", "ordered", "open"], "registered"),
        ],
    )
}

/// Of a document.
pub fn of_document(text: &str) -> String {
    known(
        text,
        &[
            (&["closed", "signed", "final", "current", "active", "completed"], "current"),
            (&["superseded", "replaced", "obsolete"], "superseded"),
            (&["cancelled", "canceled"], "cancelled"),
        ],
    )
}

/// What a flag of a result means in HL7's codes; a flag that is not known stays as it is.
pub fn interpretation(flag: &str) -> String {
    meant(
        flag,
        &[
            (&["high", "h", "abovehighnormal", "above", "elevated"], "H"),
            (&["low", "l", "belowlownormal", "below"], "L"),
            (&["criticalhigh", "criticallyhigh", "hh", "panichigh", "highcritical", "highpanic"], "HH"),
            (&["criticallow", "criticallylow", "ll", "paniclow", "lowcritical", "lowpanic"], "LL"),
            (&["critical", "aa", "panic", "criticallyabnormal"], "AA"),
            (&["abnormal", "a", "true"], "A"),
            (&["normal", "n", "false", "withinnormallimits", "wnl"], "N"),
            (&["positive", "pos"], "POS"),
            (&["negative", "neg"], "NEG"),
        ],
    )
}

/// Worse last.
const SEVERITIES: [&[&str]; 4] = [
    &["mild", "minor", "mildtomoderate"],
    &["moderate", "moderatetosevere"],
    &["severe", "major"],
    &["lifethreatening", "fatal"],
];

/// The worst of some severities, as written; those that are not known count least.
pub fn worst(severities: impl Iterator<Item = String>) -> Option<String> {
    let rank = |text: &str| {
        let folded = fold(text);
        SEVERITIES.iter().position(|words| words.contains(&folded.as_str())).map_or(0, |rank| rank + 1)
    };
    // Of equal ones the first.
    severities.reduce(|worst, one| if rank(&one) > rank(&worst) { one } else { worst })
}
