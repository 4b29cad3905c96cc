//! `/admin/jobs/{id}`: one job: what happened, who must act, its course as a picture; retry, cancel, tell its callbacks again.

mod picture;
mod sections;

use super::answer::Refused;
use super::form::Form;
use super::jobs::{self, kept, locate};
use super::operations::{chosen, refused};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::auth::Role;
use crate::callbacks::messages_store::{self, JobMessage};
use crate::callbacks::resend::{Resend, resend};
use crate::db::{DbError, Scope};
use crate::engine::explain::{Explanation, Who};
use crate::engine::jobs::JobView;
use crate::engine::jobs_store::Acted;
use crate::engine::operations::RetryVersion;
use crate::engine::reading::{self, Story};
use crate::engine::search_store::{self, PayloadPlace};
use crate::engine::state::JobStatus;
use crate::ids::{JobId, OrganizationId};
use crate::ingest::issues::{self, IssueCount, IssuePlace, StoredIssue};
use crate::uploads::store::{self as uploads, UploadFacts};
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use std::sync::Arc;

/// Issues that the page shows.
const ISSUES: usize = 50;
/// Issues that are counted by code.
const ISSUES_COUNTED: i64 = 10_000;

/// What the page tells beside the job's course.
struct Beside {
    issues: Vec<StoredIssue>,
    has_more_issues: bool,
    counts: Vec<IssueCount>,
    place: Option<PayloadPlace>,
    upload: Option<UploadFacts>,
    messages: Vec<JobMessage>,
}

fn missing() -> Refused {
    Refused::NotFound("There is no such job.")
}

/// The page.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let (organization, job) = locate(&app, &visitor, &id).await?;
    let story = reading::find_story(&app.db, &app.catalog, organization, job).await?.ok_or_else(missing)?;
    let explanation = reading::find_explanation(&app.db, &app.catalog, organization, job).await?.ok_or_else(missing)?;
    let view = story.view();
    let beside = beside(&app, organization, job, &story).await?;
    let names = jobs::names(&app, &visitor, vec![view.organization_id]).await?;
    let live = html! {
        (explain_card(&explanation))
        section class="card" aria-label="Facts" { (sections::facts(&view, &names, &visitor)) }
        h2 { "Course" }
        (picture::draw(&story, &view, app.clock.now()))
        (sections::course(&story))
        h2 { "Steps" }
        (sections::steps(&view))
        h2 { "Issues" }
        (sections::issues(&view, &beside))
        h2 { "Payload" }
        section class="card" aria-label="Payload" { (sections::payload(&view, &beside, &visitor)) }
        h2 { "Audit records" }
        (sections::records(&story, &visitor))
        @if !beside.messages.is_empty() {
            h2 { "Callbacks" }
            (sections::messages(&beside.messages))
        }
    };
    let page = Page {
        section: Section::Jobs,
        title: format!("Job {job}"),
        before: html! {},
        live,
        after: acts(&visitor, &story, &view),
    };
    Ok(page.render(&visitor))
}

async fn beside(app: &App, organization: OrganizationId, job: JobId, story: &Story) -> Result<Beside, DbError> {
    let sha256 = story.row.payload_sha256.clone();
    let read = app.db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
        Box::pin(async move {
            let (issues, next) = issues::page(connection, organization, job, IssuePlace::START, ISSUES).await?;
            let counts = issues::counts(connection, organization, job, ISSUES_COUNTED).await?;
            let place = match &sha256 {
                Some(sha256) => search_store::payload_place(connection, organization, sha256).await?,
                None => None,
            };
            let upload = uploads::of_job(connection, organization, job).await?;
            let messages = messages_store::of_job(connection, organization, job).await?;
            Ok(Beside { issues, has_more_issues: next.is_some(), counts, place, upload, messages })
        })
    });
    read.await
}

fn explain_card(explanation: &Explanation) -> Markup {
    let (tone, who) = match (explanation.status, explanation.who) {
        (_, Who::Operator) => ("bad", "An operator of Chartgate must act"),
        (_, Who::Sender) => ("warn", "The sender must act"),
        (JobStatus::Succeeded, Who::Nobody) => ("good", "Nobody must act"),
        (_, Who::Nobody) => ("busy", "Nobody must act"),
    };
    html! {
        section class={ "card explain " (tone) } aria-labelledby="explain" {
            h2 id="explain" { "What happened" }
            p { (parts::status(explanation.status)) " " (explanation.happened) }
            p { strong { (who) ". " } (explanation.act) }
            p { strong { "Next: " } (explanation.next) @if let Some(at) = explanation.next_at { " " (parts::time(at)) } }
        }
    }
}

fn acts(visitor: &Visitor, story: &Story, view: &JobView) -> Markup {
    let to = |act: &str| format!("/admin/jobs/{}/{act}", view.job_id);
    let organization = html! {
        @if let Some(organization) = kept(visitor) { input type="hidden" name="organization" value=(organization); }
    };
    let mut begins = vec!["failed_step", "start"];
    if story.row.progress_total.is_some() {
        begins.push("failed_lines");
    }
    begins.extend(view.steps.iter().map(|step| step.name.as_str()));
    let retry = html! {
        (organization)
        label { span { "From" }
            select name="from" { @for begin in begins { option value=(begin) { (super::operations::start::begin_words(begin)) } } }
        }
        (parts::choice("Version", "version", &[("pinned", "as pinned"), ("latest", "latest")], "pinned"))
    };
    html! {
        h2 { "Acts" }
        (parts::act("Retry: open the next round, once it has ended", &to("retry"), Tone::Busy, &retry, "Retry"))
        (parts::act("Cancel, while it has not ended", &to("cancel"), Tone::Bad, &organization, "Cancel the job"))
        @if !visitor.is_platform() && view.source != "callback" {
            (parts::act("Tell its callbacks of its end again", &to("resend"), Tone::Busy, &organization, "Resend"))
        }
    }
}

/// Where the form of an act leads back to.
fn back(visitor: &Visitor, job: JobId, organization: Option<OrganizationId>, note: &str) -> Response {
    let kept = organization.filter(|_| visitor.is_platform()).map(|organization| organization.to_string());
    let query = [("organization", kept.as_deref()), ("note", Some(note))];
    Redirect::to(&parts::link(&format!("/admin/jobs/{job}"), &query, None)).into_response()
}

/// The job of an act: as the page found it.
async fn target(
    app: &App,
    visitor: &Visitor,
    form: &Form,
    id: &str,
) -> Result<(Option<OrganizationId>, OrganizationId, JobId), Refused> {
    let chosen = chosen(visitor, form)?;
    let visitor = Visitor { organization: chosen, ..visitor.clone() };
    let (organization, job) = locate(app, &visitor, id).await?;
    Ok((chosen, organization, job))
}

/// `POST /admin/jobs/{id}/retry`
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    let reason = form.reason()?;
    let (chosen, organization, job) = target(&app, &visitor, &form, &id).await?;
    let version = if form.get("version") == Some("latest") { RetryVersion::Latest } else { RetryVersion::Pinned };
    let from = form.get("from").unwrap_or("failed_step");
    let acted = app.operations().retry_one(organization, job, from, version, &visitor.actor, &reason).await;
    match acted.map_err(refused)? {
        Acted::Done => Ok(back(&visitor, job, chosen, "retried")),
        Acted::Refused => Err(Refused::Conflict("The job has not ended, or somebody else was faster.".to_owned())),
        Acted::Unknown => Err(missing()),
    }
}

/// `POST /admin/jobs/{id}/cancel`
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    let reason = form.reason()?;
    let (chosen, organization, job) = target(&app, &visitor, &form, &id).await?;
    let acted = app.operations().cancel_one(organization, job, &visitor.actor, Some(&reason)).await;
    match acted.map_err(refused)? {
        Acted::Done => Ok(back(&visitor, job, chosen, "cancelled")),
        Acted::Refused => Err(Refused::Conflict("The job has ended and cannot be cancelled.".to_owned())),
        Acted::Unknown => Err(missing()),
    }
}

/// `POST /admin/jobs/{id}/resend`: role admin, as in the API.
pub(super) async fn resend_callbacks(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    let reason = form.reason()?;
    if !visitor.caller.has_one_of(&[Role::Admin]) {
        return Err(visitor.forbidden("Only an administrator of the organization tells its callbacks."));
    }
    let (chosen, organization, job) = target(&app, &visitor, &form, &id).await?;
    match resend(&app.db, organization, job, None, &visitor.actor, Some(&reason)).await? {
        Resend::Done(messages) if messages.is_empty() => {
            Err(Refused::Conflict("No active callback wants to be told of this end.".to_owned()))
        }
        Resend::Done(_) => {
            app.wake.signal();
            Ok(back(&visitor, job, chosen, "resent"))
        }
        Resend::NotEnded => Err(Refused::Conflict("The job has not ended; there is nothing to tell yet.".to_owned())),
        Resend::NoJob | Resend::NoCallback => Err(missing()),
    }
}
