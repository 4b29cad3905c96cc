//! What PostgreSQL writes to its own log about our statements: nothing that holds a value.
//!
//! The texts of our statements hold none (values are parameters), but parameters, the messages of statements that failed
//! (`invalid input syntax for type date: "…"`) and their DETAIL (`Key (value)=(…) already exists`) do. The embedded server
//! is started with all of this; of another one `chartgate doctor` names what is set otherwise.

use super::DbError;
use sqlx::PgConnection;

/// Setting, acceptable values (the first is the one to set), and what would get into the log. A setting of a module that
/// is not loaded is empty.
const WANTED: &[(&str, &[&str], &str)] = &[
    (
        "log_min_messages",
        &["log", "fatal", "panic"],
        "messages of failed statements, which quote what could not be read",
    ),
    ("log_error_verbosity", &["terse"], "DETAIL of failed statements, which quotes rows"),
    ("log_parameter_max_length", &["0"], "parameters of logged statements"),
    ("log_parameter_max_length_on_error", &["0"], "parameters of failed statements"),
    ("log_statement", &["none", "ddl"], "statements"),
    ("log_min_error_statement", &["panic", "fatal", "log"], "statements that failed"),
    ("auto_explain.log_min_duration", &["-1", ""], "plans, with the values that they compare with"),
    ("pgaudit.log_parameter", &["off", ""], "parameters of audited statements"),
];

/// A setting with which values could get into PostgreSQL's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSetting {
    /// Its name.
    pub name: &'static str,
    /// As it is for our sessions.
    pub value: String,
    /// As it should be.
    pub wanted: &'static str,
    /// What would get into the log.
    pub shows: &'static str,
}

impl OpenSetting {
    /// The statement that a superuser runs to close it for our role, without touching others'.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("alter role chartgate_app set {} = '{}'", self.name, self.wanted)
    }
}

/// The settings of this session that are not as they should be.
///
/// # Errors
/// A [`DbError`].
pub async fn open_settings(connection: &mut PgConnection) -> Result<Vec<OpenSetting>, DbError> {
    let names: Vec<&str> = WANTED.iter().map(|(name, ..)| *name).collect();
    let values: Vec<String> = sqlx::query_scalar(
        "select coalesce(current_setting(k.name, true), '')
         from unnest($1::text[]) with ordinality as k (name, ordinal)
         order by k.ordinal",
    )
    .bind(names)
    .fetch_all(connection)
    .await?;
    let open = WANTED.iter().zip(values).filter(|((_, accepted, _), value)| !accepted.contains(&value.as_str()));
    Ok(open.map(|((name, accepted, shows), value)| OpenSetting { name, value, wanted: accepted[0], shows }).collect())
}
