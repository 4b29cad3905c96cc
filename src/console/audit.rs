//! `/admin/audit`: records by filter, newest first; how far the log is sealed; a verification of its newest part.
//!
//! Each look is a record itself, as in the API. What is shown live is the sealing only: a browser that watches looks nothing up.

use super::answer::{self, Refused};
use super::form::Form;
use super::jobs::{job_link, kept, value_of};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::audit::list_store::RecordFilter;
use crate::audit::record::StoredRecord;
use crate::audit::source::SourceError;
use crate::audit::store::{self, CheckpointRow, SealedEnd, SealerStatus};
use crate::audit::verify::Report;
use crate::db::{DbError, Scope};
use crate::ids::OrganizationId;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use std::sync::Arc;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Records of a page.
const PAGE: i64 = 100;
/// Leaves that a verification from here looks at, about: a hundred thousand take a few seconds.
const VERIFIED_LEAVES: u64 = 100_000;
/// And the time that it may take.
const VERIFIED_WITHIN: Duration = Duration::from_secs(30);
/// The log should be sealed up to so many seconds ago.
const SEALED: f64 = 120.0;
/// Fields of the filter: name in the address, label.
const FIELDS: &[(&str, &str)] = &[
    ("actor", "Who (key:…, worker:…)"),
    ("event", "Event (such as job.retried)"),
    ("job", "Job (job_…)"),
    ("patient", "Patient (pat_…)"),
    ("resource", "Resource"),
    ("request", "Request"),
    ("after", "From (UTC)"),
    ("before", "To (UTC)"),
];
const OUTCOMES: &[(&str, &str)] = &[("", "all"), ("success", "success"), ("denied", "denied"), ("failure", "failure")];

/// The filter as the address has it.
struct Asked(Vec<(&'static str, String)>);

impl Asked {
    fn of(raw: Option<&str>) -> Self {
        let names = FIELDS.iter().map(|(name, _)| *name).chain(["outcome"]);
        Self(names.filter_map(|name| Some((name, value_of(raw, name)?))).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    fn filter(&self) -> Result<RecordFilter, Refused> {
        let bad = |what: &str| Refused::Invalid(format!("{what} cannot be read."));
        let text = |name: &str| self.get(name).map(str::to_owned);
        if self.0.iter().any(|(_, value)| value.contains('\0')) {
            return Err(bad("The filter"));
        }
        Ok(RecordFilter {
            actor: text("actor"),
            event: text("event"),
            outcome: text("outcome"),
            patient: self.get("patient").map(str::parse).transpose().map_err(|_| bad("The patient's id"))?,
            job: self.get("job").map(str::parse).transpose().map_err(|_| bad("The job's id"))?,
            resource: text("resource"),
            request: text("request"),
            after: self.get("after").map(|text| instant(text).ok_or_else(|| bad("The time"))).transpose()?,
            before: self.get("before").map(|text| instant(text).ok_or_else(|| bad("The time"))).transpose()?,
        })
    }
}

/// A time as a browser's field says it (UTC), or RFC 3339.
fn instant(text: &str) -> Option<OffsetDateTime> {
    let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        let local = PrimitiveDateTime::parse(text, &minutes).or_else(|_| PrimitiveDateTime::parse(text, &seconds));
        local.ok().map(PrimitiveDateTime::assume_utc)
    })
}

/// How the log stands.
struct Sealing {
    now: OffsetDateTime,
    sealer: Option<SealerStatus>,
    checkpoint: Option<CheckpointRow>,
    end: SealedEnd,
    keys: usize,
    verified: Option<StoredRecord>,
}

async fn sealing(app: &App, visitor: &Visitor) -> Result<Sealing, DbError> {
    let (now, sealer, checkpoint, end, keys) = app
        .db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                Ok((
                    store::now(connection).await?,
                    store::sealer_status(connection).await?,
                    store::newest_checkpoint(connection, i64::MAX).await?,
                    store::sealed_end(connection).await?,
                    store::key_statements(connection).await?.len(),
                ))
            })
        })
        .await?;
    // Verifications are acts of the platform.
    let verified = if visitor.is_platform() {
        // It may lie far back, or nowhere.
        let read = || async {
            let filter = RecordFilter { event: Some("audit.verified".to_owned()), ..RecordFilter::default() };
            Ok(app.records_of(None, Some(OrganizationId::PLATFORM), filter, None, 1).await?.0.pop())
        };
        (*app.kept.verified.get((), visitor.asks(), read).await?).clone()
    } else {
        None
    };
    Ok(Sealing { now, sealer, checkpoint, end, keys, verified })
}

fn sealing_part(visitor: &Visitor, sealing: &Sealing) -> Markup {
    let lag = sealing.sealer.as_ref().map(|status| status.unsealed_seconds);
    let tone = match (&sealing.sealer, lag) {
        (None, _) => Tone::Warn,
        (Some(status), Some(lag)) if lag > SEALED || status.silent_seconds > SEALED => Tone::Bad,
        _ => Tone::Good,
    };
    let word = sealing.sealer.as_ref().map_or("never", |status| status.state.as_str());
    let sealed = lag.map(|lag| sealing.now - time::Duration::seconds_f64(lag));
    html! {
        div class="tiles" {
            (parts::tile("Sealing", &word.replace('_', " "), &html! {
                (parts::badge(if tone == Tone::Good { "well" } else { "look here" }, tone))
                @if let Some(status) = sealing.sealer.as_ref().filter(|status| !status.detail.is_empty()) { " " (status.detail) }
            }))
            (parts::tile("Sealed records", &parts::count(i64::try_from(sealing.end.leaves).unwrap_or(i64::MAX)), &html! {
                @if let Some(at) = sealed { "all up to " (parts::time(at)) }
            }))
            (parts::tile("Last checkpoint", &sealing.checkpoint.as_ref().map_or("none".to_owned(), |row| row.checkpoint.to_string()), &html! {
                @if let Some(row) = &sealing.checkpoint { (parts::time(row.at)) }
                @if let Some(status) = sealing.sealer.as_ref().filter(|status| status.unpublished > 0) { " · " (status.unpublished) " not in the object store yet" }
            }))
            (parts::tile("Signing keys", &sealing.keys.to_string(), &html! { "in the chain of rotations" }))
            @if visitor.is_platform() {
                (parts::tile("Last verification", &verdict(sealing.verified.as_ref()), &html! {
                    @if let Some(record) = &sealing.verified { (parts::time(record.at)) " by " (record.actor) } @else { "none is recorded" }
                }))
            }
        }
    }
}

fn verdict(record: Option<&StoredRecord>) -> String {
    let detail = record.and_then(|record| record.detail.as_ref());
    let detail: Option<serde_json::Value> = detail.and_then(|detail| serde_json::from_str(detail.get()).ok());
    match detail.as_ref().map(|detail| detail["ok"] == true) {
        None => "never".to_owned(),
        Some(true) => "intact".to_owned(),
        Some(false) => "faults".to_owned(),
    }
}

/// `GET /admin/audit`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let asked = Asked::of(raw.as_deref());
    let live = sealing_part(&visitor, &sealing(&app, &visitor).await?);
    if visitor.watches {
        return Ok(answer::html(StatusCode::OK, live));
    }
    let filter = asked.filter()?;
    let below = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<i64>()).transpose();
    let below = below.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?;
    let (own, wanted) = (visitor.caller.organization, visitor.organization);
    let (records, next) = app.look_up_records((own, wanted), filter, below, PAGE, &visitor.actor).await?;
    let kept = kept(&visitor);
    let mut query: Vec<(&str, Option<&str>)> =
        asked.0.iter().map(|(name, value)| (*name, Some(value.as_str()))).collect();
    query.push(("organization", kept.as_deref()));
    let next = next.map(|next| next.to_string());
    let after = html! {
        (verification(&visitor))
        h2 { "Records" }
        (filter_form(&visitor, &asked))
        @if records.is_empty() {
            (parts::nothing(if next.is_some() { "Nothing among the newest; older ones are on the next page." } else { "There is no such record." }))
        } @else {
            (table(&visitor, &records))
        }
        (parts::next_page("/admin/audit", &query, next.as_deref()))
    };
    Ok(Page { section: Section::Audit, title: "Audit log".to_owned(), before: html! {}, live, after }.render(&visitor))
}

fn verification(visitor: &Visitor) -> Markup {
    html! {
        @if visitor.is_platform() {
            (parts::act("Verify now", "/admin/audit/verify", Tone::Busy, &html! {
                p class="wide" { "The newest part of the log, of about " (parts::count(i64::try_from(VERIFIED_LEAVES).unwrap_or(0))) " records, against its signed checkpoints and the object store. All of it: chartgate audit verify." }
            }, "Verify"))
        }
    }
}

fn filter_form(visitor: &Visitor, asked: &Asked) -> Markup {
    html! {
        form class="filter" method="get" action="/admin/audit" {
            @if visitor.is_platform() {
                (parts::field("Organization (org_…)", "organization", &kept(visitor).unwrap_or_default(), "text"))
            }
            @for (name, label) in FIELDS {
                (parts::field(label, name, asked.get(name).unwrap_or_default(), if ["after", "before"].contains(name) { "datetime-local" } else { "text" }))
            }
            (parts::choice("Outcome", "outcome", OUTCOMES, asked.get("outcome").unwrap_or_default()))
            button { "Look up" }
        }
    }
}

fn table(visitor: &Visitor, records: &[StoredRecord]) -> Markup {
    let action = |letter: &str| match letter {
        "C" => "create",
        "R" => "read",
        "U" => "update",
        "D" => "delete",
        _ => "execute",
    };
    let row = |record: &StoredRecord| {
        let tone = match record.outcome.as_str() {
            "success" => Tone::Quiet,
            "denied" => Tone::Bad,
            _ => Tone::Warn,
        };
        html! {
            tr {
                td class="number" { (record.id) }
                td { (parts::time(record.at)) }
                td { strong { (record.event) } br; span class="muted" { (action(&record.action)) } " " (parts::badge(&record.outcome, tone)) }
                td { (record.actor) @if let Some(address) = &record.address { br; span class="muted" { (address) } } }
                td {
                    @if let Some(job) = record.job_id { (job_link(visitor, job)) }
                    @if let Some(step) = &record.step { " · " (step) }
                    @if let Some(patient) = record.patient_id { div class="mono" { (patient) } }
                    @if let Some(resource) = &record.resource { div { (resource) } }
                }
                td { (record.purpose.as_deref().unwrap_or("–")) }
                td {
                    @if let Some(detail) = &record.detail { code { (detail.get()) } }
                    @if let Some(request) = &record.request_id { div class="muted" { "request " (request) } }
                    @if visitor.organization.is_none() { div class="muted mono" { (record.organization_id) } }
                }
            }
        }
    };
    let rows: Vec<Markup> = records.iter().map(row).collect();
    parts::table("Audit records", &["Record", "When", "What", "Who", "About", "Reason", "Details"], &rows)
}

/// `POST /admin/audit/verify`: the newest part of the log, now (role platform). The answer is the verdict.
pub(super) async fn verify(State(app): State<Arc<App>>, visitor: Visitor, form: Form) -> Result<Response, Refused> {
    if !visitor.is_platform() {
        return Err(visitor.forbidden("The log is over all organizations: only a platform key can verify it."));
    }
    let reason = form.reason()?;
    let behind = app
        .db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                let leaves = store::sealed_end(connection).await?.leaves.saturating_sub(VERIFIED_LEAVES);
                if leaves == 0 {
                    return Ok(None);
                }
                store::checkpoint_of_size(connection, i64::try_from(leaves).unwrap_or(i64::MAX)).await
            })
        })
        .await?;
    let verified = app.verify_audit(behind, &visitor.actor, Some(&reason));
    let verified = tokio::time::timeout(VERIFIED_WITHIN, verified).await;
    app.kept.verified.forget(()).await;
    let report = match verified {
        Ok(Ok(report)) => report,
        Ok(Err(SourceError::Db(error))) => return Err(error.into()),
        Ok(Err(error)) => {
            tracing::warn!(error = ?error, "the audit log cannot be verified now");
            return Err(Refused::Conflict(
                "Object storage is not available: nothing can be said without it.".to_owned(),
            ));
        }
        Err(_) => {
            return Err(Refused::Conflict(
                "It takes longer than a page should: run chartgate audit verify instead.".to_owned(),
            ));
        }
    };
    Ok(Page::fixed(Section::Audit, "Verification of the audit log", report_of(&report, behind)).render(&visitor))
}

fn report_of(report: &Report, behind: Option<i64>) -> Markup {
    let rows: Vec<Markup> = report
        .faults
        .iter()
        .map(|fault| {
            html! {
                tr {
                    td { @if let Some(record) = fault.record { (record) } @else { "–" } }
                    td { @if let Some(checkpoint) = fault.checkpoint { (checkpoint) } @else { "–" } }
                    td { (fault.what) }
                }
            }
        })
        .collect();
    html! {
        div class={ "card explain " (if report.ok { "good" } else { "bad" }) } role="status" {
            p { strong {
                @if report.ok { "No fault was found." } @else { "The log was changed: " (report.faults_total) " fault(s)." }
            } }
            p {
                @if let Some(behind) = behind { "What was sealed behind checkpoint " (behind) " was looked at." }
                @else { "The whole log was looked at." }
            }
            @if !report.trusted { p { "None of the log's keys was known beforehand: who replaced keys, checkpoints and objects alike would not show." } }
        }
        div class="card" {
            (parts::facts(&[
                ("Records", html! { (parts::count(i64::try_from(report.records).unwrap_or(i64::MAX))) }),
                ("Checkpoints", html! { (report.checkpoints) }),
                ("Newest checkpoint", html! { @if let Some(newest) = &report.newest { (newest.number) " of " (newest.time) } @else { "none" } }),
                ("Not sealed yet", html! { (report.unsealed.records) }),
                ("First bad record", html! { @if let Some(record) = report.first_bad_record { (record) } @else { "none" } }),
            ]))
        }
        @if !rows.is_empty() { (parts::table("Faults", &["Record", "Checkpoint", "What is wrong"], &rows)) }
        p { a href="/admin/audit" { "To the audit log" } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_browsers_and_programs_write_them() {
        let at = time::macros::datetime!(2026-11-22 10:30 UTC);
        for text in ["2026-11-22T10:30", "2026-11-22T10:30:00", "2026-11-22T10:30:00Z", "2026-11-22T11:30:00+01:00"] {
            assert_eq!(instant(text), Some(at), "{text}");
        }
        assert_eq!(instant("yesterday"), None);
    }
}
