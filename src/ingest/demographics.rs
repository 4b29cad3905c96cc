//! What a Patient resource says of a person, and whether two such statements contradict each other.

use super::fhir::node::Object;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization as _;

/// The demographics that are kept. `Debug` shows nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Demographics {
    /// Family name, of the official name or else the first, among those that have parts.
    pub family: Option<String>,
    /// Given names of the same name.
    pub given: Vec<String>,
    /// As written: `1987`, `1987-04` or `1987-04-19`.
    pub birth_date: Option<String>,
    /// FHIR's code.
    pub gender: Option<String>,
    /// `deceasedBoolean`, or true with a `deceasedDateTime`.
    pub deceased: Option<bool>,
    /// As received.
    pub telecom: Option<Value>,
    /// As received.
    pub address: Option<Value>,
}

impl std::fmt::Debug for Demographics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Demographics(redacted)")
    }
}

impl Demographics {
    /// Read a Patient resource.
    #[must_use]
    pub fn of(patient: &Object<'_>) -> Self {
        let names = patient.objects("name");
        let usage = |name: &&Object<'_>| match name.string("use").as_deref() {
            Some("official") => 0,
            Some("usual") => 1,
            None => 2,
            Some("old" | "maiden") => 4,
            Some(_) => 3,
        };
        // A name that is only a text cannot be compared.
        let is_text = |name: &&Object<'_>| name.get("family").is_none() && name.items("given").is_empty();
        let name = names.iter().min_by_key(|name| (is_text(name), usage(name)));
        let json = |member: &str| patient.get(member).and_then(|node| serde_json::from_str(node.text()).ok());
        let deceased = patient.get("deceasedBoolean").and_then(|node| node.boolean());
        Self {
            family: name.and_then(|name| name.owned("family")),
            given: name
                .map(|name| name.items("given").iter().filter_map(|node| Some(node.string()?.into_owned())).collect())
                .unwrap_or_default(),
            birth_date: patient.owned("birthDate"),
            gender: patient.owned("gender"),
            deceased: deceased.or_else(|| patient.get("deceasedDateTime").map(|_| true)),
            telecom: json("telecom"),
            address: json("address"),
        }
    }

    /// As it is stored beside the event, for when this version speaks.
    #[must_use]
    pub fn stored(&self) -> Value {
        json!({
            "family": self.family, "given": self.given, "birth_date": self.birth_date, "gender": self.gender,
            "deceased": self.deceased, "telecom": self.telecom, "address": self.address,
        })
    }

    /// What [`Demographics::contradiction`] compares, of [`Demographics::stored`].
    #[must_use]
    pub fn from_stored(stored: &Value) -> Self {
        let text = |member: &str| stored.get(member).and_then(Value::as_str).map(str::to_owned);
        let given = stored.get("given").and_then(Value::as_array).into_iter().flatten();
        Self {
            family: text("family"),
            given: given.filter_map(Value::as_str).map(str::to_owned).collect(),
            birth_date: text("birth_date"),
            ..Self::default()
        }
    }

    /// What is compared, as it is compared.
    #[must_use]
    pub fn identifying(&self) -> Value {
        let given: BTreeSet<String> = self.given.iter().map(|name| fold(name)).collect();
        json!([self.family.as_deref().map(fold), given, self.birth_date])
    }

    /// Does it say enough to contradict anybody?
    #[must_use]
    pub fn can_contradict(&self) -> bool {
        self.birth_date.is_some() || (self.family.is_some() && !self.given.is_empty())
    }

    /// Why this cannot be the person of whom these statements speak: one of them contradicts it, and none confirms it. (What
    /// a person joined may contradict itself.)
    #[must_use]
    pub fn objection<'s>(&self, statements: impl Iterator<Item = &'s Self> + Clone) -> Option<&'static str> {
        let confirms = |other: &Self| {
            let says_as_much =
                if self.birth_date.is_some() { other.birth_date.is_some() } else { other.can_contradict() };
            says_as_much && self.contradiction(other).is_none()
        };
        let reason = statements.clone().find_map(|other| self.contradiction(other))?;
        let mut statements = statements;
        (!statements.any(confirms)).then_some(reason)
    }

    /// Postal codes of the addresses, without spaces and in lower case, sorted; at most ten.
    #[must_use]
    pub fn postal_codes(&self) -> Vec<String> {
        let folded = |code: &str| code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        values(self.address.as_ref(), "postalCode", folded)
    }

    /// The last nine digits of the telephone numbers, sorted; at most ten. Country and trunk prefixes are written in too
    /// many ways to be compared.
    #[must_use]
    pub fn phones(&self) -> Vec<String> {
        let phone = |value: &str| {
            let digits: Vec<char> = value.chars().filter(char::is_ascii_digit).collect();
            if digits.len() < 6 { String::new() } else { digits[digits.len().saturating_sub(9)..].iter().collect() }
        };
        values(self.telecom.as_ref(), "value", phone)
    }

    /// Why these cannot be the same person, if both say enough: another birth date, or another family name together
    /// with no given name in common.
    #[must_use]
    pub fn contradiction(&self, other: &Self) -> Option<&'static str> {
        if let (Some(one), Some(two)) = (&self.birth_date, &other.birth_date) {
            // The less precise one decides how much is compared.
            let shared = one.len().min(two.len());
            if one.as_bytes()[..shared] != two.as_bytes()[..shared] {
                return Some("birth_date");
            }
        }
        let (Some(one), Some(two)) = (&self.family, &other.family) else { return None };
        let folded = |names: &[String]| names.iter().map(|name| fold(name)).collect::<BTreeSet<_>>();
        let (given, other_given) = (folded(&self.given), folded(&other.given));
        let no_given_in_common = !given.is_empty() && !other_given.is_empty() && given.is_disjoint(&other_given);
        (fold(one) != fold(two) && no_given_in_common).then_some("name")
    }
}

/// The distinct values of a member of an array's objects.
fn values(array: Option<&Value>, member: &str, folded: impl Fn(&str) -> String) -> Vec<String> {
    let objects = array.and_then(Value::as_array).into_iter().flatten();
    let texts = objects.filter_map(|object| object.get(member)?.as_str()).map(folded);
    let distinct: BTreeSet<String> = texts.filter(|text| !text.is_empty()).collect();
    distinct.into_iter().take(10).collect()
}

/// A name as names are compared.
#[must_use]
pub fn fold(name: &str) -> String {
    name.nfkc().collect::<String>().trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::fhir::node::Node;

    fn person(family: &str, given: &str, birth_date: &str) -> Demographics {
        let none_if_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Demographics {
            family: none_if_empty(family),
            given: none_if_empty(given).into_iter().collect(),
            birth_date: none_if_empty(birth_date),
            ..Demographics::default()
        }
    }

    #[test]
    fn the_official_name_is_read() {
        let body = br#"{"name": [{"use": "maiden", "family": "Old"}, {"family": "Usual", "given": ["A", null, "B"]}, {"use": "nickname"}],
            "deceasedDateTime": "2020"}"#;
        let read = Demographics::of(&Node::parse(body).unwrap().object().unwrap());
        assert_eq!((read.family.as_deref(), read.given.len(), read.deceased), (Some("Usual"), 2, Some(true)));
    }

    #[test]
    fn contradictions_need_something_on_both_sides() {
        let stored = person("Shaw", "Amy", "1987-02-20");
        for (other, expected) in [
            (person("Shaw", "Amy", "1987-02-20"), None),
            (person("SHAW", "amy", "1987"), None),
            (person("Shaw", "Amy", ""), None),
            (person("Shaw", "Amy", "1987-02-21"), Some("birth_date")),
            (person("Baxter", "Amy", ""), None),
            (person("Shaw", "Bea", ""), None),
            (person("Baxter", "Bea", "1987-02-20"), Some("name")),
            (person("Baxter", "", ""), None),
        ] {
            assert_eq!(stored.contradiction(&other), expected);
            assert_eq!(other.contradiction(&stored), expected);
        }
    }
}
