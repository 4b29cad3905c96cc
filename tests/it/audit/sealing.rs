//! Every record is sealed once, whoever commits late and however many seal; what is signed is published; keys and restores.

use super::{Lab, append, verify_export};
use chartgate::audit::sealer::{SealError, Sealer, SealerOptions};
use chartgate::audit::source::{Live, SourceError};
use chartgate::audit::verify::{FaultKind, verify};
use chartgate::audit::{Actor, care, task};
use chartgate::db::{Db, DbError, Scope};
use chartgate::ids::OrganizationId;
use chartgate::objects::Objects;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition().await {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_sealed_once_whoever_commits_late_and_however_many_seal() {
    let lab = Lab::new().await;
    let organization = OrganizationId::new();
    let writing = Arc::new(AtomicUsize::new(6));
    let mut tasks = Vec::new();
    for writer in 0..6u32 {
        let (options, writing) = (lab.database.options(), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            let mut connection = PgConnection::connect_with(&options).await.unwrap();
            for round in 0..25u32 {
                let mut transaction = connection.begin().await.unwrap();
                for _ in 0..=((round + writer) % 3) {
                    sqlx::query("insert into audit_records (organization_id, at, event, action, actor) values ($1, now(), 'job.accepted', 'C', 'key:1')")
                        .bind(organization)
                        .execute(&mut *transaction)
                        .await
                        .unwrap();
                    // Some stay open while others begin and end: their numbers are lower than what is committed meanwhile.
                    let patience = if round % 5 == 0 { 60 } else { u64::from(writer) };
                    tokio::time::sleep(Duration::from_millis(patience)).await;
                }
                if round % 7 == 3 { transaction.rollback().await.unwrap() } else { transaction.commit().await.unwrap() }
            }
            writing.fetch_sub(1, Ordering::Relaxed);
        }));
    }
    let beaten = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let (mut sealer, writing, beaten) = (lab.sealer(), Arc::clone(&writing), Arc::clone(&beaten));
        tasks.push(tokio::spawn(async move {
            while writing.load(Ordering::Relaxed) > 0 {
                match sealer.seal_batch().await {
                    Ok(_) => {}
                    Err(SealError::Db(DbError::Conflict(_))) => {
                        beaten.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let records = lab.count("select count(*) from audit_records").await;
    assert!(records > 150);
    lab.checkpoint().await;
    assert!(beaten.load(Ordering::Relaxed) > 0, "the sealers never met");
    let disorder = "select count(*) from (
        select id, lag((xid::text::bigint, id)) over (order by l.batch, u.place) > (xid::text::bigint, id) wrong
        from audit_leaves l, unnest(l.record_ids) with ordinality u (record, place), audit_records r where r.id = u.record) x
      where wrong";
    let sealed = "select count(*) from audit_leaves l, unnest(l.record_ids) u (id)";
    let distinct = "select count(distinct u.id) from audit_leaves l, unnest(l.record_ids) u (id)";
    assert_eq!((lab.count(sealed).await, lab.count(distinct).await, lab.count(disorder).await), (records, records, 0));
    assert!(lab.count("select count(*) from audit_leaves").await > 10, "more than one batch");
    let report = lab.verify().await;
    assert!(report.ok && report.trusted, "{report:#?}");
    assert_eq!((i64::try_from(report.records).unwrap(), report.unsealed.records), (records, 0));
}

#[tokio::test]
async fn an_open_transaction_holds_the_seal_and_its_records_are_told_as_unsealed() {
    let lab = Lab::new().await;
    let organization = OrganizationId::new();
    append(&lab.db, organization, 3).await;
    lab.checkpoint().await;
    let mut late = PgConnection::connect_with(&lab.database.options()).await.unwrap();
    let mut open = late.begin().await.unwrap();
    let insert = "insert into audit_records (organization_id, at, event, action, actor) values ($1, now(), 'job.accepted', 'C', 'key:1')";
    sqlx::query(insert).bind(organization).execute(&mut *open).await.unwrap();
    append(&lab.db, organization, 5).await;
    let mut sealer = lab.sealer();
    let batch = sealer.seal_batch().await.unwrap();
    assert_eq!((batch.records, batch.caught_up), (0, true), "nothing above the open transaction");
    let report = lab.verify().await;
    assert!(report.ok, "{report:#?}");
    assert_eq!((report.records, report.unsealed.records), (3, 5));
    assert!(report.unsealed.oldest.is_some());
    open.commit().await.unwrap();
    lab.checkpoint().await;
    let report = lab.verify().await;
    assert_eq!((report.ok, report.records, report.unsealed.records), (true, 9, 0), "{report:#?}");
}

#[tokio::test]
async fn the_task_seals_signs_and_publishes_and_a_second_one_stands_by() {
    let lab = Lab::new().await;
    let stop = CancellationToken::new();
    let options = SealerOptions { checkpoint_every: Duration::from_millis(100), ..lab.options() };
    let run = |options: SealerOptions| {
        tokio::spawn(task::run(lab.db.clone(), lab.objects.objects.clone(), options, stop.clone()))
    };
    let tasks = [run(options.clone()), run(options)];
    lab.append(OrganizationId::new(), 30).await;
    until("all is proven", async || lab.verify_when_keyed().await.is_some_and(|report| report.records == 30)).await;
    until("its state is told", async || {
        lab.count(
            "select count(*) from audit_sealer where state = 'sealing' and unpublished = 0 and last_record_id >= 30",
        )
        .await
            == 1
    })
    .await;
    let leaders = "select count(*) from pg_locks where locktype = 'advisory' and granted
                     and (classid::bigint << 32 | objid::bigint) = hashtextextended('chartgate.audit.sealer', 0)
                     and database = (select oid from pg_database where datname = current_database())";
    assert_eq!(lab.count(leaders).await, 1, "one leads");
    // Its connection is cut: it, or the other one, takes the lead again.
    lab.run(format!("select pg_terminate_backend(pid) from ({}) x", leaders.replace("count(*)", "pid"))).await;
    lab.append(OrganizationId::new(), 12).await;
    until("the rest is proven", async || lab.verify().await.records == 42).await;
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    let report = lab.verify().await;
    assert!(report.ok, "{report:#?}");
}

impl Lab {
    async fn verify_when_keyed(&self) -> Option<chartgate::audit::verify::Report> {
        if self.key_file().exists() { Some(self.verify().await) } else { None }
    }

    /// A bucket that is not there.
    pub fn absent(&self) -> Objects {
        let options = chartgate::objects::ObjectsOptions {
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            timeout: Duration::from_millis(200),
            ..self.objects.client_options()
        };
        Objects::connect(&options)
    }
}

#[tokio::test]
async fn while_the_bucket_is_away_records_are_sealed_and_signed_and_published_later() {
    let lab = Lab::new().await;
    let organization = OrganizationId::new();
    let mut away = lab.sealer_to(lab.absent());
    for _ in 0..3 {
        lab.append(organization, 10).await;
        lab.seal_with(&mut away).await;
        assert!(away.checkpoint().await.unwrap().is_some());
        let refused = away.publish().await.unwrap_err();
        assert_eq!(refused.state(), "object_store_unavailable");
    }
    let unread = verify(&mut Live::new(lab.db.clone(), lab.absent(), None), &[]).await.unwrap_err();
    assert!(matches!(unread, SourceError::Objects(_)), "nothing is said without the bucket: {unread:?}");
    assert_eq!(lab.sealer().publish().await.unwrap(), 0);
    assert_eq!(lab.sealer().publish().await.unwrap(), 0, "again: the same");
    assert_eq!(lab.count("select count(*) from audit_publications").await, 4, "three checkpoints and the key");
    let report = lab.verify().await;
    assert_eq!((report.ok, report.records, report.newest_object), (true, 30, 3), "{report:#?}");
}

#[tokio::test]
async fn a_log_that_has_a_key_never_gets_another_one_by_itself() {
    let lab = Lab::new().await;
    lab.append(OrganizationId::new(), 5).await;
    lab.checkpoint().await;
    let kept = lab.directory.path().join("kept.pem");
    std::fs::rename(lab.key_file(), &kept).unwrap();
    lab.append(OrganizationId::new(), 5).await;
    lab.seal().await;
    let refused = lab.sealer().checkpoint().await.unwrap_err();
    assert_eq!(refused.state(), "key_missing");
    assert!(!lab.key_file().exists());
    // Another log's key is no key of this one.
    chartgate::audit::keys::SigningKey::create(&lab.key_file()).unwrap();
    assert_eq!(lab.sealer().checkpoint().await.unwrap_err().state(), "key_missing");
    std::fs::rename(&kept, lab.key_file()).unwrap();
    lab.checkpoint().await;
    assert!(lab.verify().await.ok);
}

#[tokio::test]
async fn a_rotated_key_signs_from_then_on_and_trust_in_either_key_reaches_all() {
    let lab = Lab::new().await;
    let organization = OrganizationId::new();
    lab.append(organization, 5).await;
    lab.checkpoint().await;
    let first = lab.anchors().await;
    let old = std::fs::read(lab.key_file()).unwrap();
    // Twice without a checkpoint in between, too.
    for _ in 0..2 {
        care::rotate_key(&lab.db, &lab.key_file(), Actor::internal("cli")).await.unwrap();
    }
    lab.append(organization, 5).await;
    lab.checkpoint().await;
    assert_eq!(
        lab.count("select count(*) from audit_records where event = 'audit.key_rotated' and actor = 'cli'").await,
        2
    );
    for anchors in [first.clone(), lab.anchors().await] {
        let report = verify(&mut lab.live(), &anchors).await.unwrap();
        assert!(report.ok && report.trusted, "{report:#?}");
        assert_eq!((report.keys.len(), report.records), (3, 12));
        let (export, _) = lab.export().await;
        assert!(verify_export(&export, &anchors).await.unwrap().ok);
    }
    // A rotation that broke off between its statement and the file.
    let current = std::fs::read(lab.key_file()).unwrap();
    care::rotate_key(&lab.db, &lab.key_file(), Actor::internal("cli")).await.unwrap();
    let next = chartgate::audit::keys::next_file(&lab.key_file());
    std::fs::rename(lab.key_file(), &next).unwrap();
    write_private(&lab, &current);
    lab.append(organization, 5).await;
    lab.checkpoint().await;
    assert!(!next.exists() && lab.verify().await.ok);
    // The old key is of no use any more.
    write_private(&lab, &old);
    lab.append(organization, 5).await;
    lab.seal().await;
    assert_eq!(lab.sealer().checkpoint().await.unwrap_err().state(), "key_missing");
}

fn write_private(lab: &Lab, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(lab.key_file(), bytes).unwrap();
    std::fs::set_permissions(lab.key_file(), std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn after_a_restore_nothing_is_signed_until_somebody_says_so_and_that_is_told_for_ever() {
    let lab = Lab::new().await;
    let organization = OrganizationId::new();
    lab.append(organization, 10).await;
    lab.checkpoint().await;
    // The backup: a copy of the database as it is now.
    lab.db.pool().close().await;
    let backup = format!("{}_backup", lab.database.name);
    let mut admin = PgConnection::connect_with(&lab.database.options().database("postgres")).await.unwrap();
    let copy = format!("create database {backup} template {}", lab.database.name);
    sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut admin).await.unwrap();
    let before = Lab { db: Db::connect(lab.database.options(), 4), ..lab };
    for _ in 0..3 {
        before.append(organization, 10).await;
        before.checkpoint().await;
    }
    assert!(before.verify().await.ok);
    let lost = before.count("select min(id) from audit_records where id > 10").await;

    let restored = Db::connect(before.database.options().database(&backup), 4);
    let anchors = before.anchors().await;
    let objects = before.objects.objects.clone();
    let verified = async || verify(&mut Live::new(restored.clone(), objects.clone(), None), &anchors).await.unwrap();
    let report = verified().await;
    assert!(!report.ok);
    assert_eq!(report.first_bad_record, Some(lost), "{report:#?}");
    let mut sealer = Sealer::new(restored.clone(), objects.clone(), before.options());
    append(&restored, organization, 4).await;
    until("sealed", async || sealer.seal_batch().await.unwrap().records > 0).await;
    assert_eq!(sealer.checkpoint().await.unwrap_err().state(), "forked");
    let number = care::continue_log(&mut sealer, &objects, Actor::internal("cli"), "the disk failed").await.unwrap();
    assert_eq!(number, 5);
    let report = verified().await;
    assert!(report.ok, "{report:#?}");
    let given_up: Vec<(i64, i64, i64)> = report.given_up.iter().map(|one| (one.first, one.last, one.by)).collect();
    assert_eq!((given_up, report.records), (vec![(2, 4, 5)], 15));
    append(&restored, organization, 4).await;
    until("sealed", async || sealer.seal_batch().await.unwrap().records > 0).await;
    assert_eq!(sealer.checkpoint().await.unwrap(), Some(6));
    sealer.publish().await.unwrap();
    let report = verified().await;
    assert_eq!((report.ok, report.records, report.given_up.len()), (true, 19, 1), "{report:#?}");
    let nothing = care::continue_log(&mut sealer, &objects, Actor::internal("cli"), "again").await.unwrap_err();
    assert_eq!(nothing.state(), "nothing_to_continue");
    restored.pool().close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("drop database {backup} with (force)"))).execute(&mut admin).await.unwrap();
}

#[tokio::test]
async fn transactions_that_are_numbered_below_sealed_ones_stop_the_sealer() {
    let lab = Lab::new().await;
    lab.append(OrganizationId::new(), 5).await;
    lab.checkpoint().await;
    // As after pg_restore into a new cluster, whose counter is low.
    lab.run("update audit_leaves set until_xid = until_xid + 1000000000").await;
    let refused = lab.sealer().seal_batch().await.unwrap_err();
    assert_eq!(refused.state(), "transactions_went_back");
}

#[tokio::test]
async fn who_works_as_the_program_can_neither_date_a_record_back_nor_forge_a_checkpoint() {
    let lab = Lab::new().await;
    let organization = OrganizationId::new();
    lab.append(organization, 5).await;
    lab.checkpoint().await;
    for statement in [
        format!(
            "insert into audit_records (organization_id, at, event, action, actor, xid) values ('{}', now(), 'x.y', 'C', 'a', '1')",
            organization.0
        ),
        format!(
            "insert into audit_records (organization_id, at, event, action, actor, id) overriding system value values ('{}', now(), 'x.y', 'C', 'a', 1)",
            organization.0
        ),
        "update audit_sealer set single = true; delete from audit_sealer".to_owned(),
        "delete from audit_publications".to_owned(),
        "update audit_log set id = gen_random_uuid()".to_owned(),
    ] {
        let refused = lab
            .db
            .unit::<(), DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
                    Ok(())
                })
            })
            .await
            .unwrap_err();
        assert!(matches!(&refused, DbError::Refused { sqlstate, .. } if sqlstate == "42501"), "{refused:?}");
    }
    // The time that a record shows is its writer's word; its place is not.
    lab.run(format!(
        "set session_replication_role = origin; set role chartgate_app; set app.organization = '{{{}}}';
         insert into audit_records (organization_id, at, event, action, actor) values ('{}', '2001-01-01', 'job.accepted', 'C', 'a')",
        organization.0, organization.0
    ))
    .await;
    lab.checkpoint().await;
    let last = "select count(*) from audit_records where at < '2002-01-01' and id = (select record_ids[cardinality(record_ids)]
                  from audit_leaves order by batch desc limit 1)";
    assert_eq!(lab.count(last).await, 1);
    // It may insert checkpoints, which are then signed by nobody.
    let copied = "insert into audit_checkpoints select checkpoint + 1, tree_size, last_batch, peaks, note, at from audit_checkpoints
                  order by checkpoint desc limit 1";
    lab.run(copied).await;
    let report = lab.verify().await;
    assert!(!report.ok);
    assert_eq!(report.faults[0].kind, FaultKind::CheckpointInvalid);
    assert_eq!(lab.sealer().checkpoint().await.unwrap_err().state(), "tampered");
}
