//! `/admin/reviews`: links that a person must decide. For the organization's own administrators.
//!
//! The list holds codes and scores. One review shows demographics side by side: a clinical read, audited for each patient as
//! in the API ([`reviewing::show`]), and therefore never rendered for a browser that only watches.

use super::answer::{self, Refused};
use super::form::Form;
use super::jobs::value_of;
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::db::{DbError, Scope};
use crate::ids::{OrganizationId, PatientId, ReviewId};
use crate::ingest::linking::acts::{self, ActError, Answer, By};
use crate::ingest::linking::reviewing::{self, Shown};
use crate::ingest::linking::reviews_store::{self, PersonRow, Review};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde_json::Value;
use std::sync::Arc;

/// Reviews of a page.
const PAGE: i64 = 50;
/// Which reviews.
const STATUSES: &[(&str, &str)] = &[("open", "open"), ("decided", "decided"), ("superseded", "gone by themselves")];

const NOT_THEIRS: &str =
    "Reviews show demographics: they are for the organization's own administrators, with a key of its role admin.";

fn missing() -> Refused {
    Refused::NotFound("There is no such review.")
}

/// The visitor's own organization; none for the platform, which reads nothing clinical.
fn own(visitor: &Visitor) -> Option<OrganizationId> {
    visitor.caller.organization
}

/// `GET /admin/reviews`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let Some(organization) = own(&visitor) else {
        return Ok(Page::fixed(Section::Reviews, "Reviews", html! { p { (NOT_THEIRS) } }).render(&visitor));
    };
    let wanted = value_of(raw.as_deref(), "status");
    let known = |word: &&str| STATUSES.iter().any(|(status, _)| status == word);
    let status = wanted.as_deref().filter(known).unwrap_or("open").to_owned();
    let before = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<ReviewId>()).transpose();
    let before = before.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?;
    let mut reviews = page_of(&app, organization, status.clone(), before, PAGE + 1).await?;
    let more = reviews.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    reviews.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let next = reviews.last().filter(|_| more).map(|last| last.id.to_string());
    let rows: Vec<Markup> = reviews.iter().map(row).collect();
    let head = ["Review", "Why a person is asked", "About", "Links wait", "Candidates", "Likeliest", "Asked"];
    let before = html! {
        form class="filter" method="get" action="/admin/reviews" {
            (parts::choice("Status", "status", STATUSES, &status))
            button { "Filter" }
        }
    };
    let live = html! {
        @if rows.is_empty() { (parts::nothing("There is no such review.")) } @else { (parts::table("Reviews", &head, &rows)) }
        (parts::next_page("/admin/reviews", &[("status", Some(status.as_str()))], next.as_deref()))
    };
    Ok(Page { section: Section::Reviews, title: "Reviews".to_owned(), before, live, after: html! {} }.render(&visitor))
}

async fn page_of(
    app: &App,
    organization: OrganizationId,
    status: String,
    before: Option<ReviewId>,
    limit: i64,
) -> Result<Vec<Review>, DbError> {
    app.db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { reviews_store::list(connection, organization, &status, before, limit).await })
        })
        .await
}

/// A stored word as people read it.
fn said(word: &str) -> String {
    word.replace(['_', '-'], " ")
}

fn about(review: &Review) -> &'static str {
    if review.statement_id.is_some() { "a Patient resource" } else { "events whose number and reference disagree" }
}

fn row(review: &Review) -> Markup {
    let candidates = Candidate::of(&review.candidates);
    html! {
        tr {
            th scope="row" { a class="mono" href={ "/admin/reviews/" (review.id) } { (review.id) } }
            td { (said(&review.reason)) }
            td { (about(review)) }
            td { @if review.is_blocking { (parts::badge("yes", Tone::Warn)) } @else { "no: a proposal" } }
            td class="number" { (candidates.len()) }
            td { @if let Some(first) = candidates.first() { (first.grade()) } @else { "–" } }
            td { (parts::time(review.created_at)) }
        }
    }
}

/// A candidate as it is stored: codes only.
struct Candidate {
    patient: String,
    score: Option<f64>,
    grade: Option<String>,
    reasons: Vec<(String, String)>,
}

impl Candidate {
    fn of(stored: &Value) -> Vec<Self> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let one = |candidate: &Value| {
            let reasons = candidate.get("reasons").and_then(Value::as_array).into_iter().flatten();
            Some(Self {
                patient: text(candidate, "patient")?,
                score: candidate.get("score").and_then(Value::as_f64),
                grade: text(candidate, "grade"),
                reasons: reasons
                    .filter_map(|reason| Some((text(reason, "field")?, text(reason, "agreement")?)))
                    .collect(),
            })
        };
        stored.as_array().into_iter().flatten().filter_map(one).collect()
    }

    fn grade(&self) -> Markup {
        let tone = match self.grade.as_deref() {
            Some("certain" | "probable") => Tone::Good,
            Some("possible") => Tone::Warn,
            _ => Tone::Quiet,
        };
        html! {
            @if let Some(grade) = &self.grade { (parts::badge(&said(grade), tone)) } @else { "not compared" }
            @if let Some(score) = self.score { " " (format!("{score:.3}")) }
        }
    }
}

/// `GET /admin/reviews/{id}`: a clinical read.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let organization = own(&visitor).ok_or_else(|| visitor.forbidden(NOT_THEIRS))?;
    if visitor.watches {
        // Nobody reads again and again by looking once.
        return Ok(answer::html(StatusCode::OK, html! {}));
    }
    let id: ReviewId = id.parse().map_err(|_| missing())?;
    let shown = reviewing::show(&app.db, organization, id, &visitor.actor).await?.ok_or_else(missing)?;
    let candidates = Candidate::of(&shown.review.candidates);
    let review = &shown.review;
    let body = html! {
        p { a href="/admin/reviews" { "All open reviews" } }
        div class="card" {
            (parts::facts(&[
                ("Status", parts::badge(&review.status, if review.status == "open" { Tone::Warn } else { Tone::Quiet })),
                ("Why a person is asked", html! { (said(&review.reason)) }),
                ("About", html! { (about(review)) }),
                ("Links wait for it", html! { @if review.is_blocking { "yes" } @else { "no: it proposes that two patients are one" } }),
                ("Events that wait", html! { (parts::count(shown.waiting)) }),
                ("Asked", parts::time(review.created_at)),
                ("Event", html! { span class="mono" { (review.event_id) } }),
            ]))
        }
        h2 { "Side by side" }
        (people(&shown, &candidates))
        @if review.status == "open" { h2 { "Decide" } (decision(review, &candidates)) } @else { h2 { "The decision" } (decided(review)) }
    };
    Ok(Page::fixed(Section::Reviews, format!("Review {id}"), body).render(&visitor))
}

fn name(person: &PersonRow) -> String {
    let given = person.given.join(" ");
    [person.family.as_deref().unwrap_or_default(), &given]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(", ")
}

fn identifiers(person: &PersonRow) -> Markup {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    html! {
        @for identifier in person.identifiers.as_array().into_iter().flatten() {
            div { strong { (text(identifier, "value")) } " " span class="muted" { (text(identifier, "system")) } }
        }
    }
}

/// What is compared, a line each: what the resource says, and each candidate.
fn people(shown: &Shown, candidates: &[Candidate]) -> Markup {
    let person = |candidate: &Candidate| {
        shown.people.iter().find(|row| row.id.is_some_and(|id| id.to_string() == candidate.patient))
    };
    // The likeliest first, as the candidates are; people that are no candidates behind them.
    let mut columns: Vec<(String, Option<&Candidate>, Option<&PersonRow>)> = candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| (format!("Candidate {}", letter(index)), Some(candidate), person(candidate)))
        .collect();
    let others = shown
        .people
        .iter()
        .filter(|row| row.id.is_some_and(|id| !candidates.iter().any(|candidate| candidate.patient == id.to_string())));
    columns.extend(others.map(|row| ("Linked now".to_owned(), None, Some(row))));
    let line = |title: &str, incoming: Markup, value: &dyn Fn(&PersonRow) -> Markup| {
        html! {
            tr {
                th scope="row" { (title) }
                @if shown.incoming.is_some() { td { (incoming) } }
                @for (_, _, person) in &columns { td { @if let Some(person) = person { (value(person)) } @else { "–" } } }
            }
        }
    };
    let incoming = |value: &dyn Fn(&PersonRow) -> Markup| shown.incoming.as_ref().map(value).unwrap_or_default();
    let dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("–").to_owned();
    let names = |person: &PersonRow| html! { (dash(Some(&name(person)))) };
    let born = |person: &PersonRow| html! { (dash(person.birth_date.as_deref())) };
    let gender = |person: &PersonRow| html! { (dash(person.gender.as_deref())) };
    html! {
        div class="scroll" role="region" aria-label="The resource and the candidates" tabindex="0" {
            table {
                caption class="unseen" { "The resource and the candidates" }
                thead { tr {
                    th scope="col" { span class="unseen" { "What is compared" } }
                    @if shown.incoming.is_some() { th scope="col" { "The resource says" } }
                    @for (title, _, _) in &columns { th scope="col" { (title) } }
                } }
                tbody {
                    (line("Name", incoming(&names), &names))
                    (line("Born", incoming(&born), &born))
                    (line("Gender", incoming(&gender), &gender))
                    (line("Numbers", incoming(&identifiers), &identifiers))
                    tr {
                        th scope="row" { "Likeness" }
                        @if shown.incoming.is_some() { td { "–" } }
                        @for (_, candidate, _) in &columns { td { @if let Some(candidate) = candidate { (candidate.grade()) } @else { "–" } } }
                    }
                    tr {
                        th scope="row" { "Field by field" }
                        @if shown.incoming.is_some() { td { "–" } }
                        @for (_, candidate, _) in &columns { td { @if let Some(candidate) = candidate { (reasons(candidate)) } @else { "–" } } }
                    }
                    tr {
                        th scope="row" { "Patient" }
                        @if shown.incoming.is_some() { td { "–" } }
                        @for (_, candidate, person) in &columns {
                            td class="mono" {
                                @if let Some(candidate) = candidate { (candidate.patient) }
                                @else if let Some(id) = person.and_then(|person| person.id) { (id) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn reasons(candidate: &Candidate) -> Markup {
    html! {
        @for (field, agreement) in &candidate.reasons {
            @let tone = match agreement.as_str() { "agrees" => Tone::Good, "near" => Tone::Warn, _ => Tone::Bad };
            div { (said(field)) ": " (parts::badge(agreement, tone)) }
        }
        @if candidate.reasons.is_empty() { "–" }
    }
}

/// A, B, … Z, then numbers.
fn letter(index: usize) -> String {
    u8::try_from(index)
        .ok()
        .filter(|index| *index < 26)
        .map_or_else(|| (index + 1).to_string(), |index| char::from(b'A' + index).to_string())
}

fn decision(review: &Review, candidates: &[Candidate]) -> Markup {
    let option = |value: &str, words: Markup| {
        html! { label class="tick" { input type="radio" name="decision" value=(value) required; span { (words) } } }
    };
    html! {
        form method="post" class="card" action={ "/admin/reviews/" (review.id) "/decide" } {
            fieldset {
                legend { "Whose is it?" }
                @for (index, candidate) in candidates.iter().enumerate() {
                    (option(&format!("link:{}", candidate.patient), html! { "Candidate " (letter(index)) " · " span class="mono" { (candidate.patient) } " · " (candidate.grade()) }))
                }
                @if review.statement_id.is_some() {
                    (option("new_patient", html! { "A patient of its own" }))
                }
                (option("reject", html! { "Nobody's: it stays unlinked" }))
            }
            label class="wide" { span { "Reason (goes into the audit log)" } input type="text" name="reason" required maxlength="1000" autocomplete="off"; }
            button class="busy" { "Decide, and to the next one" }
        }
    }
}

fn decided(review: &Review) -> Markup {
    let answer = review.decision.as_ref().and_then(|decision| decision.get("decision")).and_then(Value::as_str);
    html! {
        div class="card" {
            (parts::facts(&[
                ("Answer", html! { (answer.map_or_else(|| "none: the question went away by itself".to_owned(), said)) }),
                ("Patient", html! { @if let Some(patient) = review.patient_id { span class="mono" { (patient) } } @else { "–" } }),
                ("By", html! { (review.decided_by.as_deref().unwrap_or("–")) }),
                ("When", parts::time_or_dash(review.decided_at)),
            ]))
        }
    }
}

/// `POST /admin/reviews/{id}/decide`: then to the next open one.
pub(super) async fn decide(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    let organization = own(&visitor).ok_or_else(|| visitor.forbidden(NOT_THEIRS))?;
    let id: ReviewId = id.parse().map_err(|_| missing())?;
    let (answer, patient) = chosen(form.need("decision")?)?;
    let by = By { actor: visitor.actor.clone(), reason: form.reason()? };
    let act = reviewing::act(&app.db, organization, by, move |connection, by| {
        Box::pin(async move { acts::decide(connection, organization, id, answer, patient, &by).await })
    });
    act.await.map_err(refused)?;
    // The next older one, as the list goes on; else from the top.
    let mut next = page_of(&app, organization, "open".to_owned(), Some(id), 1).await?;
    if next.is_empty() {
        next = page_of(&app, organization, "open".to_owned(), None, 1).await?;
    }
    let path =
        next.first().map_or_else(|| "/admin/reviews".to_owned(), |review| format!("/admin/reviews/{}", review.id));
    Ok(Redirect::to(&format!("{path}?note=decided")).into_response())
}

/// `link:pat_…`, `new_patient` or `reject`.
fn chosen(word: &str) -> Result<(Answer, Option<PatientId>), Refused> {
    let unknown = || Refused::Invalid("Choose one of the answers.".to_owned());
    match word.split_once(':') {
        Some(("link", patient)) => Ok((Answer::Link, Some(patient.parse().map_err(|_| unknown())?))),
        None if word == "new_patient" => Ok((Answer::NewPatient, None)),
        None if word == "reject" => Ok((Answer::Reject, None)),
        _ => Err(unknown()),
    }
}

fn refused(error: ActError) -> Refused {
    match error {
        ActError::ReviewNotFound => missing(),
        ActError::ReviewDecided => {
            Refused::Conflict("The review was decided otherwise, or its question went away.".to_owned())
        }
        ActError::PatientNotFound => Refused::NotFound("There is no such patient."),
        ActError::EventNotFound => Refused::NotFound("There is no such event."),
        ActError::MergeConflict => {
            Refused::Conflict("The patient was merged otherwise already, or is not merged.".to_owned())
        }
        ActError::NotPossible(why) => Refused::Invalid(why.replace('`', "")),
        ActError::Db(error) => error.into(),
    }
}
