//! A database that was restored: the object store knows a history that it does not. Going on loses no trace of that, whatever
//! happened in between.

use super::sealing::until;
use super::{Lab, append};
use chartgate::audit::note::{Checkpoint, Note, PublicKey};
use chartgate::audit::sealer::Sealer;
use chartgate::audit::source::Live;
use chartgate::audit::verify::{Report, verify};
use chartgate::audit::{Actor, care};
use chartgate::db::Db;
use chartgate::ids::OrganizationId;
use chartgate::objects::Objects;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::path::PathBuf;

/// A log with one checkpoint, of which there is a backup, and what came later.
struct Restored {
    /// The database that was lost.
    lab: Lab,
    /// As it was after the first checkpoint.
    db: Db,
    name: String,
    organization: OrganizationId,
    /// Copies of the key's file, from before the first checkpoint and from now.
    first_key: PathBuf,
    last_key: PathBuf,
}

impl Restored {
    /// Make the backup, and let the log go on for so many checkpoints, with a new key before the last if so asked.
    async fn behind(checkpoints: usize, rotate: bool) -> Self {
        let lab = Lab::new().await;
        let organization = OrganizationId::new();
        lab.append(organization, 10).await;
        lab.checkpoint().await;
        // A template must have no connections.
        lab.db.pool().close().await;
        let name = format!("{}_backup", lab.database.name);
        let mut admin = PgConnection::connect_with(&lab.database.options().database("postgres")).await.unwrap();
        let copy = format!("create database {name} template {}", lab.database.name);
        sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut admin).await.unwrap();
        let lab = Lab { db: Db::connect(lab.database.options(), 4), ..lab };
        let (first_key, last_key) = (lab.directory.path().join("first"), lab.directory.path().join("last"));
        std::fs::copy(lab.key_file(), &first_key).unwrap();
        for number in 1..=checkpoints {
            if rotate && number == checkpoints {
                care::rotate_key(&lab.db, &lab.key_file(), Actor::internal("cli")).await.unwrap();
            }
            lab.append(organization, 10).await;
            lab.checkpoint().await;
        }
        std::fs::copy(lab.key_file(), &last_key).unwrap();
        let db = Db::connect(lab.database.options().database(&name), 4);
        Self { lab, db, name, organization, first_key, last_key }
    }

    fn bucket(&self) -> Objects {
        self.lab.objects.objects.clone()
    }

    fn sealer(&self, objects: Objects) -> Sealer {
        Sealer::new(self.db.clone(), objects, self.lab.options())
    }

    /// Some records more, sealed.
    async fn more(&self, sealer: &mut Sealer) {
        append(&self.db, self.organization, 4).await;
        until("sealed", async || sealer.seal_batch().await.unwrap().records > 0).await;
    }

    async fn verify(&self, anchors: &[PublicKey]) -> Report {
        verify(&mut Live::new(self.db.clone(), self.bucket(), None), anchors).await.unwrap()
    }

    async fn run(&self, statement: &'static str) {
        let mut superuser =
            PgConnection::connect_with(&self.lab.database.options().database(&self.name)).await.unwrap();
        sqlx::raw_sql("set session_replication_role = replica").execute(&mut superuser).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut superuser).await.unwrap();
    }

    async fn end(self) {
        self.db.pool().close().await;
        let mut admin = PgConnection::connect_with(&self.lab.database.options().database("postgres")).await.unwrap();
        let drop = format!("drop database {} with (force)", self.name);
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut admin).await.unwrap();
    }
}

fn given_up(report: &Report) -> Vec<(i64, i64, i64)> {
    report.given_up.iter().map(|one| (one.first, one.last, one.by)).collect()
}

#[tokio::test]
async fn what_was_signed_while_the_bucket_was_away_hides_no_other_history() {
    // The bucket has 2 to 4 of the history that was lost; the restored database signs its own 2 to 6 without it, or only 2.
    for own in [5, 1] {
        let restored = Restored::behind(3, false).await;
        let mut away = restored.sealer(restored.lab.absent());
        for _ in 0..own {
            restored.more(&mut away).await;
            assert!(away.checkpoint().await.unwrap().is_some());
        }
        let anchors = restored.lab.anchors().await;
        assert!(!restored.verify(&anchors).await.ok);
        let mut sealer = restored.sealer(restored.bucket());
        assert_eq!(sealer.publish().await.unwrap_err().state(), "forked");
        restored.more(&mut sealer).await;
        assert_eq!(sealer.checkpoint().await.unwrap_err().state(), "forked", "nothing is signed on top");
        let bucket = restored.bucket();
        let by = care::continue_log(&mut sealer, &bucket, Actor::internal("cli"), "the disk failed").await.unwrap();
        assert_eq!(by, (1 + own).max(4) + 1, "behind what both have");
        let report = restored.verify(&anchors).await;
        assert!(report.ok, "{report:#?}");
        assert_eq!(given_up(&report), [(2, 4, by)]);
        restored.more(&mut sealer).await;
        assert_eq!(sealer.checkpoint().await.unwrap(), Some(by + 1));
        assert_eq!(sealer.publish().await.unwrap(), 0);
        let again = care::continue_log(&mut sealer, &bucket, Actor::internal("cli"), "again").await.unwrap_err();
        assert_eq!(again.state(), "nothing_to_continue");
        let report = restored.verify(&anchors).await;
        assert_eq!((report.ok, given_up(&report)), (true, vec![(2, 4, by)]), "{report:#?}");
        restored.end().await;
    }
}

#[tokio::test]
async fn a_restore_to_before_a_rotation_takes_the_keys_of_the_bucket_over() {
    let restored = Restored::behind(2, true).await;
    let anchors = restored.lab.anchors().await;
    let mut sealer = restored.sealer(restored.bucket());
    restored.more(&mut sealer).await;
    assert_eq!(sealer.checkpoint().await.unwrap_err().state(), "key_missing");
    assert!(!restored.verify(&anchors).await.ok);
    let bucket = restored.bucket();
    let by = care::continue_log(&mut sealer, &bucket, Actor::internal("cli"), "the disk failed").await.unwrap();
    let report = restored.verify(&anchors).await;
    assert!(report.ok && report.trusted, "{report:#?}");
    assert_eq!((given_up(&report), report.keys.len()), (vec![(2, 3, by)], 2));
    restored.more(&mut sealer).await;
    assert_eq!(sealer.checkpoint().await.unwrap(), Some(by + 1));
    assert_eq!(sealer.publish().await.unwrap(), 0);
    restored.end().await;
}

#[tokio::test]
async fn a_second_statement_of_a_keys_number_is_no_checkpoint_that_could_be_given_up() {
    let restored = Restored::behind(2, true).await;
    // The key from before comes back from a copy, and is rotated again: two statements of key 2.
    std::fs::copy(&restored.first_key, restored.lab.key_file()).unwrap();
    care::rotate_key(&restored.db, &restored.lab.key_file(), Actor::internal("cli")).await.unwrap();
    let mut sealer = restored.sealer(restored.bucket());
    restored.more(&mut sealer).await;
    assert_eq!(sealer.publish().await.unwrap_err().state(), "key_forked");
    let bucket = restored.bucket();
    let refused = care::continue_log(&mut sealer, &bucket, Actor::internal("cli"), "again").await.unwrap_err();
    assert_eq!(refused.state(), "key_forked");
    // The way out that docs/audit.md tells.
    restored.run("delete from audit_keys where ordinal = 2").await;
    std::fs::copy(&restored.last_key, restored.lab.key_file()).unwrap();
    care::continue_log(&mut sealer, &bucket, Actor::internal("cli"), "mended").await.unwrap();
    assert!(restored.verify(&restored.lab.anchors().await).await.ok);
    restored.end().await;
}

#[tokio::test]
async fn behind_numbers_that_were_given_up_the_first_bad_record_is_named_as_elsewhere() {
    for (from, first) in [(7, 7), (6, 6), (8, 8)] {
        let restored = Restored::behind(3, false).await;
        let anchors = restored.lab.anchors().await;
        let mut sealer = restored.sealer(restored.bucket());
        let bucket = restored.bucket();
        let by = care::continue_log(&mut sealer, &bucket, Actor::internal("cli"), "the disk failed").await.unwrap();
        assert_eq!(by, 5);
        for _ in 0..4 {
            restored.more(&mut sealer).await;
            sealer.checkpoint().await.unwrap();
            sealer.publish().await.unwrap();
        }
        assert!(restored.verify(&anchors).await.ok);
        let bad: i64 = sqlx::query_scalar(
            "select l.record_ids[1] from audit_checkpoints c join audit_leaves l on l.batch = c.last_batch + 1
             where c.checkpoint = $1 - 1",
        )
        .bind(i64::from(first))
        .fetch_one(
            &mut PgConnection::connect_with(&restored.lab.database.options().database(&restored.name)).await.unwrap(),
        )
        .await
        .unwrap();
        restored
            .run(match from {
                6 => "update audit_checkpoints set note = replace(note, 'time 2', 'time 1') where checkpoint >= 6",
                7 => "update audit_checkpoints set note = replace(note, 'time 2', 'time 1') where checkpoint >= 7",
                _ => "update audit_checkpoints set note = replace(note, 'time 2', 'time 1') where checkpoint >= 8",
            })
            .await;
        let report = restored.verify(&anchors).await;
        assert!(!report.ok);
        assert_eq!(given_up(&report), [(2, 4, 5)], "{report:#?}");
        assert_eq!(report.first_bad_record, Some(bad), "{from}: {report:#?}");
        assert!(report.faults.iter().all(|fault| fault.checkpoint >= Some(first.into())), "{report:#?}");
        restored.end().await;
    }
}

#[tokio::test]
async fn a_checkpoint_that_claims_more_leaves_than_there_can_be_is_a_fault_and_no_panic() {
    let lab = Lab::new().await;
    lab.append(OrganizationId::new(), 5).await;
    lab.checkpoint().await;
    let mut superuser = lab.superuser().await;
    let (log, note): (uuid::Uuid, String) = sqlx::query_as("select l.id, c.note from audit_log l, audit_checkpoints c")
        .fetch_one(&mut superuser)
        .await
        .unwrap();
    let honest = Checkpoint::parse(&Note::parse(&note).unwrap().text).unwrap();
    let key = chartgate::audit::keys::SigningKey::load(&lab.key_file()).unwrap().unwrap();
    let claimed = Checkpoint { size: u64::MAX, number: 2, previous: Some(Note::hash(&note)), ..honest };
    sqlx::query("insert into audit_checkpoints select 2, tree_size, last_batch, peaks, $1, at from audit_checkpoints")
        .bind(key.sign(log, &claimed.to_text()))
        .execute(&mut superuser)
        .await
        .unwrap();
    let report = lab.verify().await;
    assert!(!report.ok);
    assert!(report.faults.iter().any(|fault| fault.checkpoint == Some(2)), "{report:#?}");
}
