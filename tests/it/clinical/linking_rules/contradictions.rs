//! The rules of what speaks against whom: several things said of one subject, and Patients that disagree.

use super::{AMY, Rule, about, identifier, person, with};
use serde_json::{Value, json};

const BOB: &str = "Zorn Bob 1950-01-01";

/// A Condition about a Patient that it contains.
fn containing(id: &str, contained: Value) -> Value {
    with(about(id, "#x"), json!({ "contained": Value::Array(vec![contained]) }))
}

pub fn several_sayings_rules() -> Vec<Rule> {
    let amy = || ("ehr", vec![person("a", &["h|1"], AMY)]);
    let temporary = |id: &str| with(about(id, "x"), json!({"subject": {"identifier": identifier("MRT:h|t1")}}));
    let rejected = || with(person("a", &["h|1"], BOB), json!({"birthDate": "not-a-date"}));
    vec![
        (
            "a contained patient who is somebody else",
            vec![amy(), ("lab", vec![containing("d", person("x", &["h|1"], BOB))])],
            "a=A d=review",
            "birth_date",
        ),
        (
            "and before the one who has the number",
            vec![("lab", vec![containing("d", person("x", &["h|1"], BOB))]), amy()],
            "a=A d=review",
            "birth_date",
        ),
        (
            "and before it is known when that one was born",
            vec![
                ("ehr", vec![with(person("a", &["h|1"], ""), json!({"active": true}))]),
                ("lab", vec![containing("d", person("x", &["h|1"], BOB))]),
                amy(),
            ],
            "a=A a=A d=review",
            "birth_date",
        ),
        (
            "a contained patient who is the same",
            vec![amy(), ("lab", vec![containing("d", person("x", &["h|1"], AMY))])],
            "a=A d=A",
            "",
        ),
        (
            "a number that a Patient of the Bundle in review has",
            vec![amy(), ("ehr", vec![person("b", &["h|1"], BOB), about("c", "id:h|1")])],
            "c=pending a=A b=review",
            "birth_date",
        ),
        (
            "also beside a reference elsewhere, and in a contained patient",
            vec![
                amy(),
                (
                    "ehr",
                    vec![
                        person("b", &["h|1"], BOB),
                        about("c", "Patient/z id:h|1"),
                        containing("d", person("x", &["h|1"], "")),
                    ],
                ),
            ],
            "c=pending d=pending a=A b=review",
            "birth_date",
        ),
        (
            "a reference in the Bundle and the number of somebody else",
            vec![amy(), ("ehr", vec![person("b", &["h|2"], BOB), about("c", "Patient/b id:h|1")])],
            "c=review a=A b=B",
            "several_patients",
        ),
        (
            "a reference in the Bundle and its own number",
            vec![("ehr", vec![person("b", &["h|2"], BOB), about("c", "Patient/b id:h|2")])],
            "c=A b=A",
            "",
        ),
        (
            "a temporary number that two patients have",
            vec![
                ("ehr", vec![person("a", &["h|1", "MRT:h|t1"], AMY)]),
                ("ehr", vec![temporary("c")]),
                ("ehr", vec![person("b", &["h|2", "MRT:h|t1"], BOB)]),
                ("ehr", vec![temporary("d")]),
            ],
            "c=review d=review a=A b=B",
            "several_patients",
        ),
        (
            "a rejected Patient is not the older one with its id",
            vec![amy(), ("ehr", vec![rejected(), about("c", "Patient/a"), about("d", "id:h|1")])],
            "c=pending d=pending a=A",
            "",
        ),
        (
            "but the one that is accepted later",
            vec![
                amy(),
                ("ehr", vec![rejected(), about("c", "Patient/a")]),
                ("ehr", vec![person("a", &["h|1"], "Shaw Amelia 1987-02-20")]),
            ],
            "c=A a=A a=A",
            "",
        ),
        (
            "or that is in the Bundle when it comes again",
            vec![
                amy(),
                ("ehr", vec![rejected(), about("c", "Patient/a")]),
                ("ehr", vec![person("a", &["h|1"], AMY), about("c", "Patient/a")]),
            ],
            "c=A a=A",
            "",
        ),
        (
            "conditional and rooted references",
            vec![
                amy(),
                (
                    "ehr",
                    vec![
                        about("c", "Patient?identifier=h|1"),
                        about("d", "/Patient/a"),
                        about("e", "./Patient/a"),
                        about("f", "Patient?identifier=h%7C2"),
                    ],
                ),
            ],
            "c=A d=A e=A f=pending a=A",
            "",
        ),
    ]
}

pub fn contradiction_rules() -> Vec<Rule> {
    let one = |resources: Vec<Value>| vec![("ehr", resources)];
    vec![
        (
            "birth date, and who is about it waits",
            one(vec![
                person("a", &["h|1"], AMY),
                person("b", &["h|1"], "Shaw Amy 1990-01-01"),
                about("c", "urn:uuid:b"),
                about("d", "Patient/b"),
            ]),
            "c=pending d=pending a=A b=review",
            "birth_date",
        ),
        (
            "a year is not another day",
            one(vec![person("a", &["h|1"], AMY), person("b", &["h|1"], "Shaw Amy 1987")]),
            "a=A b=A",
            "",
        ),
        (
            "both names",
            one(vec![person("a", &["h|1"], AMY), person("b", &["h|1"], "Bell Bo 1987-02-20")]),
            "a=A b=review",
            "name",
        ),
        (
            "a name that is only a text hides no other",
            one(vec![
                with(
                    person("a", &["h|1"], ""),
                    json!({"name": [{"use": "official", "text": "x"}, {"use": "usual", "family": "Shaw", "given": ["Amy"]}]}),
                ),
                with(person("b", &["h|1"], ""), json!({"name": [{"family": "Zorn", "given": ["Bob"]}]})),
            ]),
            "a=A b=review",
            "name",
        ),
        (
            "one name may change",
            one(vec![person("a", &["h|1"], AMY), person("b", &["h|1"], "Bell Amy 1987-02-20")]),
            "a=A b=A",
            "",
        ),
        (
            "a reused id",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY)]),
                ("ehr", vec![about("c", "Patient/a")]),
                ("ehr", vec![person("a", &["h|2"], AMY)]),
                ("ehr", vec![about("d", "Patient/a")]),
            ],
            "c=A d=pending a=A a=review",
            "mrn_changed",
        ),
        (
            "two patients, joined too late",
            one(vec![person("a", &["h|1"], AMY), person("b", &["g|2"], AMY), person("c", &["h|1", "g|2"], AMY)]),
            "a=A b=B c=review",
            "several_patients",
        ),
        (
            "the same question is asked once",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY)]),
                ("ehr", vec![person("b", &["h|1"], "Shaw Amy 1990-01-01")]),
                ("lab", vec![person("b", &["h|1"], "SHAW AMY 1990-01-01")]),
            ],
            "a=A b=review b=review",
            "birth_date",
        ),
        (
            "neither id nor number waits, and is not asked about",
            vec![("ehr", vec![with(person("", &[], "Bell Bo 1950-01-01"), json!({"active": true}))])],
            "=pending",
            "",
        ),
        (
            "unless it resembles somebody",
            vec![("ehr", vec![person("a", &["h|1"], AMY)]), ("ehr", vec![person("", &[], AMY)])],
            "=pending a=A",
            "no_identity",
        ),
        (
            "the same number elsewhere and the same person, perhaps: linked, and proposed",
            vec![("ehr", vec![person("a", &["h|1"], AMY)]), ("lab", vec![person("b", &["g|1"], AMY)])],
            "a=A b=B",
            "possible_duplicate",
        ),
        (
            "replaced-by joins two of a source",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY)]),
                ("ehr", vec![person("b", &["h|2"], AMY)]),
                (
                    "ehr",
                    vec![with(
                        person("a", &["h|1"], AMY),
                        json!({"link": [{"other": {"reference": "Patient/b"}, "type": "replaced-by"}]}),
                    )],
                ),
            ],
            "a=A a=A b=A",
            "",
        ),
        (
            "replaces, before the other is known",
            vec![
                (
                    "ehr",
                    vec![with(
                        person("b", &["h|2"], AMY),
                        json!({"link": [{"other": {"reference": "Patient/a"}, "type": "replaces"}]}),
                    )],
                ),
                ("ehr", vec![person("a", &["h|1"], AMY)]),
            ],
            "a=A b=A",
            "",
        ),
        (
            "not in another source",
            vec![
                ("lab", vec![person("a", &["h|1"], AMY)]),
                (
                    "ehr",
                    vec![with(
                        person("b", &["h|2"], AMY),
                        json!({"link": [{"other": {"reference": "Patient/a"}, "type": "replaces"}]}),
                    )],
                ),
            ],
            "b=A a=B",
            "",
        ),
        (
            "not if they contradict: a question",
            vec![
                ("ehr", vec![person("a", &["h|1"], "Bell Bo 1950-01-01")]),
                (
                    "ehr",
                    vec![with(
                        person("b", &["h|2"], AMY),
                        json!({"link": [{"other": {"reference": "Patient/a"}, "type": "replaces"}]}),
                    )],
                ),
            ],
            "a=A b=B",
            "link_contradicts",
        ),
        (
            "seealso and refer mean nothing",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY)]),
                (
                    "ehr",
                    vec![with(
                        person("b", &["h|2"], AMY),
                        json!({"link": [{"other": {"reference": "Patient/a"}, "type": "seealso"}, {"other": {"reference": "Patient/a"}, "type": "refer"}]}),
                    )],
                ),
            ],
            "a=A b=B",
            "",
        ),
    ]
}
