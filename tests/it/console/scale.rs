//! With many jobs behind them the pages stay fast. `chartgate bench console` is the same with two millions.

use crate::support::app::TestApp;
use chartgate::cli::bench::console::{Arguments, fill, measure};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_answers_beside_twenty_thousand_jobs() {
    let jobs = std::env::var("CHARTGATE_CONSOLE_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let app = TestApp::start().await;
    // Generous: other tests run beside this one. The bench is strict.
    let arguments = Arguments { jobs, organizations: 20, repeats: 5, limit_ms: Some(5_000.0) };
    let mut owner = app.owner().await;
    fill(&mut owner, &arguments).await.unwrap();
    let figures = measure(&app.app, &mut owner, &arguments).await.unwrap();
    let pages = figures["pages"].as_object().unwrap();
    println!("{jobs} jobs: {figures:#}");
    assert!(pages.len() > 10 && figures["worst_page_p95_ms"].as_f64().unwrap() > 0.0);
    sqlx::raw_sql("truncate queue").execute(&mut owner).await.unwrap();
}
