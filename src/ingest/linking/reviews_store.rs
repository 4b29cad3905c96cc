//! SQL on reviews.

use crate::db::{DbError, ensure_one_row};
use crate::ids::{DecisionId, EventId, OrganizationId, PatientId, ReviewId, StatementId};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A question for a person.
#[derive(Clone, sqlx::FromRow)]
pub struct Review {
    /// Its id.
    pub id: ReviewId,
    /// open, decided, superseded
    pub status: String,
    /// Why a person is asked.
    pub reason: String,
    /// Whether links wait for it.
    pub is_blocking: bool,
    /// An event that asks.
    pub event_id: EventId,
    /// Of the statement, or of the keys.
    pub fingerprint: Option<Vec<u8>>,
    /// What it is about; none for reviews of events.
    pub statement_id: Option<StatementId>,
    /// The keys that disagree, of a review of events.
    pub subject_keys: Option<Vec<String>>,
    /// `[{patient, score, grade, reasons}]`, the likeliest first.
    pub candidates: Value,
    /// What was decided.
    pub decision: Option<Value>,
    /// By whom.
    pub decided_by: Option<String>,
    /// Whose it is now.
    pub patient_id: Option<PatientId>,
    /// When it was asked.
    pub created_at: OffsetDateTime,
    /// When it was decided, or went away.
    pub decided_at: Option<OffsetDateTime>,
}

const COLUMNS: &str =
    "id, status, reason, is_blocking, event_id, fingerprint, statement_id, subject_keys, candidates, decision,
       decided_by, patient_id, created_at, decided_at";

/// A page of an organization's reviews, newest first, behind a cursor.
///
/// # Errors
/// A [`DbError`].
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    status: &str,
    before: Option<ReviewId>,
    limit: i64,
) -> Result<Vec<Review>, DbError> {
    let sql = format!(
        "select {COLUMNS}
         from reviews
         where organization_id = $1
           and status = $2
           and ($3::uuid is null or id < $3)
         order by id desc
         limit $4"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(status).bind(before).bind(limit);
    Ok(query.fetch_all(connection).await?)
}

/// One review; nothing, if the organization has none such. Locked until the transaction ends, if `for_update`.
///
/// # Errors
/// A [`DbError`].
pub async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: ReviewId,
    for_update: bool,
) -> Result<Option<Review>, DbError> {
    let lock = if for_update { "for update" } else { "" };
    let sql = format!("select {COLUMNS} from reviews where organization_id = $1 and id = $2 {lock}");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(review).fetch_optional(connection).await?)
}

/// All reviews of these fingerprints.
pub(super) async fn by_fingerprints(
    connection: &mut PgConnection,
    organization: OrganizationId,
    fingerprints: &[&[u8]],
) -> Result<Vec<Review>, DbError> {
    let sql = format!(
        "select {COLUMNS}
         from unnest($2::bytea[]) as k (wanted)
         cross join lateral (
           select *
           from reviews
           where organization_id = $1
             and fingerprint = k.wanted
           offset 0
         ) r
         order by id"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(fingerprints).fetch_all(connection).await?)
}

/// A review to be opened.
pub(super) struct NewReview {
    /// Why.
    pub reason: &'static str,
    /// Whether links wait for it.
    pub is_blocking: bool,
    /// An event that asks.
    pub event: EventId,
    /// Of the statement, or of the keys.
    pub fingerprint: Vec<u8>,
    /// About this statement.
    pub statement: Option<StatementId>,
    /// About events with these keys.
    pub subject_keys: Option<Vec<String>>,
    /// As stored.
    pub candidates: Value,
}

/// Ask a person. The same question, asked already, gets the new candidates.
pub(super) async fn open(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: &NewReview,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into reviews
           (organization_id, id, event_id, status, reason, is_blocking, fingerprint, statement_id, subject_keys, candidates,
            created_at)
         values ($1, $2, $3, 'open', $4, $5, $6, $7, $8, $9, chartgate_now())
         on conflict (organization_id, fingerprint, is_blocking) where status = 'open' do update
         set reason = excluded.reason, candidates = excluded.candidates, statement_id = excluded.statement_id,
             event_id = excluded.event_id
         where (reviews.reason, reviews.candidates) is distinct from (excluded.reason, excluded.candidates)",
    )
    .bind(organization)
    .bind(ReviewId::new())
    .bind(review.event)
    .bind(review.reason)
    .bind(review.is_blocking)
    .bind(&review.fingerprint)
    .bind(review.statement)
    .bind(&review.subject_keys)
    .bind(&review.candidates)
    .execute(connection)
    .await?;
    Ok(())
}

/// The review that a decision answered.
pub(super) async fn review_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    decision: DecisionId,
) -> Result<Option<ReviewId>, DbError> {
    let query = sqlx::query_scalar("select review_id from link_decisions where organization_id = $1 and id = $2");
    let found: Option<Option<ReviewId>> = query.bind(organization).bind(decision).fetch_optional(connection).await?;
    Ok(found.flatten())
}

/// The answer was taken back: a new review asks the same.
pub(super) async fn ask_again(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: ReviewId,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into reviews
           (organization_id, id, event_id, status, reason, is_blocking, fingerprint, statement_id, subject_keys, candidates,
            created_at)
         select organization_id, $3, event_id, 'open', reason, is_blocking, fingerprint, statement_id, subject_keys,
                candidates, chartgate_now()
         from reviews
         where organization_id = $1
           and id = $2
         on conflict (organization_id, fingerprint, is_blocking) where status = 'open' do nothing",
    )
    .bind(organization)
    .bind(review)
    .bind(ReviewId::new())
    .execute(connection)
    .await?;
    Ok(())
}

/// The questions went away.
pub(super) async fn supersede(
    connection: &mut PgConnection,
    organization: OrganizationId,
    reviews: &[ReviewId],
) -> Result<(), DbError> {
    if reviews.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update reviews
         set status = 'superseded', decided_at = chartgate_now()
         where organization_id = $1
           and id = any ($2)
           and status = 'open'",
    )
    .bind(organization)
    .bind(reviews)
    .execute(connection)
    .await?;
    Ok(())
}

/// Questions about these keys that no event asks any more.
pub(super) async fn supersede_settled(
    connection: &mut PgConnection,
    organization: OrganizationId,
    fingerprints: &[Vec<u8>],
) -> Result<(), DbError> {
    if fingerprints.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update reviews r
         set status = 'superseded', decided_at = chartgate_now()
         where r.organization_id = $1
           and r.fingerprint = any ($2)
           and r.status = 'open'
           and r.subject_keys is not null
           and not exists (
             select 1
             from unnest(r.subject_keys) as k (key)
             cross join lateral (select id from clinical_events
                                 where organization_id = $1 and link_status = 'review' and subject_key = k.key
                                 offset 0) e
             where coalesce(nullif(array(select s.key from event_subjects s
                                         where s.organization_id = $1 and s.event_id = e.id
                                         -- As Rust sorts them.
                                         order by s.key collate \"C\"), '{}'), array[k.key]) = r.subject_keys)",
    )
    .bind(organization)
    .bind(fingerprints)
    .execute(connection)
    .await?;
    Ok(())
}

/// A person answered.
pub(super) async fn decide(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: ReviewId,
    decision: &Value,
    actor: &str,
) -> Result<(), DbError> {
    let result = sqlx::query(
        "update reviews
         set status = 'decided', decision = $3, decided_by = $4, decided_at = chartgate_now()
         where organization_id = $1
           and id = $2
           and status = 'open'",
    )
    .bind(organization)
    .bind(review)
    .bind(decision)
    .bind(actor)
    .execute(connection)
    .await?;
    ensure_one_row(&result)
}

/// Whose it became by the decision.
pub(super) async fn set_patient(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: ReviewId,
    patient: Option<PatientId>,
) -> Result<(), DbError> {
    sqlx::query("update reviews set patient_id = $3 where organization_id = $1 and id = $2")
        .bind(organization)
        .bind(review)
        .bind(patient)
        .execute(connection)
        .await?;
    Ok(())
}

/// How many events wait for the answer: those about these statements, and those with these keys.
///
/// # Errors
/// A [`DbError`].
pub async fn waiting(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: &Review,
) -> Result<i64, DbError> {
    let query = sqlx::query_scalar(
        "select count(*)
         from clinical_events
         where organization_id = $1
           and id = any (
             array(select id from clinical_events
                   where organization_id = $1 and link_status <> 'linked'
                     and statement_id = any (array(select id from patient_statements
                                                   where organization_id = $1 and fingerprint = $2)))
             || array(select e.id from unnest($3::text[]) as k (key)
                      cross join lateral (select id from clinical_events
                                          where organization_id = $1 and link_status = 'review' and subject_key = k.key
                                          offset 0) e))",
    );
    Ok(query.bind(organization).bind(&review.fingerprint).bind(&review.subject_keys).fetch_one(connection).await?)
}

/// A person as shown beside a question.
#[derive(sqlx::FromRow)]
pub struct PersonRow {
    /// The patient; none of a statement.
    pub id: Option<PatientId>,
    /// Family name.
    pub family: Option<String>,
    /// Given names.
    pub given: Vec<String>,
    /// As written.
    pub birth_date: Option<String>,
    /// FHIR's code.
    pub gender: Option<String>,
    /// `[{system, value}]`.
    pub identifiers: Value,
}

/// What a statement says.
///
/// # Errors
/// A [`DbError`].
pub async fn said(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statement: StatementId,
) -> Result<Option<PersonRow>, DbError> {
    let query = sqlx::query_as(
        "select s.patient_id as id, s.family, s.given, s.birth_date, s.gender,
                coalesce((select jsonb_agg(jsonb_build_object('system', k.system, 'value', k.value) order by k.system, k.value)
                          from unnest(s.mrn_systems, s.mrn_values) as k (system, value)), '[]') as identifiers
         from patient_statements s
         where s.organization_id = $1
           and s.id = $2",
    );
    Ok(query.bind(organization).bind(statement).fetch_optional(connection).await?)
}

/// These patients.
///
/// # Errors
/// A [`DbError`].
pub async fn people(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patients: &[PatientId],
) -> Result<Vec<PersonRow>, DbError> {
    let query = sqlx::query_as(
        "select p.id, p.family, p.given, p.birth_date, p.gender,
                coalesce((select jsonb_agg(jsonb_build_object('system', i.system, 'value', i.value) order by i.system, i.value)
                          from patient_identifiers i
                          where i.organization_id = $1
                            and i.patient_id = p.id), '[]') as identifiers
         from patients p
         where p.organization_id = $1
           and p.id = any ($2)",
    );
    Ok(query.bind(organization).bind(patients).fetch_all(connection).await?)
}
