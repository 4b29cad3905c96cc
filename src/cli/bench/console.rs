//! `bench console`: what every page of the console costs with millions of jobs behind it, beside a bare round trip to the
//! database and `/health/ready`.

use super::Prepared;
use super::intake::quantile;
use crate::app::App;
use crate::auth::store::{self, KeyGrant};
use crate::auth::{NewKey, Role};
use crate::config::Config;
use crate::console;
use crate::db::{DbError, Scope};
use crate::engine::figures::Counter;
use crate::http;
use crate::ids::{JobId, OperationId, OrganizationId, ReviewId};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Options of `bench console`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Jobs in the database: nine in ten succeeded, one in ten failed in thirty ways, a few thousand live.
    #[arg(long, default_value_t = 2_000_000)]
    pub jobs: u32,
    /// Organizations that they belong to.
    #[arg(long, default_value_t = 20)]
    pub organizations: u32,
    /// Times that each page is asked for.
    #[arg(long, default_value_t = 30)]
    pub repeats: u32,
    /// A page that takes longer (p95, milliseconds) is a failure.
    #[arg(long)]
    pub limit_ms: Option<f64>,
}

/// Run it, and answer the figures.
///
/// # Errors
/// What kept it from running; a page that does not answer 200, or is too slow.
pub async fn run(prepared: &Prepared, config: &Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let mut admin = PgConnection::connect_with(&prepared.options).await?;
    let app = App::build(config.clone(), prepared.options.clone(), Prepared::objects()).await?;
    let started = Instant::now();
    fill(&mut admin, arguments).await?;
    let filled_seconds = started.elapsed().as_secs_f64();
    let mut counter = Counter::new(app.db.clone());
    while counter.round().await? {}
    let figures = measure(&app, &mut admin, arguments).await?;
    Ok(json!({
        "bench": "console",
        "jobs": arguments.jobs,
        "organizations": arguments.organizations,
        "filled_seconds": filled_seconds,
        "figures": figures,
    }))
}

/// Ask for every page, and answer p50 and p95 of each.
///
/// # Errors
/// As [`run`].
pub async fn measure(app: &Arc<App>, admin: &mut PgConnection, arguments: &Arguments) -> anyhow::Result<Value> {
    let (one, some): (OrganizationId, i64) = sqlx::query_as(
        "select organization_id, count(*) from jobs group by organization_id order by organization_id limit 1",
    )
    .fetch_one(&mut *admin)
    .await?;
    ensure!(some > 0, "there are no jobs to look at");
    let (platform, own) = keys(app, one).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let server = tokio::spawn(http::server::serve(listener, None, Arc::clone(app), console::routes(), stop.clone()));
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let visitors = [log_in(&client, &base, &platform).await?, log_in(&client, &base, &own).await?];

    let mut pages = BTreeMap::new();
    let mut slow = Vec::new();
    for (route, path) in paths(admin, one).await? {
        for (who, cookie) in ["platform", "admin"].iter().zip(&visitors) {
            let mut times = Vec::new();
            for _ in 0..arguments.repeats {
                let begun = Instant::now();
                let response = client.get(format!("{base}{path}")).header("cookie", cookie).send().await?;
                let status = response.status();
                let body = response.bytes().await?;
                // Some pages are an organization's own; that must be said quickly, too.
                let is_fine =
                    status.is_success() || status.is_redirection() || (*who == "platform" && status.is_client_error());
                ensure!(is_fine, "{path} ({who}): {status} {}", String::from_utf8_lossy(&body));
                times.push(u64::try_from(begun.elapsed().as_micros())?);
            }
            let (half, most) = (quantile(&times, 0.5), quantile(&times, 0.95));
            if arguments.limit_ms.is_some_and(|limit| most > limit) {
                slow.push(format!("{path} ({who}): {most:.0} ms"));
            }
            pages.insert(format!("{route} ({who})"), json!({ "p50_ms": half, "p95_ms": most }));
        }
    }
    let round_trip = bare(app, arguments.repeats).await?;
    let ready = ready(&client, &base, arguments.repeats).await?;
    stop.cancel();
    let _ = server.await;
    ensure!(slow.is_empty(), "too slow: {}", slow.join(", "));
    let worst = pages.values().filter_map(|page| page["p95_ms"].as_f64()).fold(0.0, f64::max);
    Ok(json!({
        "yardstick": { "select_1_p95_ms": round_trip, "health_ready_p95_ms": ready },
        "worst_page_p95_ms": worst,
        "pages": pages,
    }))
}

/// A key of each role.
async fn keys(app: &App, organization: OrganizationId) -> anyhow::Result<(String, String)> {
    let (platform, own) = (NewKey::generate(), NewKey::generate());
    let texts = (platform.key.clone(), own.key.clone());
    app.db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                for (key, organization, role) in
                    [(platform, None, Role::Platform), (own, Some(organization), Role::Admin)]
                {
                    let (name, source) = ("bench console".to_owned(), "default".to_owned());
                    let grant = KeyGrant { organization, role, name, source, expires_at: None };
                    store::insert_key(connection, &key, &grant).await?;
                }
                Ok(())
            })
        })
        .await?;
    Ok(texts)
}

async fn log_in(client: &reqwest::Client, base: &str, key: &str) -> anyhow::Result<String> {
    let body = url::form_urlencoded::Serializer::new(String::new()).append_pair("key", key).finish();
    let request = client.post(format!("{base}/admin/login")).header("origin", base).body(body);
    let response = request.send().await?;
    let cookie = response.headers().get("set-cookie").context("the key logs in")?.to_str()?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

/// Every page, with ids that exist where there are some, and the filters that cost most.
async fn paths(admin: &mut PgConnection, organization: OrganizationId) -> anyhow::Result<Vec<(String, String)>> {
    let job: Option<JobId> =
        sqlx::query_scalar("select id from jobs where organization_id = $1 and status = 'failed' order by id limit 1")
            .bind(organization)
            .fetch_optional(&mut *admin)
            .await?;
    let operation: Option<OperationId> =
        sqlx::query_scalar("select id from operations limit 1").fetch_optional(&mut *admin).await?;
    let review: Option<ReviewId> =
        sqlx::query_scalar("select id from reviews limit 1").fetch_optional(&mut *admin).await?;
    let mut paths = Vec::new();
    // The stream does not end, a file is no page, an export is a file of many pages.
    let pages = console::ROUTES.iter().filter(|(method, path)| {
        let is_none = ["/admin/live", "/admin/assets/{file}", "/admin/jobs/export"].contains(path);
        *method == "GET" && !is_none && !path.contains("{callback}")
    });
    for (_, route) in pages {
        let id = match *route {
            route if route.starts_with("/admin/jobs/") => job.map(|id| id.to_string()),
            route if route.starts_with("/admin/operations/") => operation.map(|id| id.to_string()),
            route if route.starts_with("/admin/reviews/") => review.map(|id| id.to_string()),
            route if route.starts_with("/admin/workflows/") => Some("fhir-bundle".to_owned()),
            _ => Some(organization.to_string()),
        };
        let Some(id) = id else { continue };
        if *route == "/admin/operations/new" {
            paths.push(((*route).to_owned(), "/admin/operations/new?kind=retry&status=failed".to_owned()));
            continue;
        }
        let parts = route.split('/').map(|part| if part.starts_with('{') { id.as_str() } else { part });
        paths.push(((*route).to_owned(), parts.collect::<Vec<_>>().join("/")));
    }
    for path in [
        "/admin/overview?range=24h",
        "/admin/overview?range=14d",
        "/admin/jobs?status=failed",
        "/admin/jobs?status=failed&code=bench_7",
        "/admin/jobs?status=running",
        "/admin/jobs?status=succeeded&workflow=athena-event",
        "/admin/jobs?workflow=bulk-upload",
        "/admin/audit?event=job.failed",
    ] {
        paths.push((path.to_owned(), path.to_owned()));
    }
    Ok(paths)
}

/// p95 of a round trip to the database.
async fn bare(app: &App, repeats: u32) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..repeats {
        let begun = Instant::now();
        app.db.ping().await?;
        times.push(u64::try_from(begun.elapsed().as_micros())?);
    }
    Ok(quantile(&times, 0.95))
}

/// p95 of `/health/ready`, whatever it says.
async fn ready(client: &reqwest::Client, base: &str, repeats: u32) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..repeats {
        let begun = Instant::now();
        client.get(format!("{base}/health/ready")).send().await?.bytes().await?;
        times.push(u64::try_from(begun.elapsed().as_micros())?);
    }
    Ok(quantile(&times, 0.95))
}

/// Jobs of two weeks with their steps, audit records and figures; as the owner, past the policies.
///
/// # Errors
/// The database's.
pub async fn fill(admin: &mut PgConnection, arguments: &Arguments) -> anyhow::Result<()> {
    sqlx::query("insert into organizations (id, name) select gen_random_uuid(), 'bench-' || n from generate_series(1, $1) n on conflict do nothing")
        .bind(i32::try_from(arguments.organizations)?)
        .execute(&mut *admin)
        .await?;
    let live = (arguments.jobs / 500).clamp(10, 4_000);
    for statement in FILL {
        sqlx::query(*statement)
            .bind(i32::try_from(arguments.jobs)?)
            .bind(i32::try_from(live)?)
            .execute(&mut *admin)
            .await
            .with_context(|| format!("filling: {}", statement.lines().next().unwrap_or_default()))?;
    }
    for statement in [
        "vacuum analyze jobs",
        "vacuum analyze job_steps",
        "vacuum analyze audit_records",
        "vacuum analyze queue",
        "vacuum analyze job_figures",
        "checkpoint",
    ] {
        sqlx::raw_sql(statement).execute(&mut *admin).await?;
    }
    Ok(())
}

/// `$1` jobs that have ended, `$2` live ones.
const FILL: &[&str] = &[
    "insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, submitted_by, created_at, updated_at,
                       finished_at, error_step, error_code, error_class, error_message, payload_sha256, size_bytes, content_type)
     select o, (lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
       case g % 3 when 0 then 'fhir-bundle' else 'athena-event' end, 1, case g % 3 when 0 then 'webhook' else 'athena' end,
       case when g % 10 = 0 then 'failed' when g % 10 < 3 then 'succeeded_with_issues' else 'succeeded' end,
       nextval('job_seq'), 'bench', moment, moment, moment + g % 900 * interval '10 milliseconds',
       case when g % 10 = 0 then g / 10 % 3 end, case when g % 10 = 0 then 'bench_' || g / 10 % 10 end,
       case when g % 10 = 0 then (array['transient', 'sender', 'ours'])[g / 10 % 3 + 1] end, case when g % 10 = 0 then 'A sentence.' end,
       sha256(g::text::bytea), 2048, 'application/json'
     from (
       select g, chartgate_now() - interval '14 days' * (1 - g::float8 / $1) - interval '1 minute' moment,
         (array(select id from organizations where name like 'bench-%' order by id))[1 + g % (select count(*)::int from organizations where name like 'bench-%')] o
       from generate_series(1, $1) g
       where $2 > 0) x",
    "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, started_at, finished_at, error_code, error_class)
     select organization_id, id, 1, s, 'step_' || s, case when s = error_step then 'failed' when s > error_step then 'skipped' else 'succeeded' end, 1,
       created_at, finished_at, case when s = error_step then error_code end, case when s = error_step then error_class end
     from jobs, generate_series(0, 4) s
     where submitted_by = 'bench' and finished_at is not null and $1 > 0 and $2 > 0
       -- Steps of one in four: a page reads those of one job.
       and seq % 4 = 0",
    "insert into audit_records (organization_id, at, event, action, actor, job_id)
     select organization_id, created_at, 'job.accepted', 'C', 'bench', id from jobs where submitted_by = 'bench' and $1 > 0 and $2 > 0
     union all
     select organization_id, finished_at, 'job.failed', 'E', 'bench', id from jobs where submitted_by = 'bench' and status = 'failed'",
    // What the counter would have made of it in these two weeks.
    "with counts as (
       select organization_id, workflow, created_at, status,
         case when created_at > chartgate_now() - interval '2 hours' then 60 when created_at > chartgate_now() - interval '26 hours' then 600 else 3600 end span
       from jobs where submitted_by = 'bench' and $1 > 0 and $2 > 0
     ), doubled as (
       select organization_id, workflow, created_at, status, span from counts
       union all
       select '00000000-0000-0000-0000-000000000000', workflow, created_at, status, span from counts
     )
     insert into job_figures
     select organization_id, span, date_bin(make_interval(secs => span), created_at, '2000-01-01 00:00:00Z'), workflow, count(*), 0,
       count(*) filter (where status = 'succeeded'), count(*) filter (where status = 'succeeded_with_issues'), count(*) filter (where status = 'failed'),
       0, 0, array_fill(count(*) / 25, array[25]), array_fill(count(*) / 25, array[25])
     from doubled
     group by 1, 2, 3, 4",
    "update figures_position set until_xid = audit_position(pg_snapshot_xmin(pg_current_snapshot())) - 1 where $1 > 0 and $2 > 0",
    "with live as (
       insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, submitted_by, created_at, updated_at)
       select (array(select id from organizations where name like 'bench-%' order by id))[1 + g % (select count(*)::int from organizations where name like 'bench-%')],
         (lpad(to_hex((extract(epoch from chartgate_now()) * 1000)::bigint), 12, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
         'fhir-bundle', 1, 'webhook', 'queued', nextval('job_seq'), 'bench-live', chartgate_now(), chartgate_now()
       from generate_series(1, $2) g
       where $1 > 0
       returning organization_id, id, seq, created_at
     )
     insert into queue (organization_id, seq, job_id, workflow, workflow_version, lane, state, run_at, enqueued_at)
     select organization_id, seq, id, 'fhir-bundle', 1, case when seq % 10 = 0 then seq end,
       case when seq % 10 = 0 then 'delayed' else 'ready' end, case when seq % 10 = 0 then created_at + interval '1 hour' end, created_at
     from live",
];
