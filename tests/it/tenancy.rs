//! The wall between organizations, as the database's own catalogue describes it and as a connection meets it.
//!
//! [`faults`] is the check; the tests show that the schema has none, and that each way of opening the wall is noticed.

use crate::support::app::test_config;
use crate::support::cluster::TestDatabase;
use crate::support::objects::TestObjects;
use chartgate::app::{App, StartError};
use chartgate::db::{Db, DbError, Scope};
use chartgate::ids::OrganizationId;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use std::collections::BTreeSet;

/// Tables with ids, hashes and configuration only, which work needs before it knows an organization.
const WITHOUT_RLS: &[&str] = &[
    "_sqlx_migrations",
    "api_keys",
    "audit_checkpoints",
    "audit_keys",
    "audit_leaves",
    "audit_log",
    "audit_publications",
    "audit_sealer",
    "clock_offset",
    "console_sessions",
    "figures_position",
    "ingested_objects",
    "organizations",
    "queue",
    "workers",
    "workflow_definitions",
];

/// Tables that take INSERT and SELECT only, whoever asks.
const APPEND_ONLY: &[&str] =
    &["audit_checkpoints", "audit_keys", "audit_leaves", "audit_publications", "audit_records", "link_decisions"];

/// What the platform role may read over all organizations.
const PLATFORM_READS: &[&str] = &[
    "audit_records",
    "callback_messages",
    "chunk_steps",
    "chunks",
    "job_figures",
    "job_steps",
    "jobs",
    "operations",
    "queue_figures",
    "step_attempts",
];

/// What it may read some columns of, and which.
const PLATFORM_READS_SOME: (&str, &[&str]) = ("callbacks", &["id", "organization_id", "status"]);

/// The policy's conditions for what is read and for what is written, as PostgreSQL prints them: a scalar sub-select,
/// evaluated once a statement; for reading no form that an index could answer (docs/decisions/0009).
const CONDITION: &str =
    "(array_position(( SELECT tenant_organizations() AS tenant_organizations), organization_id) IS NOT NULL)";
const WRITE_CONDITION: &str =
    "(organization_id = ANY (( SELECT tenant_organizations() AS tenant_organizations)::uuid[]))";

/// A minimal row of every tenant table; `$1` is the organization. Inserted twice it must differ only in it.
const ROWS: &[(&str, &str)] = &[
    (
        "athena_events",
        "insert into athena_events (organization_id, id, idempotency_sha256, athena_patient_id, event_type, kind, job_id, payload_sha256, received_at)
         values ($1, gen_random_uuid(), sha256('x'), '1', 'lab', 'lab', gen_random_uuid(), sha256('x'), now())",
    ),
    ("athena_counts", "insert into athena_counts (organization_id, minute, measure, name, n) values ($1, now(), 'received', 'lab', 1)"),
    (
        "event_carriers",
        "insert into event_carriers values ($1, gen_random_uuid(), gen_random_uuid(), 1, sha256('x'), 0, 0, 1, null, null, '{}')",
    ),
    (
        "legal_holds",
        "insert into legal_holds (organization_id, id, kind, reason, placed_by, placed_at)
         values ($1, gen_random_uuid(), 'organization', 'r', 'key:1', now())",
    ),
    (
        "erasures",
        "insert into erasures (organization_id, id, kind, status, payload_sha256, reason, actor, created_at)
         values ($1, gen_random_uuid(), 'payload', 'rows', sha256('x'), 'r', 'key:1', now())",
    ),
    ("retention_rounds", "insert into retention_rounds (organization_id) values ($1)"),
    ("retention_spared", "insert into retention_spared values ($1, gen_random_uuid(), now())"),
    ("erased_objects", "insert into erased_objects values ($1, gen_random_uuid(), 'k', false)"),
    (
        "chunk_texts",
        "insert into chunk_texts (organization_id, plan_id, job_id, begun_at) values ($1, gen_random_uuid(), gen_random_uuid(), now())",
    ),
    ("payloads", "insert into payloads values ($1, sha256('x'), 1, 'text/plain', 'x', null, null, now())"),
    (
        "jobs",
        "insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, submitted_by, created_at, updated_at)
         values ($1, gen_random_uuid(), 'w', 1, 'webhook', 'queued', 1, 'key:1', now(), now())",
    ),
    (
        "job_steps",
        "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at)
         values ($1, gen_random_uuid(), 1, 0, 's', 'succeeded', 1, now())",
    ),
    (
        "step_attempts",
        "insert into step_attempts (organization_id, job_id, round, step, lease_epoch, attempt, outcome, finished_at)
         values ($1, gen_random_uuid(), 1, 0, 1, 1, 'lost', now())",
    ),
    (
        "chunks",
        "insert into chunks (organization_id, job_id, chunk, byte_start, byte_end, first_line)
         values ($1, gen_random_uuid(), 1, 0, 1, 1)",
    ),
    (
        "chunk_steps",
        "insert into chunk_steps (organization_id, job_id, step, chunk, round, status, attempts, finished_at)
         values ($1, gen_random_uuid(), 0, 1, 1, 'succeeded', 1, now())",
    ),
    (
        "bulk_plans",
        "insert into bulk_plans values ($1, gen_random_uuid(), 'k', 'e', 'ndjson', null, false, 1, 1)",
    ),
    (
        "job_traces",
        "insert into job_traces values ($1, gen_random_uuid(), 1, decode(repeat('01', 25), 'hex'))",
    ),
    ("idempotency_keys", "insert into idempotency_keys values ($1, 's', 'k', sha256('x'), gen_random_uuid(), now())"),
    (
        "operations",
        "insert into operations (organization_id, id, kind, status, request, reason, actor, created_at)
         values ($1, gen_random_uuid(), 'retry', 'running', '{}', 'r', 'key:1', now())",
    ),
    (
        "operation_jobs",
        "insert into operation_jobs (organization_id, operation_id, position, job_organization_id, job_id)
         values ($1, gen_random_uuid(), 1, $1, gen_random_uuid())",
    ),
    (
        "clinical_events",
        "insert into clinical_events (organization_id, id, job_id, job_seq, seen_seq, source_label, resource_type, resource_key,
           content_sha256, payload_sha256, byte_start, byte_end, link_status, is_current, created_at)
         values ($1, gen_random_uuid(), gen_random_uuid(), 1, 1, 'default', 'Patient', 'p', sha256('x'), sha256('x'), 0, 1, 'none', true, now())",
    ),
    ("patient_event_counts", "insert into patient_event_counts values ($1, gen_random_uuid(), 'default', 1, now())"),
    (
        "patients",
        "insert into patients (organization_id, id, event_seq, created_at, updated_at) values ($1, gen_random_uuid(), 1, now(), now())",
    ),
    ("patient_identifiers", "insert into patient_identifiers values ($1, 'urn:x', '1', gen_random_uuid(), now())"),
    (
        "patient_links",
        "insert into patient_links (organization_id, id, event_id, status, method, rule_version, actor, created_at)
         values ($1, gen_random_uuid(), gen_random_uuid(), 'pending', 'none', 1, 'worker', now())",
    ),
    (
        "reviews",
        "insert into reviews (organization_id, id, event_id, status, reason, candidates, created_at)
         values ($1, gen_random_uuid(), gen_random_uuid(), 'open', 'r', '[]', now())",
    ),
    (
        "patient_statements",
        "insert into patient_statements (organization_id, id, source_label, resource_key, fingerprint, first_seq, first_entry,
           event_id, mrn_systems, mrn_values, aliases, replaces, replaced_by, given, postal_codes, phones, status, method, created_at)
         values ($1, gen_random_uuid(), 'default', 'p', sha256('x'), 1, 0, gen_random_uuid(), '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                 '{}', 'pending', 'no_identity', now())",
    ),
    ("patient_statement_keys", "insert into patient_statement_keys values ($1, 'k', gen_random_uuid(), 'mrn')"),
    (
        "link_decisions",
        "insert into link_decisions (organization_id, id, kind, actor, created_at) values ($1, gen_random_uuid(), 'reject', 'key:1', now())",
    ),
    ("event_subjects", "insert into event_subjects values ($1, 'k', gen_random_uuid())"),
    (
        "event_sightings",
        "insert into event_sightings (organization_id, event_id, captured_at, created_at) values ($1, gen_random_uuid(), 't', now())",
    ),
    (
        "findings",
        "insert into findings (organization_id, id, event_id, ordinal, category, kind, extractor_version, created_at)
         values ($1, gen_random_uuid(), gen_random_uuid(), 0, 'lab', 'measurement', 1, now())",
    ),
    ("shown_events", "insert into shown_events values ($1, gen_random_uuid(), 1, '{}')"),
    (
        "finding_evidence",
        "insert into finding_evidence values ($1, gen_random_uuid(), 0, sha256('x'), 0, 1, 'x', '/a', 'a', 'r')",
    ),
    (
        "issues",
        "insert into issues (organization_id, job_id, ordinal, severity, code, message)
         values ($1, gen_random_uuid(), 0, 'error', 'value', 'm')",
    ),
    (
        "uploads",
        "insert into uploads (organization_id, id, job_id, bucket, storage_key, content_type, expires_at, created_at)
         values ($1, gen_random_uuid(), gen_random_uuid(), 'b', 'k', 'text/plain', now(), now())",
    ),
    (
        "callbacks",
        "insert into callbacks (organization_id, id, url, status, secret, created_at, updated_at)
         values ($1, gen_random_uuid(), 'https://example.org', 'active', 'x', now(), now())",
    ),
    (
        "callback_messages",
        "insert into callback_messages (organization_id, id, callback_id, job_id, round, event, workflow, source, finished_at, status, created_at)
         values ($1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'failed', 'w', 'webhook', now(), 'waiting', now())",
    ),
    (
        "callback_deliveries",
        "insert into callback_deliveries (organization_id, id, callback_id, message_id, event, attempt, outcome, duration_ms, at)
         values ($1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'callback.test', 1, 'delivered', 1, now())",
    ),
    (
        "webhook_secrets",
        "insert into webhook_secrets (organization_id, id, sender_id, sealed_secret)
         values ($1, '0123456789abcdef', '0123456789abcdef', 'x')",
    ),
    (
        "webhook_replays",
        "insert into webhook_replays (organization_id, sender_id, webhook_id, body_sha256, seen_at) values ($1, 's', 'w', sha256('x'), now())",
    ),
    ("job_figures", "insert into job_figures values ($1, 60, now(), 'w', 0, 0, 0, 0, 0, 0, 0, '{}', '{}')"),
    ("queue_figures", "insert into queue_figures values ($1, 0, 0, 0, 0, 0, null, now())"),
    (
        "audit_records",
        "insert into audit_records (organization_id, at, event, action, actor) values ($1, now(), 'job.accepted', 'C', 'key:1')",
    ),
];

/// Everything that would let one organization's work reach another's rows.
const FAULTS: &str = "
with tables as (
  select c.oid, c.relname::text name, c.relrowsecurity, c.relforcerowsecurity, c.relowner, a.attnum organization
  from pg_class c
  left join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
), tenant as (
  select * from tables where name <> all ($1)
), policies as (
  select p.*, t.name, pg_get_expr(p.polqual, p.polrelid) seen, pg_get_expr(p.polwithcheck, p.polrelid) written,
         (select array_agg(coalesce(r.rolname::text, 'public')) from unnest(p.polroles) u(oid) left join pg_roles r on r.oid = u.oid) roles
  from pg_policy p join tables t on t.oid = p.polrelid
)
select name || ' has no organization_id' from tenant where organization is null
union all select name || ' has row-level security off' from tenant where not relrowsecurity
union all select name || ' does not force row-level security' from tenant where not relforcerowsecurity
union all
select t.name || ' has no tenant policy for all commands'
from tenant t
where not exists (
  select from policies p
  where p.polrelid = t.oid and p.polname = 'tenant' and p.polcmd = '*' and p.roles = array['chartgate_app']
    and p.seen = $4
    and p.written = $5)
union all
select name || ' has an unknown policy: ' || polname
from policies
where polname <> 'tenant' and not (polname = 'platform_reads' and polcmd = 'r' and roles = array['chartgate_platform'] and (name = any ($2) or name = $6))
union all
select c.table_name || '.' || c.column_name || ' is readable for the platform'
from tenant t
join information_schema.columns c on c.table_schema = 'public' and c.table_name = t.name
where t.name <> all ($2) and has_column_privilege('chartgate_platform', t.oid, c.column_name, 'select')
  and not (t.name = $6 and c.column_name = any ($7))
union all
select t.name || ' has a unique index without organization_id: ' || i.indexrelid::regclass
from tenant t join pg_index i on i.indrelid = t.oid
where i.indisunique and not coalesce(t.organization = any (i.indkey::int2[]), false)
union all select t.name || ' has no primary key'
from tenant t where not exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary)
union all
select r.rolname || ' is too powerful'
from pg_roles r
where r.rolname in ('chartgate_app', 'chartgate_platform')
  and (r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication or (r.rolname = 'chartgate_app' and r.rolinherit))
union all
select c.relname || ' belongs to ' || r.rolname
from pg_class c join pg_roles r on r.oid = c.relowner where r.rolname in ('chartgate_app', 'chartgate_platform')
union all
select 'chartgate_app belongs to ' || r.rolname
from pg_auth_members m join pg_roles r on r.oid = m.roleid
where m.member = 'chartgate_app'::regrole and r.rolname <> 'chartgate_platform'
union all
select t.name || ' lets ' || r || ' truncate'
from tables t, unnest(array['chartgate_app', 'chartgate_platform']) r where has_table_privilege(r, t.oid, 'truncate')
union all
select t.name || ' lets chartgate_platform ' || privilege
from tables t, unnest(array['insert', 'update', 'delete']) privilege where has_table_privilege('chartgate_platform', t.oid, privilege)
union all
select t.name || ' is not readable for the platform only by policy'
from tenant t where has_table_privilege('chartgate_platform', t.oid, 'select') <> (t.name = any ($2))
union all
select t.name || ' lets chartgate_app ' || privilege
from tables t, unnest(array['update', 'delete']) privilege
where t.name = any ($3) and has_table_privilege('chartgate_app', t.oid, privilege)
union all
select t.name || ' is not protected against change'
from tables t
where t.name = any ($3)
  -- BEFORE, for each statement, on UPDATE, DELETE and TRUNCATE; enabled always or in ordinary sessions.
  and not exists (
    select from pg_trigger g
    where g.tgrelid = t.oid and g.tgfoid = 'refuse_change'::regproc and g.tgtype = 2 + 8 + 16 + 32 and g.tgenabled in ('O', 'A'))
union all
select p.oid::regprocedure || ' runs as its owner' from pg_proc p
where p.pronamespace = 'public'::regnamespace and p.prosecdef
  -- Takes nothing, shows nothing, and only lets PostgreSQL look at its own tables.
  and p.proname <> 'keep_statistics'
union all
select c.relname || ' is a view, which reads as its owner'
from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm')
order by 1";

async fn faults(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(FAULTS)
        .bind(WITHOUT_RLS)
        .bind(PLATFORM_READS)
        .bind(APPEND_ONLY)
        .bind(CONDITION)
        .bind(WRITE_CONDITION)
        .bind(PLATFORM_READS_SOME.0)
        .bind(PLATFORM_READS_SOME.1)
        .fetch_all(connection)
        .await
        .unwrap()
}

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.unwrap();
}

/// The SQLSTATE that a statement is refused with.
async fn refusal(connection: &mut PgConnection, statement: &str) -> Option<String> {
    let error = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.err()?;
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

async fn tenant_tables(connection: &mut PgConnection) -> BTreeSet<String> {
    let names: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relrowsecurity",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    names.into_iter().collect()
}

/// Two organizations with one row in every tenant table.
async fn two_organizations(connection: &mut PgConnection) -> (OrganizationId, OrganizationId) {
    let (first, second) = (OrganizationId::new(), OrganizationId::new());
    for organization in [first, second] {
        let name = organization.to_string();
        let insert = sqlx::query("insert into organizations (id, name) values ($1, $2)").bind(organization).bind(name);
        insert.execute(&mut *connection).await.unwrap();
        for (table, insert) in ROWS {
            let inserted = sqlx::query(*insert).bind(organization).execute(&mut *connection).await;
            inserted.unwrap_or_else(|error| panic!("{table}: {error}"));
        }
    }
    (first, second)
}

/// Whose rows of a table are seen in this scope.
async fn seen(db: &Db, scope: Scope, table: &'static str) -> Result<Vec<OrganizationId>, DbError> {
    db.unit(scope, move |connection| {
        Box::pin(async move {
            let select = AssertSqlSafe(format!("select organization_id from {table} order by 1"));
            Ok(sqlx::query_scalar(select).fetch_all(connection).await?)
        })
    })
    .await
}

#[tokio::test]
async fn the_catalogue_has_no_hole_between_organizations() {
    let database = TestDatabase::new().await;
    let mut connection = PgConnection::connect_with(&database.options()).await.unwrap();
    assert_eq!(faults(&mut connection).await, Vec::<String>::new());
    let covered: BTreeSet<String> = ROWS.iter().map(|(table, _)| (*table).to_owned()).collect();
    assert_eq!(tenant_tables(&mut connection).await, covered, "the rows of this test must cover every tenant table");
}

#[tokio::test]
async fn every_way_to_open_the_wall_is_noticed() {
    let database = TestDatabase::new().await;
    let mut connection = PgConnection::connect_with(&database.options()).await.unwrap();
    let tables = tenant_tables(&mut connection).await;
    let mut mutations: Vec<(String, String)> = Vec::new();
    for table in tables {
        for change in [
            format!("drop policy tenant on {table}"),
            format!("alter table {table} no force row level security"),
            format!("alter table {table} disable row level security"),
            format!("create policy open on {table} for select to chartgate_app using (true)"),
        ] {
            mutations.push((table.clone(), change));
        }
    }
    for (subject, change) in [
        ("patients", "create unique index stray on patients (id)"),
        ("patients", "alter policy tenant on patients with check (true)"),
        (
            "patients",
            "alter policy tenant on patients
               using (array_position((select tenant_organizations()), organization_id) is not null or true)",
        ),
        ("patients", "alter policy tenant on patients using (organization_id = any (tenant_organizations()))"),
        ("patients", "grant truncate on patients to chartgate_app"),
        ("patients", "grant select on patients to chartgate_platform"),
        ("jobs", "grant update on jobs to chartgate_platform"),
        ("stray", "create table stray (organization_id uuid primary key)"),
        ("stray", "create view stray as select * from findings"),
        ("findings", "alter table findings owner to chartgate_app"),
        ("audit_records", "grant delete on audit_records to chartgate_app"),
        ("audit_records", "alter table audit_records disable trigger audit_records_append_only"),
        ("chartgate_now", "alter function chartgate_now() security definer"),
    ] {
        mutations.push((subject.to_owned(), change.to_owned()));
    }
    for (subject, change) in mutations {
        run(&mut connection, "begin").await;
        run(&mut connection, &change).await;
        let found = faults(&mut connection).await;
        assert!(found.iter().any(|fault| fault.contains(&subject)), "not noticed: {change} ({found:?})");
        run(&mut connection, "rollback").await;
    }
    assert_eq!(faults(&mut connection).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_organization_sees_its_own_rows_and_nobody_sees_any_without_a_context() {
    let database = TestDatabase::new().await;
    let mut superuser = PgConnection::connect_with(&database.options()).await.unwrap();
    let (first, second) = two_organizations(&mut superuser).await;
    let db = Db::connect(database.options(), 2);
    for (table, _) in ROWS {
        assert_eq!(seen(&db, Scope::Global, table).await.unwrap(), [], "{table} without a context");
        assert_eq!(seen(&db, Scope::Organization(first), table).await.unwrap(), [first], "{table} of the first");
        assert_eq!(seen(&db, Scope::Organization(second), table).await.unwrap(), [second], "{table} of the second");
        match seen(&db, Scope::Platform, table).await {
            Ok(rows) => {
                let is_known = PLATFORM_READS.contains(table) || *table == PLATFORM_READS_SOME.0;
                assert!(is_known, "the platform reads {table}");
                assert_eq!(rows.len(), 2, "{table} for the platform");
            }
            Err(error) => {
                assert!(!PLATFORM_READS.contains(table), "the platform cannot read {table}: {error:?}");
                assert!(
                    matches!(&error, DbError::Refused { sqlstate, .. } if sqlstate == "42501"),
                    "{table}: {error:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_organization_cannot_write_for_another() {
    let database = TestDatabase::new().await;
    let mut connection = PgConnection::connect_with(&database.options()).await.unwrap();
    let (first, second) = two_organizations(&mut connection).await;
    run(&mut connection, "set role chartgate_app").await;
    let begin = format!("begin; set local app.organization = '{{{}}}'", first.0);
    for (table, insert) in ROWS {
        run(&mut connection, &begin).await;
        let inserted = sqlx::query(*insert).bind(second).execute(&mut connection).await;
        let error = inserted.expect_err(table);
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        assert_eq!(code.as_deref(), Some("42501"), "{table}: {error}");
        run(&mut connection, "rollback").await;

        // Where the role may change or delete rows at all, those of others are not met.
        for statement in [
            format!("update {table} set organization_id = organization_id where organization_id = '{}'", second.0),
            format!("delete from {table} where organization_id = '{}'", second.0),
        ] {
            run(&mut connection, &begin).await;
            match sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await {
                Ok(done) => assert_eq!(done.rows_affected(), 0, "{statement}"),
                Err(error) => {
                    let code =
                        error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
                    assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
                }
            }
            run(&mut connection, "rollback").await;
        }

        // Nor can a row of one's own be given away.
        run(&mut connection, &begin).await;
        let away = format!("update {table} set organization_id = '{}'", second.0);
        assert_eq!(refusal(&mut connection, &away).await.as_deref(), Some("42501"), "{table}: {away}");
        run(&mut connection, "rollback").await;
    }
}

#[tokio::test]
async fn the_program_does_not_start_beside_a_hole_in_the_wall() {
    let database = TestDatabase::new().await;
    let objects = TestObjects::start().await;
    let mut owner = PgConnection::connect_with(&database.options()).await.unwrap();
    let start = async || App::build(test_config(), database.options(), objects.objects.clone()).await.err();
    for (open, close, word) in [
        (
            "alter table patients disable row level security",
            "alter table patients enable row level security",
            "row-level",
        ),
        ("alter table jobs no force row level security", "alter table jobs force row level security", "row-level"),
        ("alter table findings owner to chartgate_app", "alter table findings owner to postgres", "chartgate_app"),
    ] {
        run(&mut owner, open).await;
        let refused = start().await.unwrap_or_else(|| panic!("started although: {open}"));
        assert!(matches!(refused, StartError::Unsafe(_)) && refused.to_string().contains(word), "{open}: {refused}");
        run(&mut owner, close).await;
    }
    assert!(start().await.is_none());
}

#[tokio::test]
async fn a_context_ends_with_its_transaction() {
    let database = TestDatabase::new().await;
    let mut superuser = PgConnection::connect_with(&database.options()).await.unwrap();
    let (first, _) = two_organizations(&mut superuser).await;
    // One connection: the next unit gets the one that the first has used.
    let db = Db::connect(database.options(), 1);
    assert_eq!(seen(&db, Scope::Organization(first), "jobs").await.unwrap(), [first]);
    assert_eq!(seen(&db, Scope::Global, "jobs").await.unwrap(), []);
    assert_eq!(seen(&db, Scope::Platform, "jobs").await.unwrap().len(), 2);
    assert_eq!(seen(&db, Scope::Organization(first), "jobs").await.unwrap(), [first]);
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed_by_anybody() {
    let database = TestDatabase::new().await;
    let mut owner = PgConnection::connect_with(&database.options()).await.unwrap();
    two_organizations(&mut owner).await;
    for table in APPEND_ONLY {
        let column = match *table {
            "audit_checkpoints" | "audit_keys" | "audit_publications" => "at = at",
            "audit_leaves" => "batch = batch",
            _ => "organization_id = organization_id",
        };
        for statement in
            [format!("update {table} set {column}"), format!("delete from {table}"), format!("truncate {table}")]
        {
            assert_eq!(refusal(&mut owner, &statement).await.as_deref(), Some("42501"), "{statement}");
        }
    }
    let count: i64 = sqlx::query_scalar("select count(*) from audit_records").fetch_one(&mut owner).await.unwrap();
    assert_eq!(count, 2);
}
