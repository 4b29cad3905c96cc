//! How long it takes to seal and to verify many records. Small here; the design's size:
//! `CHARTGATE_AUDIT_RECORDS=1000000 cargo test --release --test it audit::scale -- --nocapture`

use super::{Lab, verify_export};
use chartgate::audit::verify::verify;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_records_are_verified_within_a_minute() {
    let records = std::env::var("CHARTGATE_AUDIT_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30_000u32);
    let lab = Lab::new().await;
    // As the engine writes them: 64 jobs' steps a transaction, of a hundred organizations.
    let mut filler = lab.superuser().await;
    for first in (0..records).step_by(64) {
        sqlx::query(
            "insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, step, program_version, detail)
             select md5((g % 100)::text)::uuid, chartgate_now(), 'step.succeeded', 'E', 'worker:wrk_01h455vb4pex5vsknk084sn02q', 'internal',
                    md5(g::text)::uuid, 'extract_findings', '0.1.0', jsonb_build_object('attempt', 1, 'findings', g % 50)
             from generate_series($1::int, $2::int - 1) g",
        )
        .bind(i32::try_from(first).unwrap())
        .bind(i32::try_from((first + 64).min(records)).unwrap())
        .execute(&mut filler)
        .await
        .unwrap();
    }
    // Autovacuum is off in the tests' cluster.
    lab.run("select brin_summarize_new_values('audit_records_by_position')").await;
    let mut sealer = lab.sealer();
    let started = Instant::now();
    let mut done = 0;
    while done < records as usize {
        done += sealer.seal_batch().await.unwrap().records;
    }
    let sealing = started.elapsed();
    let started = Instant::now();
    while sealer.checkpoint().await.unwrap().is_some() {}
    sealer.publish().await.unwrap();
    let signing = started.elapsed();
    let started = Instant::now();
    let report = verify(&mut lab.live(), &lab.anchors().await).await.unwrap();
    let verifying = started.elapsed();
    assert!(report.ok, "{:#?}", report.faults);
    assert_eq!(report.records, u64::from(records));
    let started = Instant::now();
    let (export, _) = lab.export().await;
    let exporting = started.elapsed();
    let started = Instant::now();
    assert!(verify_export(&export, &lab.anchors().await).await.unwrap().ok);
    let offline = started.elapsed();
    println!(
        "{records} records: sealed in {sealing:.2?}, signed and published in {signing:.2?}, verified in {verifying:.2?}, exported in {exporting:.2?} ({} MB), verified offline in {offline:.2?}",
        export.len() / 1_000_000
    );
    let per_million = verifying.as_secs_f64() * 1e6 / f64::from(records);
    assert!(per_million < 60.0 || cfg!(debug_assertions), "{per_million:.0} s a million");
}
