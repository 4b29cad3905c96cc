//! Whose events a number shows: a patient's, or those that wait for somebody who is not known yet.

use super::whose_store::{self, NameRow, SharedKeys};
use crate::db::DbError;
use crate::ids::{OrganizationId, PatientId, StatementId};
use crate::ingest::subject::{self, Mrn, Reference};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// Whose events are shown.
pub enum Whose {
    /// The one who has the number.
    Patient(PatientId),
    /// Nobody has it yet.
    Waiting(Waiting),
}

/// What waits for a number: events under these keys, and those that follow the one Patient resource that says it and is
/// not linked itself.
pub struct Waiting {
    /// Subject keys of events.
    pub keys: Vec<String>,
    /// What the Patient resource says.
    pub statement: Option<StatementId>,
}

/// What a number leads to.
pub enum Found {
    /// Nothing is known.
    Nothing,
    /// One patient, or one system in which events wait.
    One(Whose),
    /// The systems to choose from.
    Several(Vec<String>),
}

/// The number that is asked for, as it is stored: in most systems as written, in some without spaces, hyphens and case.
pub struct Number {
    /// As written, normalized.
    pub normal: String,
    /// Without spaces, hyphens and case.
    pub folded: String,
}

impl Number {
    fn asked(mrn: &str) -> Self {
        let normal = subject::normal(mrn);
        Self { folded: subject::folded(&normal), normal }
    }

    /// Values that it may be stored as, each once.
    pub fn values(&self) -> Vec<&str> {
        let both = BTreeSet::from([self.normal.as_str(), self.folded.as_str()]);
        both.into_iter().collect()
    }

    /// Is this the number? What was stored before its system was folded is found as written.
    fn is(&self, system: &str, value: &str, folded_systems: &BTreeSet<String>) -> bool {
        value == self.normal || (value == self.folded && folded_systems.contains(system))
    }
}

/// Of one system in which nobody has the number.
#[derive(Default)]
struct Unknown {
    keys: Vec<String>,
    statements: BTreeSet<StatementId>,
}

/// Whose events a number shows.
///
/// # Errors
/// A [`DbError`].
pub async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    mrn: &str,
    system: Option<&str>,
) -> Result<Found, DbError> {
    let number = Number::asked(mrn);
    let rows = whose_store::named(connection, organization, &number, system).await?;
    let (holders, unknown) = by_system(&number, system, rows);
    let patients: BTreeSet<PatientId> = holders.values().flatten().copied().collect();
    let mut patients = patients.into_iter();
    let mut unknown = unknown.into_iter();
    match (patients.next(), patients.next(), unknown.next(), unknown.next()) {
        (None, _, None, _) => Ok(Found::Nothing),
        (Some(patient), None, None, _) => Ok(Found::One(Whose::Patient(patient))),
        (None, _, Some((_, one)), None) => {
            let waiting = one.waiting(connection, organization).await?;
            Ok(Found::One(Whose::Waiting(waiting)))
        }
        (_, _, one, other) => {
            let more = one.into_iter().chain(other).chain(unknown).map(|(system, _)| system);
            Ok(Found::Several(holders.into_keys().chain(more).collect()))
        }
    }
}

type Holders = BTreeMap<String, BTreeSet<PatientId>>;

/// Who has the number, by system; and what waits for it in the systems in which nobody has it.
fn by_system(number: &Number, system: Option<&str>, rows: Vec<NameRow>) -> (Holders, BTreeMap<String, Unknown>) {
    let (mut folded_systems, mut holders, mut unknown) = (BTreeSet::new(), Holders::new(), BTreeMap::new());
    let mut keys = Vec::new();
    for row in rows {
        match row {
            NameRow::Folded(system) => {
                folded_systems.insert(system);
            }
            other => keys.push(other),
        }
    }
    let is_asked = |mrn: &Mrn| {
        number.is(&mrn.system, &mrn.value, &folded_systems) && system.is_none_or(|system| system == mrn.system)
    };
    let mut waiting = Vec::new();
    for row in keys {
        match row {
            NameRow::Holder(mrn, patient) if is_asked(&mrn) => {
                holders.entry(mrn.system).or_default().insert(patient);
            }
            NameRow::Waiting(key) => waiting.push((key, None)),
            NameRow::Statement(key, statement) => waiting.push((key, Some(statement))),
            NameRow::Folded(_) | NameRow::Holder(..) => {}
        }
    }
    for (key, statement) in waiting {
        let Some(mrn) = Mrn::of_key(&key).filter(|mrn| is_asked(mrn)) else { continue };
        if holders.contains_key(&mrn.system) {
            continue;
        }
        let one: &mut Unknown = unknown.entry(mrn.system).or_default();
        match statement {
            Some(statement) => {
                one.statements.insert(statement);
            }
            None => one.keys.push(key),
        }
    }
    // Two Patient resources that both say it and are both not linked may be two people: neither's events are shown as the
    // number's.
    unknown.retain(|_, one| {
        if one.statements.len() > 1 {
            one.statements.clear();
        }
        !one.keys.is_empty() || !one.statements.is_empty()
    });
    (holders, unknown)
}

impl Unknown {
    /// With the keys by which events of the same source speak of the Patient resource, as far as they mean only that one.
    async fn waiting(self, connection: &mut PgConnection, organization: OrganizationId) -> Result<Waiting, DbError> {
        let Self { mut keys, statements } = self;
        let statement = statements.into_iter().next();
        if let Some(statement) = statement
            && let Some(said) = whose_store::speaking_of(connection, organization, statement).await?
        {
            let SharedKeys { source, resource, mut aliases } = said;
            if !resource.is_empty() && !resource.starts_with('#') {
                aliases.push(Reference::Local(resource).key(&source));
            }
            keys.extend(whose_store::only_of(connection, organization, statement, &aliases).await?);
        }
        Ok(Waiting { keys, statement })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn mrn(system: &str, value: &str) -> Mrn {
        Mrn { system: system.to_owned(), value: value.to_owned() }
    }

    fn statement(number: u128) -> StatementId {
        StatementId(Uuid::from_u128(number))
    }

    fn waits(asked: &str, system: Option<&str>, rows: Vec<NameRow>) -> Vec<(String, usize, usize)> {
        let (_, unknown) = by_system(&Number::asked(asked), system, rows);
        unknown.into_iter().map(|(system, one)| (system, one.keys.len(), one.statements.len())).collect()
    }

    #[test]
    fn a_number_waits_only_in_systems_in_which_nobody_has_it() {
        let rows = || {
            vec![
                NameRow::Folded("f".to_owned()),
                NameRow::Holder(mrn("h", "A-1"), PatientId(Uuid::nil())),
                NameRow::Waiting(mrn("h", "A-1").key()),
                NameRow::Waiting(mrn("g", "A-1").key()),
                NameRow::Waiting(mrn("g", "a1").key()),
                NameRow::Waiting(mrn("f", "a1").key()),
                NameRow::Waiting(mrn("f", "A-1").key()),
            ]
        };
        assert_eq!(waits("A-1", None, rows()), [("f".to_owned(), 2, 0), ("g".to_owned(), 1, 0)]);
        assert_eq!(waits("A-1", Some("f"), rows()), [("f".to_owned(), 2, 0)]);
        assert_eq!(waits("A-1", Some("h"), rows()), []);
    }

    #[test]
    fn a_statement_speaks_for_a_number_only_alone() {
        let said = |number| NameRow::Statement(mrn("h", "1").key(), statement(number));
        assert_eq!(waits("1", None, vec![said(1)]), [("h".to_owned(), 0, 1)]);
        assert_eq!(waits("1", None, vec![said(1), said(2)]), []);
        let both = vec![said(1), said(2), NameRow::Waiting(mrn("h", "1").key())];
        assert_eq!(waits("1", None, both), [("h".to_owned(), 1, 0)]);
    }
}
