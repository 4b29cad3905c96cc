//! SQL of the audit log: what is sealed, and the log itself. Reading over all organizations needs `Scope::Platform`.

use super::merkle::Hash;
use super::note::KeyStatement;
use super::record::{Position, StoredRecord};
use crate::db::DbError;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

/// The columns of a [`StoredRecord`] in its order.
pub(super) const COLUMNS: &str = "id, audit_position(xid), at, organization_id, event, action::text, outcome, actor, authentication, address, purpose,
   patient_id, job_id, step, resource, request_id, body_sha256, program_version, detail::text";

/// The log's identity.
pub async fn log_id(connection: &mut PgConnection) -> Result<Uuid, DbError> {
    Ok(sqlx::query_scalar("select id from audit_log").fetch_one(connection).await?)
}

/// Where the transactions stand.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct Horizon {
    /// Every transaction below this number has ended.
    pub below: i64,
    /// The first number that was not yet given out.
    pub next: i64,
    /// The database's time.
    pub now: OffsetDateTime,
    /// The last number that a record was given.
    pub last_record: i64,
}

/// See [`Horizon`].
pub async fn horizon(connection: &mut PgConnection) -> Result<Horizon, DbError> {
    let select = "select audit_position(pg_snapshot_xmin(s)) below, audit_position(pg_snapshot_xmax(s)) next,
                         chartgate_now() now, coalesce(q.last_value, 0) last_record
                  from pg_current_snapshot() s, audit_records_id_seq q";
    Ok(sqlx::query_as(select).fetch_one(connection).await?)
}

/// Number of the current transaction.
pub async fn own_transaction(connection: &mut PgConnection) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select audit_position(pg_current_xact_id())").fetch_one(connection).await?)
}

/// Records behind a position up to another, in the order of sealing, at most `limit`.
pub async fn records_between(
    connection: &mut PgConnection,
    after: Position,
    until: Position,
    limit: i64,
) -> Result<Vec<StoredRecord>, DbError> {
    // The BRIN is the only way to a range of transactions; statistics of a growing table would hide it.
    sqlx::raw_sql("set local enable_seqscan = off; set local enable_indexscan = off").execute(&mut *connection).await?;
    let select = format!(
        "select {COLUMNS}
         from audit_records
         where audit_position(xid) >= $1
           and audit_position(xid) <= $3
           -- The borders belong to two transactions whose records may be on both sides.
           and (audit_position(xid) > $1 or id > $2)
           and (audit_position(xid) < $3 or id <= $4)
         order by audit_position(xid), id
         limit $5"
    );
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(select))
        .bind(after.xid)
        .bind(after.id)
        .bind(until.xid)
        .bind(until.id)
        .bind(limit);
    Ok(rows.fetch_all(connection).await?)
}

/// One batch of sealed records.
#[derive(Debug, Clone)]
pub struct Batch {
    /// 1, 2, …
    pub number: i64,
    /// Leaves before it.
    pub first_leaf: u64,
    /// Records in order of sealing, with their hashes.
    pub leaves: Vec<(i64, Hash)>,
    /// The position of its end.
    pub until: Position,
}

#[derive(FromRow)]
struct BatchRow {
    batch: i64,
    first_leaf: i64,
    record_ids: Vec<i64>,
    leaf_hashes: Vec<u8>,
    until_xid: i64,
    until_id: i64,
}

impl From<BatchRow> for Batch {
    fn from(row: BatchRow) -> Self {
        let hashes = row.leaf_hashes.as_chunks::<32>().0.iter().copied();
        Self {
            number: row.batch,
            first_leaf: u64::try_from(row.first_leaf).unwrap_or_default(),
            leaves: row.record_ids.into_iter().zip(hashes).collect(),
            until: Position { xid: row.until_xid, id: row.until_id },
        }
    }
}

/// Where the sealing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedEnd {
    /// Number of the last batch; 0 before the first.
    pub batch: i64,
    /// Leaves in all.
    pub leaves: u64,
    /// Position up to which all is sealed.
    pub until: Position,
}

/// See [`SealedEnd`].
pub async fn sealed_end(connection: &mut PgConnection) -> Result<SealedEnd, DbError> {
    let select = "select batch, first_leaf + cardinality(record_ids), until_xid, until_id
                  from audit_leaves order by batch desc limit 1";
    let row: Option<(i64, i64, i64, i64)> = sqlx::query_as(select).fetch_optional(connection).await?;
    let (batch, leaves, xid, id) = row.unwrap_or_default();
    Ok(SealedEnd { batch, leaves: u64::try_from(leaves).unwrap_or_default(), until: Position { xid, id } })
}

/// Write a batch down. Its number and its first leaf are unique: of two sealers that made it at once, one fails with
/// [`DbError::Conflict`].
pub async fn insert_batch(connection: &mut PgConnection, batch: &Batch) -> Result<(), DbError> {
    let ids: Vec<i64> = batch.leaves.iter().map(|(id, _)| *id).collect();
    let hashes: Vec<u8> = batch.leaves.iter().flat_map(|(_, hash)| *hash).collect();
    sqlx::query("insert into audit_leaves values ($1, $2, $3, $4, $5, $6, chartgate_now())")
        .bind(batch.number)
        .bind(i64::try_from(batch.first_leaf).unwrap_or(i64::MAX))
        .bind(ids)
        .bind(hashes)
        .bind(batch.until.xid)
        .bind(batch.until.id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Batches behind that one, in order, of about `leaves` leaves in all, but at least one.
pub async fn batches_after(connection: &mut PgConnection, batch: i64, leaves: i64) -> Result<Vec<Batch>, DbError> {
    let rows: Vec<BatchRow> = sqlx::query_as(
        "select batch, first_leaf, record_ids, leaf_hashes, until_xid, until_id
         from (
           select *, sum(cardinality(record_ids)) over (order by batch) - cardinality(record_ids) before
           from (select * from audit_leaves where batch > $1 order by batch limit 1000) l
         ) l
         where before < $2
         order by batch",
    )
    .bind(batch)
    .bind(leaves)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Batch::from).collect())
}

/// A checkpoint as it is stored.
#[derive(Debug, Clone, FromRow)]
pub struct CheckpointRow {
    /// 1, 2, …
    pub checkpoint: i64,
    /// Leaves in the tree.
    pub tree_size: i64,
    /// The last batch in the tree.
    pub last_batch: i64,
    /// From which the tree goes on.
    pub peaks: Vec<u8>,
    /// The signed note.
    pub note: String,
    /// When it was made.
    pub at: OffsetDateTime,
}

/// The newest checkpoint, or the newest up to a number.
pub async fn newest_checkpoint(connection: &mut PgConnection, up_to: i64) -> Result<Option<CheckpointRow>, DbError> {
    let select = "select checkpoint, tree_size, last_batch, peaks, note, at from audit_checkpoints
                  where checkpoint <= $1 order by checkpoint desc limit 1";
    Ok(sqlx::query_as(select).bind(up_to).fetch_optional(connection).await?)
}

/// The newest checkpoint of at most so many leaves, by its number.
pub async fn checkpoint_of_size(connection: &mut PgConnection, leaves: i64) -> Result<Option<i64>, DbError> {
    // Trees only grow: from the newest on it is near.
    let select = "select checkpoint from audit_checkpoints where tree_size <= $1 order by checkpoint desc limit 1";
    Ok(sqlx::query_scalar(select).bind(leaves).fetch_optional(connection).await?)
}

/// Checkpoints behind that one, in order.
pub async fn checkpoints_after(
    connection: &mut PgConnection,
    checkpoint: i64,
    limit: i64,
) -> Result<Vec<CheckpointRow>, DbError> {
    let select = "select checkpoint, tree_size, last_batch, peaks, note, at from audit_checkpoints
                  where checkpoint > $1 order by checkpoint limit $2";
    Ok(sqlx::query_as(select).bind(checkpoint).bind(limit).fetch_all(connection).await?)
}

/// Only one transaction at a time makes checkpoints or rotates keys.
pub async fn lock_checkpoints(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('chartgate.audit.checkpoints', 0))")
        .execute(connection)
        .await?;
    Ok(())
}

/// Write a checkpoint down; its number is unique.
pub async fn insert_checkpoint(connection: &mut PgConnection, row: &CheckpointRow) -> Result<(), DbError> {
    sqlx::query("insert into audit_checkpoints values ($1, $2, $3, $4, $5, $6)")
        .bind(row.checkpoint)
        .bind(row.tree_size)
        .bind(row.last_batch)
        .bind(&row.peaks)
        .bind(&row.note)
        .bind(row.at)
        .execute(connection)
        .await?;
    Ok(())
}

/// Statements of all keys, oldest first.
pub async fn key_statements(connection: &mut PgConnection) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("select statement from audit_keys order by ordinal").fetch_all(connection).await?)
}

/// Write a key's statement down; its number is unique.
pub async fn insert_key(connection: &mut PgConnection, statement: &KeyStatement, note: &str) -> Result<(), DbError> {
    sqlx::query("insert into audit_keys values ($1, $2, chartgate_now())")
        .bind(statement.ordinal)
        .bind(note)
        .execute(connection)
        .await?;
    Ok(())
}

/// What is put into the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// A checkpoint with its leaves.
    Checkpoint,
    /// A key's statement.
    Key,
}

impl Published {
    fn word(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Key => "key",
        }
    }
}

/// The highest number of a kind that is in the object store for certain; 0 if there is none.
pub async fn last_published(connection: &mut PgConnection, kind: Published) -> Result<i64, DbError> {
    let select = "select coalesce(max(number), 0) from audit_publications where kind = $1";
    Ok(sqlx::query_scalar(select).bind(kind.word()).fetch_one(connection).await?)
}

/// It is in the object store.
pub async fn insert_publication(connection: &mut PgConnection, kind: Published, number: i64) -> Result<(), DbError> {
    sqlx::query("insert into audit_publications values ($1, $2, chartgate_now()) on conflict do nothing")
        .bind(kind.word())
        .bind(number)
        .execute(connection)
        .await?;
    Ok(())
}

/// What the sealer last said of itself.
#[derive(Debug, Clone, FromRow)]
pub struct SealerStatus {
    /// `sealing`, or what keeps it from that.
    pub state: String,
    /// More of it.
    pub detail: String,
    /// Seconds since it said so.
    pub silent_seconds: f64,
    /// Seconds since the instant through which everything is sealed.
    pub unsealed_seconds: f64,
    /// Records behind the last sealed one, about.
    pub unsealed_records: i64,
    /// Checkpoints that are not in the object store yet.
    pub unpublished: i64,
}

/// See [`SealerStatus`]; none before the first sealer ran.
pub async fn sealer_status(connection: &mut PgConnection) -> Result<Option<SealerStatus>, DbError> {
    let select = "select state, detail,
                         greatest(extract(epoch from chartgate_now() - seen_at), 0)::float8 silent_seconds,
                         greatest(extract(epoch from chartgate_now() - sealed_through), 0)::float8 unsealed_seconds,
                         greatest(q.last_value - last_record_id, 0) unsealed_records,
                         unpublished
                  from audit_sealer, audit_records_id_seq q";
    Ok(sqlx::query_as(select).fetch_optional(connection).await?)
}

/// Say it.
pub async fn put_sealer_status(
    connection: &mut PgConnection,
    (state, detail): (&str, &str),
    sealed_through: Option<OffsetDateTime>,
    last_record_id: i64,
    unpublished: i64,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into audit_sealer (state, detail, seen_at, sealed_through, last_record_id, unpublished)
         values ($1, $2, chartgate_now(), coalesce($3, chartgate_now()), $4, $5)
         on conflict (single) do update
         set state = excluded.state, detail = excluded.detail, seen_at = excluded.seen_at,
             sealed_through = case when $3 is null then audit_sealer.sealed_through else excluded.sealed_through end,
             last_record_id = greatest(audit_sealer.last_record_id, excluded.last_record_id),
             unpublished = excluded.unpublished",
    )
    .bind(state)
    .bind(detail)
    .bind(sealed_through)
    .bind(last_record_id)
    .bind(unpublished)
    .execute(connection)
    .await?;
    Ok(())
}

/// Be the one sealer, for as long as this connection lives; false while another is.
pub async fn try_lead(connection: &mut PgConnection) -> Result<bool, DbError> {
    let lock = "select pg_try_advisory_lock(hashtextextended('chartgate.audit.sealer', 0))";
    Ok(sqlx::query_scalar(lock).fetch_one(connection).await?)
}

/// The connection, and with it the lead, is still there.
pub async fn still_there(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query("select 1").execute(connection).await?;
    Ok(())
}

/// The database's time.
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, DbError> {
    Ok(sqlx::query_scalar("select chartgate_now()").fetch_one(connection).await?)
}
