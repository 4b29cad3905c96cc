//! `GET /admin/workers`: processes, the leases that they hold, and what `doctor` would find stuck.

use super::answer::Refused;
use super::jobs::job_link;
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::app::kept::InFlight;
use crate::audit::store::{SealerStatus, sealer_status};
use crate::db::{DbError, Scope};
use crate::engine::figures_list_store::{self, QueueFigures};
use crate::engine::workers_store::{self, LeaseRow, WorkerRow};
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// Leases that are shown.
const LEASES: i64 = 200;
/// Organizations that are looked at for old work.
const QUEUES: i64 = 1_000;
/// A process that has not reported for so long is away.
const SEEN: Duration = Duration::minutes(1);
/// Ready work should not wait for so long.
const READY: Duration = Duration::minutes(1);
/// The audit log should be sealed up to so many seconds ago.
const SEALED: f64 = 120.0;

struct Facts {
    now: OffsetDateTime,
    workers: Vec<WorkerRow>,
    leases: Vec<LeaseRow>,
    queues: Vec<QueueFigures>,
    versions: Arc<InFlight>,
    sealer: Option<SealerStatus>,
}

/// Something that somebody must mend.
struct Finding {
    what: String,
    remedy: &'static str,
}

/// `GET /admin/workers`
pub(super) async fn list(State(app): State<Arc<App>>, visitor: Visitor) -> Result<Response, Refused> {
    let organization = visitor.organization;
    let queues = app.db.unit::<_, DbError, _>(visitor.scope(), move |connection| {
        Box::pin(async move { figures_list_store::queue_now(connection, organization, QUEUES).await })
    });
    let queues = queues.await?;
    let versions = super::workflows::in_flight(&app, &visitor).await?;
    let facts = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                Ok(Facts {
                    now: crate::audit::store::now(connection).await?,
                    workers: workers_store::list_workers(connection).await?,
                    leases: workers_store::list_leases(connection, organization, LEASES).await?,
                    queues,
                    versions,
                    sealer: sealer_status(connection).await?,
                })
            })
        })
        .await?;
    let findings = findings(&app, &facts).await;
    let live = html! {
        h2 { "What is stuck" }
        (stuck(&findings))
        @if visitor.is_platform() {
            h2 { "Processes" }
            (processes(&facts))
        }
        h2 { "Leases" }
        (leases(&app, &visitor, &facts).await)
    };
    let before = html! {
        p class="muted" { "A worker holds a lease on each job that it runs, and renews it. A lease that runs out is taken back, and the job goes on elsewhere." }
    };
    Ok(Page { section: Section::Workers, title: "Workers".to_owned(), before, live, after: html! {} }.render(&visitor))
}

fn is_seen(facts: &Facts, worker: &WorkerRow) -> bool {
    worker.stopped_at.is_none() && facts.now - worker.last_seen_at < SEEN
}

/// As `doctor` finds them, of what it can see here.
async fn findings(app: &App, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if !facts.workers.iter().any(|worker| is_seen(facts, worker)) {
        found.push(Finding {
            what: "No worker process reported within a minute.".to_owned(),
            remedy: "Start `chartgate serve --role worker`.",
        });
    }
    let expired = facts.leases.iter().filter(|lease| lease.is_expired).count();
    if expired > 0 {
        found.push(Finding {
            what: format!("{expired} lease(s) ran out and were not taken back."),
            remedy: "Start `chartgate serve --role sweeper`.",
        });
    }
    for queue in facts.queues.iter().filter(|queue| queue.status == "active") {
        let Some(waits) = queue.oldest_ready_at.map(|at| facts.now - at).filter(|waits| *waits > READY) else {
            continue;
        };
        found.push(Finding {
            what: format!(
                "The oldest ready job of {} waits for {}.",
                queue.name,
                parts::duration(waits.as_seconds_f64())
            ),
            remedy: "Add workers, or raise the organization's cap.",
        });
    }
    for (workflow, version, jobs) in facts.versions.iter() {
        if app.catalog.resolve(&app.db, workflow, *version).await.is_err() {
            found.push(Finding {
                what: format!("{jobs} open job(s) on {workflow} version {version}, which this program cannot run."),
                remedy: "Bring its handlers back, or retry the jobs on the latest version.",
            });
        }
    }
    let sealing = match &facts.sealer {
        None => Some("No process has sealed the audit log yet.".to_owned()),
        Some(status) if status.unsealed_seconds > SEALED || status.silent_seconds > SEALED => Some(format!(
            "The audit log is sealed up to {} ago only ({}).",
            parts::duration(status.unsealed_seconds),
            status.state
        )),
        Some(_) => None,
    };
    if let Some(what) = sealing {
        let remedy = "Start `chartgate serve --role sweeper` where the signing key is; docs/audit.md says what each state means.";
        found.push(Finding { what, remedy });
    }
    found
}

fn stuck(findings: &[Finding]) -> Markup {
    html! {
        @if findings.is_empty() {
            p { (parts::badge("nothing", Tone::Good)) " Workers report, leases are renewed, and nothing ready waits for long." }
        } @else {
            @for finding in findings {
                div class="card explain bad" { p { strong { (finding.what) } } p { (finding.remedy) } }
            }
        }
    }
}

fn processes(facts: &Facts) -> Markup {
    let rows: Vec<Markup> = facts
        .workers
        .iter()
        .map(|worker| {
            let (word, tone) = match worker.stopped_at {
                Some(_) => ("stopped", Tone::Quiet),
                None if is_seen(facts, worker) => ("working", Tone::Good),
                None => ("silent", Tone::Bad),
            };
            html! {
                tr {
                    th scope="row" class="mono" { (worker.id) }
                    td { (parts::badge(word, tone)) }
                    td { (worker.host) " · " (worker.pid) }
                    td { (worker.roles.join(", ")) }
                    td { (worker.program_version) }
                    td class="number" { (worker.in_flight) }
                    td class="number" { (parts::count(worker.steps_committed)) }
                    td class="number" { (parts::count(worker.stale_commits)) }
                    td class="number" { (parts::count(worker.leases_reaped)) }
                    td { (parts::time(worker.started_at)) }
                    td { (parts::time(worker.last_seen_at)) }
                }
            }
        })
        .collect();
    if rows.is_empty() {
        return parts::nothing("No process was seen during the last day.");
    }
    let head = [
        "Process",
        "State",
        "Host",
        "Roles",
        "Version",
        "In flight",
        "Steps committed",
        "Stale commits refused",
        "Leases taken back",
        "Started",
        "Last seen",
    ];
    parts::table("Worker processes of the last day", &head, &rows)
}

async fn leases(app: &App, visitor: &Visitor, facts: &Facts) -> Markup {
    if facts.leases.is_empty() {
        return parts::nothing("No job runs now.");
    }
    let mut rows = Vec::with_capacity(facts.leases.len());
    for lease in &facts.leases {
        let definition = app.catalog.resolve(&app.db, &lease.workflow, lease.workflow_version).await.ok();
        let index = usize::try_from(lease.step).unwrap_or(usize::MAX);
        let step = definition.and_then(|definition| Some(definition.steps.get(index)?.name.clone()));
        rows.push(html! {
            tr {
                td { (job_link(visitor, lease.job_id)) @if lease.chunk > 0 { " · chunk " (lease.chunk) } }
                td { (lease.workflow) }
                td { (step.unwrap_or_else(|| format!("step {}", lease.step))) }
                td class="number" { (lease.attempts) }
                td { (parts::time_or_dash(lease.claimed_at)) }
                td {
                    (parts::time_or_dash(lease.lease_until))
                    @if lease.is_expired { " " (parts::badge("ran out", Tone::Bad)) }
                }
                td class="mono" { @if let Some(worker) = lease.worker_id { (worker) } @else { "–" } }
            }
        });
    }
    let head = ["Job", "Workflow", "Step", "Attempt", "Since", "Until", "Worker"];
    html! {
        (parts::table("Leases that are held", &head, &rows))
        @if i64::try_from(facts.leases.len()) == Ok(LEASES) { p class="muted" { "Only those that end first are shown." } }
    }
}
