//! `/admin/organizations`: all that the visitor may administer; one with its state, and the acts on it.

pub(super) mod callbacks;
pub(super) mod keys;
pub(super) mod settings;

use super::answer::Refused;
use super::form::Form;
use super::jobs::value_of;
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::app::settings::Settings;
use crate::auth::administration::{self, ActError, By};
use crate::auth::store::{self, Organization};
use crate::db::{DbError, Scope};
use crate::engine::figures_list_store::{self, QueueFigures};
use crate::ids::OrganizationId;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Organizations of a page.
const PAGE: i64 = 50;
/// Queues that are looked at.
const QUEUES: i64 = 10_000;

fn missing() -> Refused {
    Refused::NotFound("There is no such organization.")
}

/// An organization that the visitor may administer. Unknown, foreign and malformed ids are answered alike.
async fn permitted(app: &App, visitor: &Visitor, text: &str) -> Result<Organization, Refused> {
    let id: OrganizationId = text.parse().ok().filter(|id| visitor.may(*id)).ok_or_else(missing)?;
    let found = app.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
        Box::pin(async move { store::find_organization(connection, Some(id), None).await })
    });
    found.await?.ok_or_else(missing)
}

/// Who acts, for the reason that the form gives.
fn by(visitor: &Visitor, form: &Form) -> Result<By, Refused> {
    Ok(By { actor: visitor.actor.clone(), home: visitor.caller.organization, reason: Some(form.reason()?) })
}

fn refused(error: ActError) -> Refused {
    match error {
        ActError::NoOrganization => missing(),
        ActError::NoKey => Refused::NotFound("There is no such key that is still good."),
        ActError::NameTaken => Refused::Conflict("There is an organization of that name.".to_owned()),
        ActError::Invalid(detail) => Refused::Invalid(detail.replace('`', "")),
        ActError::Db(error) => error.into(),
    }
}

fn state(organization: &Organization) -> Markup {
    match organization.status.as_str() {
        "active" => parts::badge("active", Tone::Good),
        other => parts::badge(other, Tone::Warn),
    }
}

fn cap(organization: &Organization) -> String {
    organization.running_max.map_or_else(|| "none".to_owned(), |max| max.to_string())
}

fn rate(settings: &Settings) -> String {
    settings.rate_limit.map_or_else(
        || "as configured for all".to_owned(),
        |rate| match rate.burst {
            Some(burst) => format!("{}/s, {burst} at once", rate.requests_per_second),
            None => format!("{}/s", rate.requests_per_second),
        },
    )
}

async fn queues(app: &App, visitor: &Visitor) -> Result<BTreeMap<OrganizationId, QueueFigures>, DbError> {
    let organization = visitor.organization;
    let read = app.db.unit::<_, DbError, _>(visitor.scope(), move |connection| {
        Box::pin(async move { figures_list_store::queue_now(connection, organization, QUEUES).await })
    });
    Ok(read.await?.into_iter().map(|queue| (queue.organization_id, queue)).collect())
}

/// `GET /admin/organizations`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let words = value_of(raw.as_deref(), "name").filter(|words| !words.contains('\0'));
    let after = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<OrganizationId>()).transpose();
    let after = after.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?;
    let (only, wanted) = (visitor.organization, words.clone());
    let mut found = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            // One more than the page, to know whether there is another.
            Box::pin(
                async move { store::page_organizations(connection, only, wanted.as_deref(), after, PAGE + 1).await },
            )
        })
        .await?;
    let more = found.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    found.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let next = found.last().filter(|_| more).map(|last| last.id.to_string());
    let queues = queues(&app, &visitor).await?;
    let rows: Vec<Markup> = found.iter().map(|organization| row(organization, queues.get(&organization.id))).collect();
    let head = ["Organization", "State", "Ready", "Running", "In backoff", "Behind others", "Cap", "Rate", "Since"];
    let live = html! {
        @if rows.is_empty() { (parts::nothing("There is no such organization.")) } @else {
            (parts::table("Organizations", &head, &rows))
        }
        (parts::next_page("/admin/organizations", &[("name", words.as_deref())], next.as_deref()))
    };
    let before = html! {
        @if visitor.is_platform() {
            form class="filter" method="get" action="/admin/organizations" {
                (parts::field("Name holds", "name", words.as_deref().unwrap_or_default(), "search"))
                button { "Filter" }
            }
        }
    };
    let after = html! {
        @if visitor.is_platform() {
            (parts::act("Create an organization", "/admin/organizations", Tone::Busy, &html! {
                label { span { "Name" } input type="text" name="name" required maxlength="200" autocomplete="off"; }
            }, "Create"))
        }
    };
    let title = "Organizations".to_owned();
    Ok(Page { section: Section::Organizations, title, before, live, after }.render(&visitor))
}

fn row(organization: &Organization, queue: Option<&QueueFigures>) -> Markup {
    let settings = Settings::of(organization);
    let figure = |number: Option<i64>| number.map_or_else(|| "–".to_owned(), parts::count);
    html! {
        tr {
            th scope="row" { a href={ "/admin/organizations/" (organization.id) } { (organization.name) } }
            td { (state(organization)) }
            td class="number" { (figure(queue.map(|queue| queue.waiting))) }
            td class="number" { (figure(queue.map(|queue| queue.running))) }
            td class="number" { (figure(queue.map(|queue| queue.delayed))) }
            td class="number" { (figure(queue.map(|queue| queue.blocked))) }
            td class="number" { (cap(organization)) }
            td { (rate(&settings)) }
            td { (parts::time(organization.created_at)) }
        }
    }
}

/// `POST /admin/organizations`: create one (role platform).
pub(super) async fn create(State(app): State<Arc<App>>, visitor: Visitor, form: Form) -> Result<Response, Refused> {
    if !visitor.is_platform() {
        return Err(visitor.forbidden("Only a platform key can create organizations."));
    }
    let name = form.need("name")?;
    let created = administration::create_organization(&app.db, name, by(&visitor, &form)?).await.map_err(refused)?;
    Ok(Redirect::to(&format!("/admin/organizations/{}?note=created", created.id)).into_response())
}

/// The pages of an organization.
fn tabs(id: OrganizationId, here: &str) -> Markup {
    let tabs = [("State", ""), ("Settings", "/settings"), ("Keys", "/keys"), ("Callbacks", "/callbacks")];
    html! {
        nav class="pager" aria-label="Of this organization" {
            @for (name, path) in tabs {
                a href={ "/admin/organizations/" (id) (path) } aria-current=[(path == here).then_some("page")] { (name) }
            }
        }
    }
}

/// `GET /admin/organizations/{id}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let settings = Settings::of(&organization);
    let id = organization.id;
    let queue = queues(&app, &visitor).await?.remove(&id);
    let live = html! {
        div class="tiles" {
            (parts::tile("State", &organization.status, &html! { @if organization.status == "paused" { "its jobs are accepted and wait" } }))
            @if let Some(queue) = &queue {
                (parts::tile("Ready", &parts::count(queue.waiting), &html! { @if let Some(at) = queue.oldest_ready_at { "the oldest since " (parts::time(at)) } }))
                (parts::tile("Running", &parts::count(queue.running), &html! { "cap: " (cap(&organization)) }))
                (parts::tile("In backoff", &parts::count(queue.delayed), &html! {}))
                (parts::tile("Behind others", &parts::count(queue.blocked), &html! { (queue.lanes_held) " lane(s) held up" }))
            }
        }
        div class="card" {
            (parts::facts(&[
                ("Id", html! { span class="mono" { (id) } }),
                ("Since", parts::time(organization.created_at)),
                ("Jobs at once", html! { (cap(&organization)) }),
                ("Rate", html! { (rate(&settings)) }),
                ("Time zone", html! { (settings.time_zone.as_deref().unwrap_or("UTC")) }),
            ]))
        }
        p {
            @let query = id.to_string();
            a href=(parts::link("/admin/jobs", &[("organization", Some(&query))], None)) { "Its jobs" } " · "
            a href=(parts::link("/admin/failures", &[("organization", Some(&query))], None)) { "its failures" } " · "
            a href=(parts::link("/admin/lanes", &[("organization", Some(&query))], None)) { "its lanes" } " · "
            a href=(parts::link("/admin/audit", &[("organization", Some(&query))], None)) { "its audit records" }
        }
    };
    let path = |act: &str| format!("/admin/organizations/{id}/{act}");
    let after = html! {
        @if organization.status == "paused" {
            (parts::act("Resume", &path("resume"), Tone::Good, &html! {}, "Resume the organization"))
        } @else {
            (parts::act("Pause", &path("pause"), Tone::Warn, &html! {
                p class="wide" { "Its jobs are accepted and wait; what runs now goes on to its end." }
            }, "Pause the organization"))
        }
    };
    let (section, title) = (Section::Organizations, organization.name);
    Ok(Page { section, title, before: tabs(id, ""), live, after }.render(&visitor))
}

/// `POST /admin/organizations/{id}/pause`
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    set_paused(&app, &visitor, &id, &form, true).await
}

/// `POST /admin/organizations/{id}/resume`
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    set_paused(&app, &visitor, &id, &form, false).await
}

async fn set_paused(app: &App, visitor: &Visitor, id: &str, form: &Form, paused: bool) -> Result<Response, Refused> {
    let id = permitted(app, visitor, id).await?.id;
    administration::set_paused(&app.db, id, paused, by(visitor, form)?).await.map_err(refused)?;
    app.wake.signal();
    let note = if paused { "paused" } else { "organization-resumed" };
    Ok(Redirect::to(&format!("/admin/organizations/{id}?note={note}")).into_response())
}
