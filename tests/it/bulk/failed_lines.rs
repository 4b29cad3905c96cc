//! `retry` from `failed_lines` through the real handlers. What can be mended between two rounds is the program: a release
//! that refuses too much, and the next one that does not. (The bytes of an upload cannot: what the sender mends is another
//! upload.) The first release here is the real one, made to refuse more.

use super::engine::take_up;
use super::{observation_line, patient_line};
use crate::support::app::TestApp;
use chartgate::db::DbError;
use chartgate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use chartgate::ingest::steps::handlers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Refuses these good lines, too.
const TOO_STRICT: [(i32, i64); 3] = [(1, 2), (2, 5), (2, 6)];

/// The release before: `bulk.validate`, and more lines are left out.
struct Stricter(Arc<dyn StepHandler>);

#[async_trait::async_trait]
impl StepHandler for Stricter {
    async fn open(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        self.0.open(context).await
    }

    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let mut outcome = self.0.run(context).await?;
        let lines: Vec<i64> =
            TOO_STRICT.iter().filter(|(chunk, _)| *chunk == context.chunk).map(|(_, line)| *line).collect();
        let count = u64::try_from(lines.len()).unwrap();
        for name in ["issues", "errors", "rejected"] {
            outcome.output[name] = json!(outcome.output[name].as_u64().unwrap() + count);
        }
        outcome.output["accepted"] = json!(outcome.output["accepted"].as_u64().unwrap() - count);
        let (effect, organization, job, chunk) =
            (outcome.effect.unwrap(), context.organization, context.job, context.chunk);
        Ok(StepOutcome::with_output(outcome.output).with_effect(move |connection| {
            let (effect, lines) = (Arc::clone(&effect), lines.clone());
            Box::pin(async move {
                effect(connection).await?;
                sqlx::query(
                    "insert into issues (organization_id, job_id, chunk, position, ordinal, severity, code, line, expression, message)
                     select $1, $2, $3, line, 0, 'error', 'value', line, 'Observation', 'Refused by a rule of the release before.'
                     from unnest($4::bigint[]) line",
                )
                .bind(organization)
                .bind(job)
                .bind(chunk)
                .bind(&lines)
                .execute(&mut *connection)
                .await
                .map_err(DbError::from)?;
                sqlx::query(
                    "update chunks set rejected = (select coalesce(array_agg(n order by n), '{}') from unnest(rejected || $4) n)
                     where organization_id = $1 and job_id = $2 and chunk = $3",
                )
                .bind(organization)
                .bind(job)
                .bind(chunk)
                .bind(&lines)
                .execute(connection)
                .await
                .map_err(DbError::from)?;
                Ok(Facts::new())
            })
        }))
    }

    async fn join(&self, context: &StepContext, totals: Facts) -> Result<StepOutcome, StepError> {
        self.0.join(context, totals).await
    }

    fn params(&self) -> &'static [&'static str] {
        self.0.params()
    }
}

/// Three chunks. Of the first, line 2 is refused wrongly; of the second, line 5 (a Patient whom others wait for) and 6, and
/// line 7 is no JSON in any release; the third has no bad line.
fn lines() -> Vec<String> {
    let end = " ".repeat(4 << 20);
    vec![
        patient_line("p1", "1"),
        observation_line("o2", "p1", 62),
        observation_line("o3", "p2", 63),
        observation_line("o4", "p1", 64) + &end,
        patient_line("p2", "2"),
        observation_line("o6", "p2", 66),
        "no json".to_owned(),
        observation_line("o8", "p1", 68) + &end,
        observation_line("o9", "p1", 69),
        observation_line("o10", "p2", 70),
    ]
}

/// Each row of these tables as PostgreSQL stores it: whoever writes it anew, changes it.
async fn rows(app: &TestApp) -> BTreeMap<String, Vec<(String, String)>> {
    let mut found = BTreeMap::new();
    for (table, key) in [
        ("clinical_events", "entry::text"),
        ("findings", "id::text"),
        ("finding_evidence", "finding_id::text || pointer"),
        ("patients", "id::text"),
        ("patient_statements", "event_id::text"),
        ("chunk_steps", "chunk || ' ' || step"),
        ("shown_events", "event_id::text"),
    ] {
        let sql = format!(
            "select {key}, xmin::text from {table} where {} order by 1",
            if table == "chunk_steps" { "chunk > 0" } else { "true" }
        );
        let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut app.owner().await).await.unwrap();
        found.insert(table.to_owned(), rows);
    }
    found
}

/// Audit records of chunks, by step and chunk.
async fn runs(app: &TestApp) -> Vec<(String, i64)> {
    sqlx::query_as(
        "select step || ' ' || (detail->>'chunk'), count(*) from audit_records where event = 'chunk.succeeded' group by 1 order by 1",
    )
    .fetch_all(&mut app.owner().await)
    .await
    .unwrap()
}

async fn left_out(app: &TestApp, job: &str) -> (Vec<u64>, Vec<u64>) {
    let line = |value: &Value| value["line"].as_u64().unwrap();
    let (status, page) = app.get(&app.organization.reader, &format!("/v1/ingestion/jobs/{job}/issues")).await;
    assert_eq!(status, 200, "{page}");
    let issues = page["issues"].as_array().unwrap().iter().map(line).collect();
    let key = format!("outcomes/{}/{job}.ndjson", app.organization.id);
    let file = app.objects.objects.get(&key).await.unwrap();
    let outcomes = std::str::from_utf8(&file).unwrap().lines();
    (issues, outcomes.map(|text| line(&serde_json::from_str(text).unwrap())).collect())
}

async fn linked(app: &TestApp) -> Vec<(i32, String)> {
    sqlx::query_as("select entry, link_status from clinical_events order by entry")
        .fetch_all(&mut app.owner().await)
        .await
        .unwrap()
}

async fn retry_failed_lines(app: &TestApp, job: &str, round: u32) -> Value {
    let retry = json!({"from": "failed_lines", "reason": "the rule is mended"});
    let (status, answer) = app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &retry).await;
    assert_eq!(status, 202, "{answer}");
    let is_done = |view: &Value| view["round"] == round && !view["finishedAt"].is_null();
    app.wait_until(job, "ended again", is_done).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_refuses_less_takes_in_the_failed_lines_and_leaves_the_good_ones_alone() {
    let app = TestApp::start().await;
    let real = handlers(app.app.db.clone(), app.objects.objects.clone());
    let inner = real.into_iter().find(|(name, _)| *name == "bulk.validate").unwrap().1;
    let app = app.rebuilt(vec![("bulk.validate", Arc::new(Stricter(inner)))]).await;
    let workers = app.workers();
    let job = take_up(&app, lines().join("\n").into_bytes()).await;
    let view = app.wait_for(&job, "succeeded_with_issues").await;
    workers.stop().await;
    let totals = |view: &Value| {
        let result = &view["result"];
        ["resources", "findings", "issues"].map(|name| result[name].as_u64().unwrap())
    };
    assert_eq!(
        (totals(&view), left_out(&app, &job).await),
        ([6, 5, 4], (vec![2, 5, 6, 7], vec![2, 5, 6, 7])),
        "{view:#}"
    );
    let pending = |line| (line, "pending".to_owned());
    let is_linked = |line| (line, "linked".to_owned());
    let wanted = [is_linked(1), pending(3), is_linked(4), is_linked(8), is_linked(9), pending(10)];
    assert_eq!(linked(&app).await, wanted, "two wait for the patient who was refused");
    let (before, runs_before) = (rows(&app).await, runs(&app).await);
    assert_eq!(runs_before.len(), 9, "three steps of three chunks: {runs_before:?}");

    // The next release.
    let app = app.rebuilt(Vec::new()).await;
    let workers = app.workers();
    let view = retry_failed_lines(&app, &job, 2).await;
    assert_eq!(view["status"], "succeeded_with_issues", "{view:#}");
    assert_eq!((totals(&view), left_out(&app, &job).await), ([9, 7, 1], (vec![7], vec![7])), "{view:#}");
    assert_eq!(view["resourceCount"], json!({"Observation": 7, "Patient": 2}), "{view:#}");
    assert_eq!(linked(&app).await, [1, 2, 3, 4, 5, 6, 8, 9, 10].map(is_linked));
    // The chunk without a bad line did not run, the others did once more.
    let twice: Vec<(String, i64)> = runs_before
        .iter()
        .map(|(run, count)| (run.clone(), if run.ends_with(" 3") { *count } else { count + 1 }))
        .collect();
    assert_eq!(runs(&app).await, twice);
    let after = rows(&app).await;
    for (table, kept) in &before {
        let kept: Vec<_> = kept
            .iter()
            .filter(|(key, _)| match table.as_str() {
                // Those that waited are linked now; chunks 1 and 2 ran.
                "clinical_events" => !["3", "10"].contains(&key.as_str()),
                "chunk_steps" => key.starts_with("3 "),
                "shown_events" | "patients" => false,
                _ => true,
            })
            .collect();
        for row in kept {
            assert!(after[table].contains(row), "{table}: {row:?} was written again");
        }
    }
    assert_eq!(after["clinical_events"].len(), 9);
    assert_eq!((after["findings"].len(), after["patients"].len()), (7, 2));
    assert_eq!(app.count(crate::clinical::MISCOUNTED).await, 0);

    // Once more: what is no JSON stays none, and nothing else is touched.
    let view = retry_failed_lines(&app, &job, 3).await;
    assert_eq!((totals(&view), left_out(&app, &job).await), ([9, 7, 1], (vec![7], vec![7])), "{view:#}");
    let once_more: Vec<(String, i64)> =
        twice.iter().map(|(run, count)| (run.clone(), if run.ends_with(" 2") { count + 1 } else { *count })).collect();
    assert_eq!(runs(&app).await, once_more, "of the second chunk only, which has the bad line");
    let (mut last, mut after) = (rows(&app).await, after);
    for rows in [&mut last, &mut after] {
        rows.get_mut("chunk_steps").unwrap().retain(|(key, _)| !key.starts_with("2 "));
    }
    assert_eq!(last, after);
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sender_mends_is_another_upload_that_adds_the_mended_lines_only() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let mut lines = lines();
    let job = take_up(&app, lines.join("\n").into_bytes()).await;
    app.wait_for(&job, "succeeded_with_issues").await;
    let before = rows(&app).await;
    // The whole file again, with the bad line mended, and that line alone.
    lines[6] = observation_line("o7", "p2", 67);
    let whole = take_up(&app, lines.join("\n").into_bytes()).await;
    let view = app.wait_for(&whole, "succeeded").await;
    assert_eq!((&view["result"]["resources"], &view["result"]["findings"]), (&json!(10), &json!(8)), "{view:#}");
    let after = rows(&app).await;
    assert_eq!(before["clinical_events"].len() + 1, after["clinical_events"].len());
    for row in &before["findings"] {
        assert!(after["findings"].contains(row), "{row:?} was written again");
    }
    assert_eq!(before["findings"].len() + 1, after["findings"].len());
    let alone = take_up(&app, lines[6].clone().into_bytes()).await;
    app.wait_for(&alone, "succeeded").await;
    let again = rows(&app).await;
    assert_eq!((again["clinical_events"].len(), &again["findings"]), (10, &after["findings"]));
    // The first file's bad line stays its own.
    assert_eq!(left_out(&app, &job).await, (vec![7], vec![7]));
    workers.stop().await;
}
