//! SQL on statements, their keys, and what persons decided.

use super::fold::Said;
use super::statement::Statement;
use crate::db::DbError;
use crate::ids::{EventId, OrganizationId, PatientId, StatementId};
use crate::ingest::demographics::Demographics;
use crate::ingest::events::LinkStatus;
use crate::ingest::subject::{Mrn, Reference};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(sqlx::FromRow)]
struct StatementRow {
    id: StatementId,
    source_label: String,
    resource_key: String,
    fingerprint: Vec<u8>,
    first_seq: i64,
    first_entry: i32,
    event_id: EventId,
    mrn_systems: Vec<String>,
    mrn_values: Vec<String>,
    aliases: Vec<String>,
    replaces: Vec<String>,
    replaced_by: Vec<String>,
    family: Option<String>,
    given: Vec<String>,
    birth_date: Option<String>,
    gender: Option<String>,
    postal_codes: Vec<String>,
    phones: Vec<String>,
    status: String,
    method: String,
    patient_id: Option<PatientId>,
}

const COLUMNS: &str = "id, source_label, resource_key, fingerprint, first_seq, first_entry, event_id, mrn_systems, mrn_values,
       aliases, replaces, replaced_by, family, given, birth_date, gender, postal_codes, phones, status, method, patient_id";

impl From<StatementRow> for Statement {
    fn from(row: StatementRow) -> Self {
        let numbers = row.mrn_systems.into_iter().zip(row.mrn_values);
        let has_identity = !row.resource_key.is_empty() && !row.resource_key.starts_with('#');
        Self {
            said: Said {
                id: row.id,
                fingerprint: row.fingerprint,
                place: (row.first_seq, row.first_entry),
                numbers: numbers.map(|(system, value)| Mrn { system, value }).collect(),
                identity: has_identity.then(|| Reference::Local(row.resource_key.clone()).key(&row.source_label)),
                replaces: row.replaces.into_iter().collect(),
                replaced_by: row.replaced_by.into_iter().collect(),
                person: Demographics {
                    family: row.family,
                    given: row.given,
                    birth_date: row.birth_date,
                    gender: row.gender,
                    ..Demographics::default()
                },
            },
            source: row.source_label,
            resource_key: row.resource_key,
            event: row.event_id,
            aliases: row.aliases.into_iter().collect(),
            postal_codes: row.postal_codes,
            phones: row.phones,
            status: LinkStatus::stored(&row.status, row.patient_id),
            method: row.method,
            is_new: false,
        }
    }
}

/// The statements with one of these keys: by the kinds that join clusters, or by those that events name.
pub async fn by_keys(
    connection: &mut PgConnection,
    organization: OrganizationId,
    keys: &[String],
    kinds: &[&str],
) -> Result<Vec<Statement>, DbError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "select {COLUMNS}
         from patient_statements
         where organization_id = $1
           and id = any (array(
             select k.statement_id
             from unnest($2::text[]) as wanted (key)
             cross join lateral (
               select statement_id
               from patient_statement_keys
               where organization_id = $1
                 and key = wanted.key
                 and kind = any ($3)
               -- One index lookup a key, whatever the planner believes of the table's size.
               offset 0
             ) k))"
    );
    let query = sqlx::query_as::<_, StatementRow>(sqlx::AssertSqlSafe(sql)).bind(organization).bind(keys).bind(kinds);
    Ok(query.fetch_all(connection).await?.into_iter().map(Statement::from).collect())
}

/// These statements.
pub async fn by_ids(
    connection: &mut PgConnection,
    organization: OrganizationId,
    ids: &[StatementId],
) -> Result<Vec<Statement>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("select {COLUMNS} from patient_statements where organization_id = $1 and id = any ($2)");
    let query = sqlx::query_as::<_, StatementRow>(sqlx::AssertSqlSafe(sql)).bind(organization).bind(ids);
    Ok(query.fetch_all(connection).await?.into_iter().map(Statement::from).collect())
}

/// Statements of patients that were born on this day, for candidates; at most two hundred.
pub async fn by_birth_date(
    connection: &mut PgConnection,
    organization: OrganizationId,
    birth_date: &str,
) -> Result<Vec<Statement>, DbError> {
    let sql = format!(
        "select {COLUMNS}
         from patient_statements
         where organization_id = $1
           and birth_date = $2
           and status = 'linked'
         order by first_seq, first_entry
         limit 200"
    );
    let query = sqlx::query_as::<_, StatementRow>(sqlx::AssertSqlSafe(sql)).bind(organization).bind(birth_date);
    Ok(query.fetch_all(connection).await?.into_iter().map(Statement::from).collect())
}

/// Statements of the patients who have this number in any system, or of these patients.
pub async fn of_patients(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patients: &[PatientId],
) -> Result<Vec<Statement>, DbError> {
    if patients.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "select {COLUMNS}
         from patient_statements
         where organization_id = $1
           and patient_id = any ($2)
         order by first_seq, first_entry
         limit 1000"
    );
    let query = sqlx::query_as::<_, StatementRow>(sqlx::AssertSqlSafe(sql)).bind(organization).bind(patients);
    Ok(query.fetch_all(connection).await?.into_iter().map(Statement::from).collect())
}

/// The patients who have a number of one of these values, in whatever system; at most twenty of each.
pub async fn holders_of_values(
    connection: &mut PgConnection,
    organization: OrganizationId,
    values: &BTreeSet<&str>,
) -> Result<HashMap<String, BTreeSet<PatientId>>, DbError> {
    if values.is_empty() {
        return Ok(HashMap::new());
    }
    let query = sqlx::query_as(
        "select k.value, i.patient_id
         from unnest($2::text[]) as k (value)
         cross join lateral (
           select distinct patient_id
           from patient_identifiers
           where organization_id = $1
             and value = k.value
           limit 20
         ) i",
    );
    let values: Vec<&str> = values.iter().copied().collect();
    let found: Vec<(String, PatientId)> = query.bind(organization).bind(values).fetch_all(connection).await?;
    let mut holders: HashMap<String, BTreeSet<PatientId>> = HashMap::new();
    for (value, patient) in found {
        holders.entry(value).or_default().insert(patient);
    }
    Ok(holders)
}

/// Store new statements with their keys.
pub async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[&Statement],
) -> Result<(), DbError> {
    if statements.is_empty() {
        return Ok(());
    }
    // Lists of one statement as one JSON array: arrays of arrays must be of one length.
    let lists = |list: &dyn Fn(&Statement) -> Vec<String>| -> Vec<Value> {
        statements.iter().map(|statement| Value::from(list(statement))).collect()
    };
    sqlx::query(
        "insert into patient_statements
           (organization_id, id, source_label, resource_key, fingerprint, first_seq, first_entry, event_id, mrn_systems,
            mrn_values, aliases, replaces, replaced_by, family, given, birth_date, gender, postal_codes, phones, status,
            method, patient_id, created_at)
         select $1, s.id, s.source_label, s.resource_key, s.fingerprint, s.first_seq, s.first_entry, s.event_id,
                array(select jsonb_array_elements_text(s.mrn_systems)), array(select jsonb_array_elements_text(s.mrn_values)),
                array(select jsonb_array_elements_text(s.aliases)), array(select jsonb_array_elements_text(s.replaces)),
                array(select jsonb_array_elements_text(s.replaced_by)), s.family,
                array(select jsonb_array_elements_text(s.given)), s.birth_date, s.gender,
                array(select jsonb_array_elements_text(s.postal_codes)), array(select jsonb_array_elements_text(s.phones)),
                s.status, s.method, s.patient_id, (select chartgate_now())
         from (select unnest($2::uuid[]) as id, unnest($3::text[]) as source_label, unnest($4::text[]) as resource_key,
                      unnest($5::bytea[]) as fingerprint, unnest($6::bigint[]) as first_seq,
                      unnest($7::integer[]) as first_entry, unnest($8::uuid[]) as event_id,
                      unnest($9::jsonb[]) as mrn_systems, unnest($10::jsonb[]) as mrn_values, unnest($11::jsonb[]) as aliases,
                      unnest($12::jsonb[]) as replaces, unnest($13::jsonb[]) as replaced_by, unnest($14::text[]) as family,
                      unnest($15::jsonb[]) as given, unnest($16::text[]) as birth_date, unnest($17::text[]) as gender,
                      unnest($18::jsonb[]) as postal_codes, unnest($19::jsonb[]) as phones, unnest($20::text[]) as status,
                      unnest($21::text[]) as method, unnest($22::uuid[]) as patient_id) s",
    )
    .bind(organization)
    .bind(statements.iter().map(|one| one.said.id).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.source.as_str()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.resource_key.as_str()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.said.fingerprint.as_slice()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.said.place.0).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.said.place.1).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.event).collect::<Vec<_>>())
    .bind(lists(&|one| one.said.numbers.iter().map(|mrn| mrn.system.clone()).collect()))
    .bind(lists(&|one| one.said.numbers.iter().map(|mrn| mrn.value.clone()).collect()))
    .bind(lists(&|one| one.aliases.iter().cloned().collect()))
    .bind(lists(&|one| one.said.replaces.iter().cloned().collect()))
    .bind(lists(&|one| one.said.replaced_by.iter().cloned().collect()))
    .bind(statements.iter().map(|one| one.said.person.family.as_deref()).collect::<Vec<_>>())
    .bind(lists(&|one| one.said.person.given.clone()))
    .bind(statements.iter().map(|one| one.said.person.birth_date.as_deref()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.said.person.gender.as_deref()).collect::<Vec<_>>())
    .bind(lists(&|one| one.postal_codes.clone()))
    .bind(lists(&|one| one.phones.clone()))
    .bind(statements.iter().map(|one| one.status.as_str()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.method.as_str()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.patient()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    insert_keys(connection, organization, statements).await
}

/// Stored statements that moved, or that were accepted earlier than was known.
pub async fn update(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[&Statement],
) -> Result<(), DbError> {
    if statements.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update patient_statements s
         set first_seq = k.first_seq, first_entry = k.first_entry, status = k.status, method = k.method,
             patient_id = k.patient_id
         from unnest($2::uuid[], $3::bigint[], $4::integer[], $5::text[], $6::text[], $7::uuid[])
           as k (id, first_seq, first_entry, status, method, patient_id)
         where s.organization_id = $1
           and s.id = k.id",
    )
    .bind(organization)
    .bind(statements.iter().map(|one| one.said.id).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.said.place.0).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.said.place.1).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.status.as_str()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.method.as_str()).collect::<Vec<_>>())
    .bind(statements.iter().map(|one| one.patient()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Stored statements that go by more names than was known.
pub async fn add_names(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[&Statement],
) -> Result<(), DbError> {
    for statement in statements {
        let said = &statement.said;
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
        sqlx::query(
            "update patient_statements
             set aliases = $3, replaces = $4, replaced_by = $5
             where organization_id = $1
               and id = $2",
        )
        .bind(organization)
        .bind(said.id)
        .bind(list(&statement.aliases))
        .bind(list(&said.replaces))
        .bind(list(&said.replaced_by))
        .execute(&mut *connection)
        .await?;
    }
    insert_keys(connection, organization, statements).await
}

async fn insert_keys(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[&Statement],
) -> Result<(), DbError> {
    let of = |statement: &&Statement| {
        let id = statement.said.id;
        statement.keys().into_iter().map(move |(key, kind)| (key, id, kind.as_str())).collect::<Vec<_>>()
    };
    let keys: Vec<(String, StatementId, &'static str)> = statements.iter().flat_map(of).collect();
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into patient_statement_keys (organization_id, key, statement_id, kind)
         select $1, k.key, k.statement_id, k.kind
         from unnest($2::text[], $3::uuid[], $4::text[]) as k (key, statement_id, kind)
         on conflict do nothing",
    )
    .bind(organization)
    .bind(keys.iter().map(|(key, _, _)| key.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, statement, _)| *statement).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, _, kind)| *kind).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Give numbers to those who have them now, and take them from everybody else.
pub async fn set_holders(
    connection: &mut PgConnection,
    organization: OrganizationId,
    given: &BTreeMap<Mrn, PatientId>,
    taken: &BTreeSet<Mrn>,
) -> Result<(), DbError> {
    if !given.is_empty() {
        sqlx::query(
            "insert into patient_identifiers (organization_id, system, value, patient_id, created_at)
             select $1, k.system, k.value, k.patient_id, chartgate_now()
             from unnest($2::text[], $3::text[], $4::uuid[]) as k (system, value, patient_id)
             on conflict (organization_id, system, value) do update
             set patient_id = excluded.patient_id",
        )
        .bind(organization)
        .bind(given.keys().map(|mrn| mrn.system.as_str()).collect::<Vec<_>>())
        .bind(given.keys().map(|mrn| mrn.value.as_str()).collect::<Vec<_>>())
        .bind(given.values().copied().collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    if !taken.is_empty() {
        sqlx::query(
            "delete from patient_identifiers i
             using unnest($2::text[], $3::text[]) as k (system, value)
             where i.organization_id = $1
               and i.system = k.system
               and i.value = k.value",
        )
        .bind(organization)
        .bind(taken.iter().map(|mrn| mrn.system.as_str()).collect::<Vec<_>>())
        .bind(taken.iter().map(|mrn| mrn.value.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// The other keys of events that have one of these keys and more.
pub async fn keys_beside(
    connection: &mut PgConnection,
    organization: OrganizationId,
    keys: &[String],
) -> Result<Vec<String>, DbError> {
    let query = sqlx::query_scalar(
        "select distinct other.key
         from unnest($2::text[]) as k (key)
         cross join lateral (
           select event_id
           from event_subjects
           where organization_id = $1
             and key = k.key
           offset 0
         ) e
         cross join lateral (
           select key
           from event_subjects
           where organization_id = $1
             and event_id = e.event_id
           offset 0
         ) other",
    );
    Ok(query.bind(organization).bind(keys).fetch_all(connection).await?)
}

/// All versions of an event's resource: id, whether a person decided, status, patient.
pub async fn versions_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
) -> Result<Vec<(EventId, bool, String, Option<PatientId>)>, DbError> {
    let query = sqlx::query_as(
        "with versions as (
           select v.id, v.link_pinned, v.link_status, v.patient_id
           from clinical_events e
           join clinical_events v
             on v.organization_id = e.organization_id
            and v.source_label = e.source_label
            and v.resource_type = e.resource_type
            and v.resource_key = e.resource_key
           where e.organization_id = $1
             and e.id = $2
         )
         select * from versions
         union all
         select p.id, p.link_pinned, p.link_status, p.patient_id
         from versions v
         cross join lateral (
           select id, link_pinned, link_status, patient_id
           from clinical_events
           where organization_id = $1
             and part_of = v.id
           offset 0
         ) p",
    );
    Ok(query.bind(organization).bind(event).fetch_all(connection).await?)
}
