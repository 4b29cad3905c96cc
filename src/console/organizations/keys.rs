//! `/admin/organizations/{id}/keys`: keys, never their secrets; a new one is shown once, on the page that answers its making.

use super::super::answer::Refused;
use super::super::form::Form;
use super::super::page::{Page, Section};
use super::super::parts::{self, Tone};
use super::super::session::Visitor;
use super::{by, permitted, refused, tabs};
use crate::app::App;
use crate::auth::Role;
use crate::auth::administration::{self, OVERLAP_SECONDS, Rotated};
use crate::auth::store::{self, KeyGrant, KeySummary, Organization};
use crate::db::{DbError, Scope};
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use std::sync::Arc;
use time::{Date, OffsetDateTime};

/// Keys of the page: the newest. The API has them all, page by page.
const KEYS_MAX: i64 = 500;
/// Roles of an organization's keys.
const ROLES: &[(&str, &str)] = &[
    ("sender", "sender: submits, follows its jobs"),
    ("reader", "reader: reads clinical data"),
    ("admin", "admin: administers, decides reviews"),
];

async fn keys_of(app: &App, organization: &Organization) -> Result<Vec<KeySummary>, DbError> {
    let id = organization.id;
    app.db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::list_keys(connection, Some(id), None, KEYS_MAX).await })
        })
        .await
}

/// `GET /admin/organizations/{id}/keys`
pub(in super::super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let keys = keys_of(&app, &organization).await?;
    Ok(page((&visitor, app.clock.now()), &organization, &keys, None))
}

/// `POST /admin/organizations/{id}/keys`: the answer shows the key, once.
pub(in super::super) async fn create(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let role = Role::parse(form.need("role")?).filter(|role| *role != Role::Platform);
    let grant = KeyGrant {
        organization: Some(organization.id),
        role: role.ok_or_else(|| Refused::Invalid("Choose what the key may do.".to_owned()))?,
        name: form.get("name").unwrap_or_default().to_owned(),
        source: form.get("source").unwrap_or("default").to_owned(),
        expires_at: day(form.get("ends"))?,
    };
    let role = grant.role;
    let key = administration::create_key(&app.db, grant, by(&visitor, &form)?).await.map_err(refused)?;
    let keys = keys_of(&app, &organization).await?;
    Ok(page((&visitor, app.clock.now()), &organization, &keys, Some((&key.key, role))))
}

/// The end of a day in UTC, as date fields say it: the day itself is still good.
fn day(text: Option<&str>) -> Result<Option<OffsetDateTime>, Refused> {
    let Some(text) = text else { return Ok(None) };
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let day = Date::parse(text, &format)
        .map_err(|_| Refused::Invalid("The last day must be a date such as 2027-01-31.".to_owned()))?;
    let end = day.next_day().ok_or_else(|| Refused::Invalid("The last day is too far away.".to_owned()))?;
    Ok(Some(end.midnight().assume_utc()))
}

/// A key of this organization.
async fn key_of(app: &App, organization: &Organization, key: String) -> Result<String, Refused> {
    let missing = || Refused::NotFound("There is no such key that is still good.");
    // PostgreSQL's text holds everything but this.
    if key.contains('\0') {
        return Err(missing());
    }
    let found = app.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
        Box::pin(async move { store::find_key(connection, &key).await })
    });
    let found = found.await?.filter(|one| one.organization_id == Some(organization.id));
    found.map(|key| key.id).ok_or_else(missing)
}

/// `POST /admin/organizations/{id}/keys/{key}/rotate`: the answer shows the successor, once.
pub(in super::super) async fn rotate(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path((id, key)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let key = key_of(&app, &organization, key).await?;
    let hours = form.get("overlap").map_or(Ok(OVERLAP_SECONDS / 3600), str::parse::<u32>);
    let seconds = hours.ok().and_then(|hours| hours.checked_mul(3600));
    let seconds = seconds.ok_or_else(|| Refused::Invalid("The overlap must be a number of hours.".to_owned()))?;
    let rotated = administration::rotate_key(&app.db, &key, seconds, None, by(&visitor, &form)?).await;
    let Rotated { key, role, .. } = rotated.map_err(refused)?;
    let keys = keys_of(&app, &organization).await?;
    Ok(page((&visitor, app.clock.now()), &organization, &keys, Some((&key.key, role))))
}

/// `POST /admin/organizations/{id}/keys/{key}/revoke`
pub(in super::super) async fn revoke(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path((id, key)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let key = key_of(&app, &organization, key).await?;
    administration::revoke_key(&app.db, &key, by(&visitor, &form)?).await.map_err(refused)?;
    Ok(Redirect::to(&format!("/admin/organizations/{}/keys?note=revoked", organization.id)).into_response())
}

fn state(key: &KeySummary, now: OffsetDateTime) -> Markup {
    if key.revoked_at.is_some() {
        parts::badge("revoked", Tone::Quiet)
    } else if key.expires_at.is_some_and(|at| at <= now) {
        parts::badge("ended", Tone::Quiet)
    } else if key.replaced_by.is_some() {
        parts::badge("has a successor", Tone::Warn)
    } else {
        parts::badge("good", Tone::Good)
    }
}

fn is_good(key: &KeySummary, now: OffsetDateTime) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > now)
}

fn page(
    (visitor, now): (&Visitor, OffsetDateTime),
    organization: &Organization,
    keys: &[KeySummary],
    made: Option<(&str, Role)>,
) -> Response {
    let base = format!("/admin/organizations/{}/keys", organization.id);
    let row = |key: &KeySummary| {
        html! {
            tr {
                th scope="row" class="mono" { (key.id) }
                td { (state(key, now)) }
                td { (key.role) }
                td { (key.name) }
                td { (key.source) }
                td { (parts::time(key.created_at)) }
                td { (parts::time_or_dash(key.last_used_at)) }
                td { (parts::time_or_dash(key.expires_at)) }
                td class="mono" { (key.replaced_by.as_deref().unwrap_or("–")) }
            }
        }
    };
    let rows: Vec<Markup> = keys.iter().map(row).collect();
    let good: Vec<(String, String)> = keys
        .iter()
        .filter(|key| is_good(key, now))
        .map(|key| (key.id.clone(), format!("{} · {} · {}", key.id, key.role, key.name)))
        .collect();
    let head = ["Key", "State", "Role", "Name", "Source", "Made", "Last used", "Ends", "Successor"];
    let body = html! {
        (tabs(organization.id, "/keys"))
        @if let Some((key, role)) = made {
            div class="card explain good" role="status" {
                h2 { "The new key (" (role.as_str()) ")" }
                p { "It is shown this once and cannot be shown again: take it now. Loading this page again would make another one." }
                pre class="mono" tabindex="0" aria-label="The new key" { (key) }
                button type="button" data-copy=(key) { "Copy" }
                p { a href=(base) { "Done" } }
            }
        }
        @if rows.is_empty() { (parts::nothing("The organization has no key.")) } @else { (parts::table("Keys", &head, &rows)) }
        h2 { "Make, rotate, revoke" }
        (parts::act("Create a key", &base, Tone::Busy, &html! {
            (parts::choice("May", "role", ROLES, "sender"))
            label { span { "Name" } input type="text" name="name" maxlength="200" autocomplete="off"; }
            label { span { "Source (label of the sending system)" } input type="text" name="source" value="default" maxlength="100" autocomplete="off"; }
            label { span { "Last day (UTC; empty: it never ends)" } input type="date" name="ends"; }
        }, "Create the key"))
        @for (id, words) in &good {
            (parts::act(&format!("Rotate {words}"), &format!("{base}/{id}/rotate"), Tone::Busy, &html! {
                label { span { "Hours for which the old one stays good" } input type="number" name="overlap" value=(OVERLAP_SECONDS / 3600) min="0" max="2160"; }
            }, "Make its successor"))
            (parts::act(&format!("Revoke {words}"), &format!("{base}/{id}/revoke"), Tone::Bad, &html! {}, "Revoke the key"))
        }
    };
    Page::fixed(Section::Organizations, format!("{}: keys", organization.name), body).render(visitor)
}
