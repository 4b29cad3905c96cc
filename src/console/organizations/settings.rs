//! `/admin/organizations/{id}/settings`: the settings as a form; a fault stands at its field, and nothing typed is lost.

use super::super::answer::{self, Refused};
use super::super::form::Form;
use super::super::page::{Page, Section};
use super::super::session::Visitor;
use super::{by, permitted, tabs};
use crate::app::App;
use crate::app::settings::{RateLimit, Settings, SettingsError, SettingsFault};
use crate::auth::store::Organization;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use std::sync::Arc;

/// What the fields hold: as stored, or as somebody typed it.
struct Typed {
    mrn_systems: String,
    mrn_folded_systems: String,
    mrn_placeholders: String,
    running_max: String,
    athena_system: String,
    time_zone: String,
    cors_origins: String,
    requests_per_second: String,
    burst: String,
}

impl Typed {
    fn of(settings: &Settings) -> Self {
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        Self {
            mrn_systems: settings.mrn_systems.join("\n"),
            mrn_folded_systems: settings.mrn_folded_systems.join("\n"),
            mrn_placeholders: settings.mrn_placeholders.join("\n"),
            running_max: settings.running_max.map(|max| max.to_string()).unwrap_or_default(),
            athena_system: settings.athena_system.clone().unwrap_or_default(),
            time_zone: settings.time_zone.clone().unwrap_or_default(),
            cors_origins: settings.cors_origins.join("\n"),
            requests_per_second: number(settings.rate_limit.map(|rate| rate.requests_per_second)),
            burst: number(settings.rate_limit.and_then(|rate| rate.burst)),
        }
    }

    fn in_form(form: &Form) -> Self {
        let text = |name: &str| form.get(name).unwrap_or_default().to_owned();
        Self {
            mrn_systems: text("mrnSystems"),
            mrn_folded_systems: text("mrnFoldedSystems"),
            mrn_placeholders: text("mrnPlaceholders"),
            running_max: text("runningMax"),
            athena_system: text("athenaSystem"),
            time_zone: text("timeZone"),
            cors_origins: text("corsOrigins"),
            requests_per_second: text("requestsPerSecond"),
            burst: text("burst"),
        }
    }

    /// What was typed, as settings. Who may not change the rate leaves it as it is.
    fn settings(&self, may_rate: bool) -> Result<Settings, SettingsFault> {
        let lines =
            |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let rate_limit = match number("rateLimit", "Requests a second", &self.requests_per_second)? {
            Some(requests_per_second) if may_rate => {
                Some(RateLimit { requests_per_second, burst: number("rateLimit", "Requests at once", &self.burst)? })
            }
            None if may_rate && !self.burst.is_empty() => {
                let detail = "Requests at once need requests a second.".to_owned();
                return Err(SettingsFault { member: "rateLimit", detail });
            }
            _ => None,
        };
        Ok(Settings {
            mrn_systems: lines(&self.mrn_systems),
            mrn_folded_systems: lines(&self.mrn_folded_systems),
            mrn_placeholders: lines(&self.mrn_placeholders),
            running_max: number("runningMax", "Jobs at once", &self.running_max)?,
            athena_system: given(&self.athena_system),
            time_zone: given(&self.time_zone),
            cors_origins: lines(&self.cors_origins),
            rate_limit,
        })
    }
}

fn number<T: std::str::FromStr>(member: &'static str, name: &str, text: &str) -> Result<Option<T>, SettingsFault> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = |_| SettingsFault { member, detail: format!("{name} must be a whole number, or empty.") };
    text.parse().map(Some).map_err(bad)
}

/// `GET /admin/organizations/{id}/settings`
pub(in super::super) async fn show(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let typed = Typed::of(&Settings::of(&organization));
    Ok(page(&visitor, &organization, &typed, "", None))
}

/// `POST /admin/organizations/{id}/settings`
pub(in super::super) async fn change(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    let organization = permitted(&app, &visitor, &id).await?;
    let typed = Typed::in_form(&form);
    let reason = form.get("reason").unwrap_or_default();
    let again = |fault: SettingsFault| {
        let mut response = page(&visitor, &organization, &typed, reason, Some(&fault));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    };
    let settings = match typed.settings(visitor.is_platform()) {
        Ok(settings) => settings,
        Err(fault) => return Ok(again(fault)),
    };
    match app.change_settings(organization.id, settings, by(&visitor, &form)?).await {
        Ok(_) => {
            let path = format!("/admin/organizations/{}/settings?note=saved", organization.id);
            Ok(Redirect::to(&path).into_response())
        }
        Err(SettingsError::Fault(fault)) => Ok(again(fault)),
        Err(SettingsError::NotTheirs) => Err(visitor.forbidden("Only a platform key can change the rate.")),
        Err(SettingsError::NoOrganization) => Err(super::missing()),
        Err(SettingsError::Db(error)) => Err(error.into()),
    }
}

/// A field with what it means, and with what is wrong with it.
fn field(fault: Option<&SettingsFault>, name: &str, member: &str, label: &str, help: &str, input: &Markup) -> Markup {
    let fault = fault.filter(|fault| fault.member == member);
    html! {
        div class="setting" {
            label class="wide" for={ "setting-" (name) } { (label) }
            (input)
            p class="muted" id={ "help-" (name) } { (help) }
            @if let Some(fault) = fault { p class="fault" role="alert" { (fault.detail.replace('`', "")) } }
        }
    }
}

fn page(
    visitor: &Visitor,
    organization: &Organization,
    typed: &Typed,
    reason: &str,
    fault: Option<&SettingsFault>,
) -> Response {
    let is_bad = |member: &str| fault.is_some_and(|fault| fault.member == member).then_some("true");
    let lines = |name: &str, text: &str| {
        html! {
            textarea id={ "setting-" (name) } name=(name) rows="4" spellcheck="false" aria-describedby={ "help-" (name) } aria-invalid=[is_bad(name)] { (text) }
        }
    };
    let line = |name: &str, member: &str, text: &str, kind: &str| {
        html! {
            input id={ "setting-" (name) } type=(kind) name=(name) value=(text) autocomplete="off" spellcheck="false" aria-describedby={ "help-" (name) } aria-invalid=[is_bad(member)];
        }
    };
    let one = |name: &str, label: &str, help: &str, input: Markup| field(fault, name, name, label, help, &input);
    let body = html! {
        @if fault.is_some() { p class="fault" role="alert" { "Nothing was stored: look at the field that is marked." } }
        form method="post" class="card" action={ "/admin/organizations/" (organization.id) "/settings" } {
            (one("mrnSystems", "MRN systems", "Identifier systems whose values are medical record numbers also without the type code MR; one a line.", lines("mrnSystems", &typed.mrn_systems)))
            (one("mrnFoldedSystems", "Folded systems", "Systems in whose numbers case, spaces and hyphens mean nothing; one a line.", lines("mrnFoldedSystems", &typed.mrn_folded_systems)))
            (one("mrnPlaceholders", "Placeholders", "Values that are nobody's number, beside 0, UNKNOWN and the like; one a line.", lines("mrnPlaceholders", &typed.mrn_placeholders)))
            (one("runningMax", "Jobs at once", "Over all workers; empty: no cap.", line("runningMax", "runningMax", &typed.running_max, "text")))
            (one("athenaSystem", "Athena's system", "Identifier system of Athena's patient ids; empty: the default.", line("athenaSystem", "athenaSystem", &typed.athena_system, "text")))
            (one("timeZone", "Time zone", "IANA name, such as America/New_York, of times that name none; empty: UTC.", line("timeZone", "timeZone", &typed.time_zone, "text")))
            (one("corsOrigins", "Web origins", "Pages that may call for this organization, such as https://ehr.example; one a line.", lines("corsOrigins", &typed.cors_origins)))
            @if visitor.is_platform() {
                (field(fault, "requestsPerSecond", "rateLimit", "Requests a second", "By process, in the long run; empty: as configured for all.", &line("requestsPerSecond", "rateLimit", &typed.requests_per_second, "text")))
                (field(None, "burst", "rateLimit", "Requests at once", "After quiet; empty: those of one second.", &line("burst", "rateLimit", &typed.burst, "text")))
            } @else {
                p class="muted" { "Rate: " (super::rate(&Settings::of(organization))) ". The platform's administrators change it." }
            }
            label class="wide" { span { "Reason (goes into the audit log)" } input type="text" name="reason" required maxlength="1000" value=(reason) autocomplete="off"; }
            button class="busy" { "Store the settings" }
        }
    };
    let (section, title) = (Section::Organizations, format!("{}: settings", organization.name));
    let before = html! { (tabs(organization.id, "/settings")) (body) };
    let page = Page { section, title, before, live: html! {}, after: html! {} };
    if visitor.watches { answer::html(StatusCode::OK, html! {}) } else { page.render(visitor) }
}
