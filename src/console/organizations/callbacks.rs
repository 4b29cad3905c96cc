//! `/admin/organizations/{id}/callbacks`: who is told of the ends of jobs, how that goes, and telling again. For the
//! organization's own administrators, as in the API.

use super::super::answer::Refused;
use super::super::form::Form;
use super::super::jobs::{job_link, value_of};
use super::super::page::{Page, Section};
use super::super::parts::{self, Tone};
use super::super::session::Visitor;
use super::{permitted, tabs};
use crate::app::App;
use crate::auth::store::Organization;
use crate::callbacks::messages_store::{self as messages, DeliveryView};
use crate::callbacks::resend::{self, Resend};
use crate::callbacks::store::{self, CallbackView};
use crate::db::{DbError, Scope};
use crate::ids::{CallbackId, DeliveryId, JobId};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use std::sync::Arc;

/// Deliveries of a page.
const PAGE: i64 = 50;

fn missing() -> Refused {
    Refused::NotFound("There is no such callback.")
}

async fn callbacks_of(
    app: &App,
    organization: &Organization,
    only: Option<CallbackId>,
) -> Result<Vec<CallbackView>, DbError> {
    let id = organization.id;
    app.db
        .unit::<_, DbError, _>(Scope::Organization(id), move |connection| Box::pin(store::list(connection, id, only)))
        .await
}

fn health(callback: &CallbackView) -> Markup {
    match (callback.status.as_str(), callback.disabled_reason.as_deref(), callback.failing_since) {
        ("active", _, None) => parts::badge("well", Tone::Good),
        ("active", _, Some(_)) => parts::badge("failing", Tone::Bad),
        (_, Some("gone"), _) => parts::badge("off: the receiver is gone", Tone::Bad),
        (_, Some("failing"), _) => parts::badge("off: failed for too long", Tone::Bad),
        _ => parts::badge("off", Tone::Quiet),
    }
}

fn list_of(words: &[String]) -> String {
    if words.is_empty() { "all".to_owned() } else { words.join(", ") }
}

/// `GET /admin/organizations/{id}/callbacks`
pub(in super::super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let title = format!("{}: callbacks", organization.name);
    if visitor.is_platform() {
        let body = html! {
            (tabs(organization.id, "/callbacks"))
            p { "Callbacks are shown to the organization's own administrators: log in with a key of its role admin." }
        };
        return Ok(Page::fixed(Section::Organizations, title, body).render(&visitor));
    }
    let rows: Vec<Markup> = callbacks_of(&app, &organization, None)
        .await?
        .iter()
        .map(|callback| {
            html! {
                tr {
                    th scope="row" { a class="mono" href={ "/admin/organizations/" (organization.id) "/callbacks/" (callback.callback_id) } { (callback.callback_id) } }
                    td { (health(callback)) }
                    td { (callback.url) }
                    td { (callback.description) }
                    td { (list_of(&callback.events)) }
                    td { (list_of(&callback.workflows)) }
                    td { (parts::time_or_dash(callback.last_delivered_at)) }
                    td { (parts::time_or_dash(callback.failing_since)) }
                }
            }
        })
        .collect();
    let head = ["Callback", "Health", "URL", "For", "Of ends", "Of workflows", "Last delivered", "Failing since"];
    let live = if rows.is_empty() {
        parts::nothing("Nobody is told of the ends of jobs.")
    } else {
        parts::table("Callbacks", &head, &rows)
    };
    let before = tabs(organization.id, "/callbacks");
    Ok(Page { section: Section::Organizations, title, before, live, after: html! {} }.render(&visitor))
}

async fn find(app: &App, organization: &Organization, text: &str) -> Result<CallbackView, Refused> {
    let id: CallbackId = text.parse().map_err(|_| missing())?;
    callbacks_of(app, organization, Some(id)).await?.into_iter().next().ok_or_else(missing)
}

/// The organization, for its own administrators.
async fn own(app: &App, visitor: &Visitor, id: &str) -> Result<Organization, Refused> {
    let organization = permitted(app, visitor, id).await?;
    if visitor.is_platform() {
        return Err(visitor.forbidden("Callbacks are shown to the organization's own administrators."));
    }
    Ok(organization)
}

/// `GET /admin/organizations/{id}/callbacks/{callback}`: its deliveries, newest first.
pub(in super::super) async fn show(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path((id, callback)): Path<(String, String)>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let organization = own(&app, &visitor, &id).await?;
    let callback = find(&app, &organization, &callback).await?;
    let outcome = value_of(raw.as_deref(), "outcome").filter(|word| ["delivered", "failed"].contains(&word.as_str()));
    let before = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<DeliveryId>()).transpose();
    let before = before.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?;
    let (organization_id, callback_id, wanted) = (organization.id, callback.callback_id, outcome.clone());
    let mut deliveries = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization_id), move |connection| {
            Box::pin(async move {
                messages::deliveries(connection, organization_id, callback_id, wanted.as_deref(), before, PAGE + 1)
                    .await
            })
        })
        .await?;
    let more = deliveries.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    deliveries.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let next = deliveries.last().filter(|_| more).map(|last| last.delivery_id.to_string());
    let path = format!("/admin/organizations/{organization_id}/callbacks/{callback_id}");
    let before = html! {
        (tabs(organization_id, "/callbacks"))
        form class="filter" method="get" action=(path) {
            (parts::choice("Outcome", "outcome", &[("", "all"), ("delivered", "delivered"), ("failed", "failed")], outcome.as_deref().unwrap_or_default()))
            button { "Filter" }
        }
    };
    let live = html! {
        div class="card" {
            (parts::facts(&[
                ("Health", health(&callback)),
                ("URL", html! { (callback.url) }),
                ("For", html! { (callback.description) }),
                ("Of ends", html! { (list_of(&callback.events)) }),
                ("Of workflows", html! { (list_of(&callback.workflows)) }),
                ("Last delivered", parts::time_or_dash(callback.last_delivered_at)),
                ("Failing since", parts::time_or_dash(callback.failing_since)),
                ("The earlier secret signs until", parts::time_or_dash(callback.previous_secret_until)),
            ]))
        }
        h2 { "Deliveries" }
        (table(&visitor, &deliveries))
        (parts::next_page(&path, &[("outcome", outcome.as_deref())], next.as_deref()))
    };
    let after = parts::act(
        "Tell of a job's end again",
        &format!("{path}/resend"),
        Tone::Busy,
        &html! {
            label { span { "Job" } input type="text" name="job" required pattern="job_[0-9a-hjkmnp-tv-z]{26}" autocomplete="off"; }
        },
        "Send again",
    );
    let title = format!("Callback {callback_id}");
    Ok(Page { section: Section::Organizations, title, before, live, after }.render(&visitor))
}

fn table(visitor: &Visitor, deliveries: &[DeliveryView]) -> Markup {
    let rows: Vec<Markup> = deliveries
        .iter()
        .map(|delivery| {
            let tone = if delivery.outcome == "delivered" { Tone::Good } else { Tone::Bad };
            html! {
                tr {
                    td { (parts::time(delivery.at)) }
                    td { (parts::badge(&delivery.outcome, tone)) }
                    td { (delivery.event) }
                    td { @if let Some(job) = delivery.job_id { (job_link(visitor, job)) } @else { "–" } }
                    td class="number" { (delivery.attempt) }
                    td class="number" { @if let Some(status) = delivery.response_status { (status) } @else { "–" } }
                    td { (delivery.error_code.as_deref().unwrap_or("–")) }
                    td class="number" { (delivery.duration_ms) " ms" }
                }
            }
        })
        .collect();
    if rows.is_empty() {
        return parts::nothing("Nothing was sent.");
    }
    parts::table("Deliveries", &["When", "Outcome", "Event", "Job", "Attempt", "Answer", "Error", "Took"], &rows)
}

/// `POST /admin/organizations/{id}/callbacks/{callback}/resend`
pub(in super::super) async fn send_again(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path((id, callback)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Refused> {
    let organization = own(&app, &visitor, &id).await?;
    let callback = find(&app, &organization, &callback).await?.callback_id;
    let reason = form.reason()?;
    let no_job = || Refused::NotFound("There is no such job.");
    let job: JobId = form.need("job")?.parse().map_err(|_| no_job())?;
    let sent = resend::resend(&app.db, organization.id, job, Some(callback), &visitor.actor, Some(&reason)).await?;
    app.wake.signal();
    let note = match sent {
        Resend::NoJob => return Err(no_job()),
        Resend::NoCallback => return Err(missing()),
        Resend::NotEnded => {
            return Err(Refused::Conflict("The job has not ended; there is nothing to tell yet.".to_owned()));
        }
        Resend::Done(messages) if messages.is_empty() => "nothing-resent",
        Resend::Done(_) => "resent",
    };
    let path = format!("/admin/organizations/{}/callbacks/{callback}?note={note}", organization.id);
    Ok(Redirect::to(&path).into_response())
}
