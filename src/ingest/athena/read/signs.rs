//! The vital signs: how senders name them, their LOINC codes, athenahealth's ids, and what a value may be.

use super::fields::{Field, Shape, fold};

/// A vital sign.
pub struct Sign {
    /// The member of a flat object that holds it; its names are those of a reading, too.
    pub field: Field,
    /// athenahealth's `clinicalelementid`, without `VITALS.`.
    pub elements: &'static [&'static str],
    /// Its LOINC codes: the first one is derived from a name.
    pub loinc: &'static [&'static str],
    /// The unit that athenahealth's API gives it in, where there is only one.
    pub ucum: Option<&'static str>,
    /// What a value may be in any unit; outside, a warning.
    pub range: (&'static str, &'static str),
    /// Its unit is millimetres of mercury.
    pub is_pressure: bool,
    /// The unit's member in a flat object.
    pub unit: Option<&'static Field>,
}

const fn sign(names: &'static [&'static str]) -> Field {
    Field::new(Shape::Value, names, "`value`, a part of its own").essential()
}

/// Both pressures in one member.
pub const PRESSURE: Field = Field::new(
    Shape::Pressure,
    &["bp", "bloodpressure", "bloodpressurereading"],
    "one part with a component for each pressure",
)
.essential();

pub const PRESSURE_UNIT: Field = Field::new(
    Shape::Text,
    &["bpunit", "bpunits", "bloodpressureunit", "bloodpressureunits"],
    "`unit` of both pressures",
);
pub const TEMPERATURE_UNIT: Field =
    Field::new(Shape::Text, &["temperatureunit", "tempunit", "temperatureunits", "tempunits"], "`unit` of temperature");
pub const WEIGHT_UNIT: Field = Field::new(Shape::Text, &["weightunit", "weightunits", "wtunit"], "`unit` of weight");
pub const HEIGHT_UNIT: Field = Field::new(Shape::Text, &["heightunit", "heightunits", "htunit"], "`unit` of height");

/// All of them. The two pressures come first.
pub static SIGNS: [Sign; 11] = [
    Sign {
        field: sign(&["systolic", "bpsystolic", "systolicbp", "sbp", "systolicbloodpressure", "bloodpressuresystolic"]),
        elements: &["BLOODPRESSURE.SYSTOLIC"],
        loinc: &["8480-6"],
        ucum: Some("mm[Hg]"),
        range: ("20", "350"),
        is_pressure: true,
        unit: None,
    },
    Sign {
        field: sign(&[
            "diastolic",
            "bpdiastolic",
            "diastolicbp",
            "dbp",
            "diastolicbloodpressure",
            "bloodpressurediastolic",
        ]),
        elements: &["BLOODPRESSURE.DIASTOLIC"],
        loinc: &["8462-4"],
        ucum: Some("mm[Hg]"),
        range: ("0", "250"),
        is_pressure: true,
        unit: None,
    },
    Sign {
        field: sign(&["pulse", "hr", "heartrate", "pulserate"]),
        elements: &["HEARTRATE", "PULSE.RATE"],
        loinc: &["8867-4"],
        ucum: Some("/min"),
        range: ("0", "400"),
        is_pressure: false,
        unit: None,
    },
    Sign {
        field: sign(&["resp", "rr", "respiratoryrate", "respirationrate", "respirations", "resprate"]),
        elements: &["RESPIRATIONRATE"],
        loinc: &["9279-1"],
        ucum: Some("/min"),
        range: ("0", "150"),
        is_pressure: false,
        unit: None,
    },
    Sign {
        field: sign(&["temp", "temperature", "bodytemperature", "bodytemp"]),
        elements: &["TEMPERATURE"],
        loinc: &["8310-5", "8331-1"],
        ucum: Some("[degF]"),
        range: ("20", "115"),
        is_pressure: false,
        unit: Some(&TEMPERATURE_UNIT),
    },
    Sign {
        field: sign(&["spo2", "o2sat", "oxygensaturation", "o2saturation", "sao2", "pulseox", "pulseoximetry"]),
        elements: &["O2SATURATION"],
        loinc: &["59408-5", "2708-6"],
        ucum: Some("%"),
        range: ("0", "100"),
        is_pressure: false,
        unit: None,
    },
    Sign {
        field: sign(&["weight", "wt", "bodyweight"]),
        elements: &["WEIGHT"],
        loinc: &["29463-7", "3141-9"],
        ucum: None,
        range: ("0.1", "700000"),
        is_pressure: false,
        unit: Some(&WEIGHT_UNIT),
    },
    Sign {
        field: sign(&["height", "ht", "bodyheight"]),
        elements: &["HEIGHT"],
        loinc: &["8302-2"],
        ucum: None,
        range: ("0.1", "300"),
        is_pressure: false,
        unit: Some(&HEIGHT_UNIT),
    },
    Sign {
        field: sign(&["bmi", "bodymassindex"]),
        elements: &["BMI"],
        loinc: &["39156-5"],
        ucum: Some("kg/m2"),
        range: ("5", "200"),
        is_pressure: false,
        unit: None,
    },
    Sign {
        field: sign(&["pain", "painscore", "painlevel", "painscale"]),
        elements: &["PAINSCALE", "PAIN"],
        loinc: &["72514-3"],
        ucum: None,
        range: ("0", "10"),
        is_pressure: false,
        unit: None,
    },
    Sign {
        field: sign(&["headcircumference", "headcirc"]),
        elements: &["HEADCIRCUMFERENCE"],
        loinc: &["9843-4"],
        ucum: None,
        range: ("5", "100"),
        is_pressure: false,
        unit: None,
    },
];

/// The panel of both pressures; the second one is its older code.
pub const PRESSURE_LOINCS: [&str; 2] = ["85354-9", "55284-4"];

/// The sign that an id of athenahealth means. `BLOODPRESSURE.TYPE` and the like are none.
pub fn by_element(element: &str) -> Option<&'static Sign> {
    let upper = element.to_ascii_uppercase();
    let name = upper.strip_prefix("VITALS.").unwrap_or(&upper);
    SIGNS.iter().find(|sign| sign.elements.contains(&name))
}

/// The sign of a LOINC code.
pub fn by_loinc(code: &str) -> Option<&'static Sign> {
    SIGNS.iter().find(|sign| sign.loinc.contains(&code))
}

/// The sign that a name means.
pub fn by_name(name: &str) -> Option<&'static Sign> {
    let folded = fold(name);
    SIGNS.iter().find(|sign| sign.field.names.contains(&folded.as_str()))
}

/// What a value may be in a unit; without a known unit, what it may be in any.
pub fn range(sign: &Sign, ucum: Option<&str>) -> (&'static str, &'static str) {
    match ucum {
        Some("kPa") => ("0", "50"),
        Some("[degF]") => ("70", "115"),
        Some("Cel") => ("20", "46"),
        Some("kg") => ("0.1", "700"),
        Some("[lb_av]") => ("0.1", "1550"),
        Some("[in_i]") => ("0.1", "120"),
        Some("m") => ("0.1", "3"),
        _ => sign.range,
    }
}
