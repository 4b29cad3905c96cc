//! What an administrator does with the log's keys and history: rotating the key, going on after a restore. Both need the
//! private key, leave a record, and show in every verification from then on.

use super::keys::{KeyRing, SigningKey, load_current, next_file};
use super::note::{Abandoned, KeyStatement, Note, PublicKey};
use super::sealer::{SealError, Sealer};
use super::store::{self, Published};
use super::witness;
use super::{Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use crate::objects::Objects;
use std::path::Path;
use std::time::Duration;

/// A record of care is sealed after so long at the latest, unless a transaction stands open.
const SEALED_WITHIN: Duration = Duration::from_mins(1);

/// Replace the signing key: the old one signs the new one, and signs no checkpoint any more. A running sealer takes the new
/// one up by itself. The file keeps its name; an interrupted rotation is finished by the next use of the key.
///
/// # Errors
/// [`SealError`]; nothing is changed then, or the change is whole.
pub async fn rotate_key(db: &Db, path: &Path, actor: Actor) -> Result<PublicKey, SealError> {
    let (log, statements, newest, now) = db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                let log = store::log_id(connection).await?;
                let statements = store::key_statements(connection).await?;
                let newest = store::newest_checkpoint(connection, i64::MAX).await?;
                Ok((log, statements, newest.map_or(0, |newest| newest.checkpoint), store::now(connection).await?))
            })
        })
        .await?;
    let (ring, faults) = KeyRing::follow(log, &statements, &[]);
    if let Some(fault) = faults.into_iter().next() {
        return Err(SealError::Tampered(fault));
    }
    let Some(current) = ring.newest() else {
        return Err(SealError::Tampered("the log has no key yet: start a sealer first".to_owned()));
    };
    let missing = || SealError::KeyMissing { path: path.to_owned(), key: current.key().id() };
    let old = load_current(path, &current.public)?.ok_or_else(missing)?;
    let next = next_file(path);
    // One that is left there was never named by a statement.
    let _ = std::fs::remove_file(&next);
    let new = SigningKey::create(&next)?;
    let statement = KeyStatement::new(log, current.ordinal + 1, new.public(), newest + 1, ring.newest_hash(), now);
    let text = statement.to_text();
    let note = format!("{}{}", new.sign(log, &text), old.signature_line(log, &text));
    let resource = format!("key:{}", new.key(log).id());
    db.unit::<_, SealError, _>(Scope::Organization(OrganizationId::PLATFORM), move |connection| {
        Box::pin(async move {
            store::lock_checkpoints(connection).await?;
            let now_newest = store::newest_checkpoint(connection, i64::MAX).await?.map_or(0, |row| row.checkpoint);
            if now_newest != newest {
                return Err(DbError::NotOneRow(0).into());
            }
            store::insert_key(connection, &statement, &note).await?;
            let mut record = Record::new(OrganizationId::PLATFORM, "audit.key_rotated", Action::Update, &actor);
            record.resource = Some(&resource);
            Ok(super::append(connection, record).await?)
        })
    })
    .await?;
    load_current(path, &new.public())?;
    Ok(new.key(log))
}

/// Statements of keys that only the object store knows, because the database was restored to before a rotation: they are the log's if
/// each is signed by the key before it. How many were taken over.
async fn take_over_keys(db: &Db, objects: &Objects) -> Result<usize, SealError> {
    let (log, mut statements) = db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move { Ok((store::log_id(connection).await?, store::key_statements(connection).await?)) })
        })
        .await?;
    let known = statements.len();
    let mut taken: Vec<(KeyStatement, String)> = Vec::new();
    for ordinal in (1i64..).skip(known) {
        let Some(bytes) = witness::read(objects, &witness::key_key(log, ordinal)).await? else { break };
        let text = String::from_utf8(bytes).map_err(|_| SealError::KeyForked(ordinal))?;
        statements.push(text.clone());
        let (ring, faults) = KeyRing::follow(log, &statements, &[]);
        match ring.newest() {
            Some(newest) if faults.is_empty() => taken.push((newest.clone(), text)),
            _ => return Err(SealError::KeyForked(ordinal)),
        }
    }
    let count = taken.len();
    if count > 0 {
        db.unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                store::lock_checkpoints(connection).await?;
                if store::key_statements(connection).await?.len() != known {
                    return Err(DbError::stale());
                }
                for (statement, note) in &taken {
                    store::insert_key(connection, statement, note).await?;
                    store::insert_publication(connection, Published::Key, statement.ordinal).await?;
                }
                Ok(())
            })
        })
        .await?;
    }
    Ok(count)
}

/// Go on after the database was restored to an earlier time: statements of keys that only the object store knows are taken over,
/// checkpoints that only it knows are given up, by a checkpoint that says so. Its number.
///
/// # Errors
/// [`SealError::NothingToContinue`] when there is neither; else as sealing.
pub async fn continue_log(
    sealer: &mut Sealer,
    objects: &Objects,
    actor: Actor,
    reason: &str,
) -> Result<i64, SealError> {
    let db = sealer.db.clone();
    let keys = take_over_keys(&db, objects).await?;
    // What both know is published first; what they differ in is the first number that is given up.
    let differing = match sealer.publish().await {
        Err(SealError::Forked(number)) => Some(number),
        other => other.map(|_| None)?,
    };
    let (log, newest) = db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                let newest = store::newest_checkpoint(connection, i64::MAX).await?;
                Ok((store::log_id(connection).await?, newest.map_or(0, |newest| newest.checkpoint)))
            })
        })
        .await?;
    let first = differing.unwrap_or(newest + 1);
    let last = witness::newest(objects, log, first).await?;
    let note = witness::read(objects, &witness::checkpoint_key(log, last)).await?.filter(|_| last >= first);
    let hash = note.map(|note| Note::hash(&String::from_utf8_lossy(&note)));
    let abandoned = hash.map(|hash| Abandoned { first, last, hash });
    if abandoned.is_none() && keys == 0 {
        return Err(SealError::NothingToContinue);
    }
    let mut detail = serde_json::Map::new();
    if let Some(abandoned) = &abandoned {
        detail.extend([("first".to_owned(), abandoned.first.into()), ("last".to_owned(), abandoned.last.into())]);
    }
    if keys > 0 {
        detail.insert("keys".to_owned(), keys.into());
    }
    let purpose = reason.to_owned();
    let written = db
        .unit::<_, DbError, _>(Scope::Organization(OrganizationId::PLATFORM), move |connection| {
            Box::pin(async move {
                let mut record = Record::new(OrganizationId::PLATFORM, "audit.continued", Action::Execute, &actor);
                record.purpose = Some(&purpose);
                record.detail = Some(detail.into());
                super::append(connection, record).await?;
                store::own_transaction(connection).await
            })
        })
        .await?;
    let deadline = std::time::Instant::now() + SEALED_WITHIN;
    loop {
        match sealer.seal_batch().await {
            Ok(batch) if batch.caught_up && batch.horizon.below > written => break,
            Ok(_) | Err(SealError::Db(DbError::Conflict(_))) => {}
            Err(error) => return Err(error),
        }
        if std::time::Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let number = sealer.checkpoint_after(abandoned).await?;
    let number = number.ok_or(SealError::NothingToContinue)?;
    sealer.publish().await?;
    Ok(number)
}
