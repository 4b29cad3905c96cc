//! SQL that finds whose events a number shows.

use super::whose::Number;
use crate::db::DbError;
use crate::ids::{OrganizationId, PatientId, StatementId};
use crate::ingest::subject::Mrn;
use sqlx::PgConnection;

/// Something that a number's value is known by.
pub enum NameRow {
    /// A system in whose numbers case, spaces and hyphens mean nothing.
    Folded(String),
    /// Who has it.
    Holder(Mrn, PatientId),
    /// The key of events that wait for it.
    Waiting(String),
    /// The key, and a Patient resource that says it and is not linked.
    Statement(String, StatementId),
}

#[derive(sqlx::FromRow)]
struct Row {
    what: String,
    system: Option<String>,
    value: Option<String>,
    key: Option<String>,
    patient_id: Option<PatientId>,
    statement_id: Option<StatementId>,
}

/// Everything that is known by a value of this number, in one system or in any. At most a hundred of each: more systems are no
/// answer to anybody.
pub async fn named(
    connection: &mut PgConnection,
    organization: OrganizationId,
    number: &Number,
    system: Option<&str>,
) -> Result<Vec<NameRow>, DbError> {
    let values = number.values();
    let key = |system: &str, value: &&str| Mrn { system: system.to_owned(), value: (*value).to_owned() }.key();
    let keys: Option<Vec<String>> = system.map(|system| values.iter().map(|value| key(system, value)).collect());
    let query = sqlx::query_as(
        // From one waiting key to the next in the index, whatever waits under each.
        "with recursive waiting (number, key) as (
           select v.number, (select subject_key
                             from clinical_events
                             where organization_id = $1 and waiting_number = v.number
                             order by subject_key
                             limit 1)
           from unnest($2::text[]) as v (number)
           union all
           select w.number, (select subject_key
                             from clinical_events
                             where organization_id = $1 and waiting_number = w.number and subject_key > w.key
                             order by subject_key
                             limit 1)
           from waiting w
           where w.key is not null
         )
         select 'folded' as what, f.system, null as value, null as key, null::uuid as patient_id, null::uuid as statement_id
         from organizations o
         cross join jsonb_array_elements_text(coalesce(o.settings -> 'mrn_folded_systems', '[]')) as f (system)
         where o.id = $1
         union all
         (select 'holder', system, value, null, patient_id, null
          from patient_identifiers
          where organization_id = $1
            and value = any ($2)
            and ($3::text is null or system = $3)
          limit 100)
         union all
         (select 'waiting', null, null, key, null, null
          from waiting
          where key is not null
            and ($4::text[] is null or key = any ($4))
          limit 100)
         union all
         (select 'statement', null, null, k.key, null, k.statement_id
          from patient_statement_keys k
          cross join lateral (
            -- What a person rejected says nothing.
            select
            from patient_statements
            where organization_id = $1
              and id = k.statement_id
              and status in ('pending', 'review')
            offset 0
          ) s
          where k.organization_id = $1
            and k.number = any ($2)
            and ($4::text[] is null or k.key = any ($4))
          limit 100)",
    );
    let rows: Vec<Row> = query.bind(organization).bind(values).bind(system).bind(keys).fetch_all(connection).await?;
    Ok(rows.into_iter().filter_map(Row::read).collect())
}

impl Row {
    fn read(self) -> Option<NameRow> {
        match self.what.as_str() {
            "folded" => Some(NameRow::Folded(self.system?)),
            "holder" => Some(NameRow::Holder(Mrn { system: self.system?, value: self.value? }, self.patient_id?)),
            "waiting" => Some(NameRow::Waiting(self.key?)),
            _ => Some(NameRow::Statement(self.key?, self.statement_id?)),
        }
    }
}

/// How others speak of a Patient resource.
#[derive(sqlx::FromRow)]
pub struct SharedKeys {
    /// The source's label.
    #[sqlx(rename = "source_label")]
    pub source: String,
    /// The sender's id, if it does not start with `#`.
    #[sqlx(rename = "resource_key")]
    pub resource: String,
    /// Keys beside the id's.
    pub aliases: Vec<String>,
}

/// How others speak of the Patient resource of this statement.
pub async fn speaking_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statement: StatementId,
) -> Result<Option<SharedKeys>, DbError> {
    let query = sqlx::query_as(
        "select source_label, resource_key, aliases
         from patient_statements
         where organization_id = $1
           and id = $2",
    );
    Ok(query.bind(organization).bind(statement).fetch_optional(connection).await?)
}

/// Those of the keys that mean no other Patient resource, rejected ones apart.
pub async fn only_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statement: StatementId,
    keys: &[String],
) -> Result<Vec<String>, DbError> {
    let query = sqlx::query_scalar(
        "select k.key
         from (select distinct key from unnest($3::text[]) as u (key)) k
         where not exists (
           select
           from patient_statement_keys o
           cross join lateral (
             select
             from patient_statements
             where organization_id = $1
               and id = o.statement_id
               and status <> 'none'
             offset 0
           ) s
           where o.organization_id = $1
             and o.key = k.key
             and o.statement_id <> $2
             and o.kind in ('identity', 'alias'))
         order by k.key",
    );
    Ok(query.bind(organization).bind(statement).bind(keys).fetch_all(connection).await?)
}
