//! `reviews list|show|decide` and `patients merge|unmerge|unlink|link`, over HTTP.

use super::client::{Client, encode};
use super::out;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Reviews.
#[derive(Debug, clap::Subcommand)]
pub enum ReviewsCommand {
    /// List reviews, newest first; ids, reasons and scores, no clinical values.
    #[command(after_help = "Examples:\n  chartgate reviews list\n  chartgate reviews list --status decided --json")]
    List {
        /// open, decided or superseded.
        #[arg(long, default_value = "open")]
        status: String,
        /// Reviews, at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// One JSON line a review.
        #[arg(long)]
        json: bool,
    },
    /// Show a review with the people side by side; the read is audited.
    #[command(after_help = "Example:\n  chartgate reviews show rev_…")]
    Show {
        /// `rev_…`
        review: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Decide a review: link to a patient, a new patient, or nobody's.
    #[command(
        after_help = "Examples:\n  chartgate reviews decide rev_… --link pat_… --reason \"birth date mistyped, confirmed by phone\"\n  chartgate reviews decide rev_… --new --reason \"number was given twice\"\n  chartgate reviews decide rev_… --reject --reason \"test record\""
    )]
    Decide {
        /// `rev_…`
        review: String,
        /// It is this patient: `pat_…`
        #[arg(long, value_name = "PATIENT", required_unless_present_any = ["new", "reject"], conflicts_with_all = ["new", "reject"])]
        link: Option<String>,
        /// It is a patient of its own.
        #[arg(long, conflicts_with = "reject")]
        new: bool,
        /// It is nobody's.
        #[arg(long)]
        reject: bool,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Patients.
#[derive(Debug, clap::Subcommand)]
pub enum PatientsCommand {
    /// Merge a patient into another one.
    #[command(after_help = "Example:\n  chartgate patients merge pat_… --into pat_… --reason \"registered twice\"")]
    Merge {
        /// Who goes: `pat_…`
        patient: String,
        /// Who stays: `pat_…`
        #[arg(long)]
        into: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Take a merge back.
    Unmerge {
        /// Who went: `pat_…`
        patient: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Take an event from its patient.
    Unlink {
        /// `evt_…`
        event: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Give an event to a patient.
    Link {
        /// `evt_…`
        event: String,
        /// `pat_…`
        #[arg(long)]
        patient: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
    },
}

/// Run `reviews …`.
pub async fn run_reviews(command: ReviewsCommand) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    match command {
        ReviewsCommand::List { status, limit, json } => list(&client, &status, limit, json).await?,
        ReviewsCommand::Show { review, json } => {
            let shown: Value = client.get(&format!("/v1/admin/reviews/{}", encode(&review))).await?;
            if json { out::json(&shown)? } else { show(&shown) }
        }
        ReviewsCommand::Decide { review, link, new, reject: _, reason, json } => {
            let body = match link {
                Some(patient) => json!({"decision": "link", "patient": patient, "reason": reason}),
                None => json!({"decision": if new { "new_patient" } else { "reject" }, "reason": reason}),
            };
            let decided: Value = client.post(&format!("/v1/admin/reviews/{}/decide", encode(&review)), &body).await?;
            if json {
                out::json(&decided)?;
            } else {
                let whose = decided["patient"].as_str().unwrap_or("nobody");
                out::line(&format!("{}: decided, now of {whose}", text(&decided["reviewId"])));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Run `patients …`.
pub async fn run_patients(command: PatientsCommand) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    let (path, body) = match command {
        PatientsCommand::Merge { patient, into, reason } => {
            (format!("patients/{}/merge", encode(&patient)), json!({"into": into, "reason": reason}))
        }
        PatientsCommand::Unmerge { patient, reason } => {
            (format!("patients/{}/unmerge", encode(&patient)), json!({ "reason": reason }))
        }
        PatientsCommand::Unlink { event, reason } => {
            (format!("events/{}/unlink", encode(&event)), json!({ "reason": reason }))
        }
        PatientsCommand::Link { event, patient, reason } => {
            (format!("events/{}/link", encode(&event)), json!({"patient": patient, "reason": reason}))
        }
    };
    let done: Value = client.post(&format!("/v1/admin/{path}"), &body).await?;
    out::line(&format!("done; {} events are somewhere else now", done["relinked"]));
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { "-".to_owned() } else { value.to_string() }, str::to_owned)
}

async fn list(client: &Client, status: &str, limit: usize, json: bool) -> anyhow::Result<()> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut cursor: Option<String> = None;
    while rows.len() < limit {
        let page = (limit - rows.len()).min(200);
        let mut path = format!("/v1/admin/reviews?status={}&limit={page}", encode(status));
        if let Some(cursor) = &cursor {
            path = format!("{path}&cursor={}", encode(cursor));
        }
        let answer: Value = client.get(&path).await?;
        for review in answer["reviews"].as_array().into_iter().flatten() {
            if json {
                out::json(review)?;
            }
            let best = &review["candidates"][0];
            rows.push(vec![
                text(&review["reviewId"]),
                text(&review["reason"]),
                text(&review["kind"]),
                if review["blocking"] == json!(true) { "yes" } else { "no" }.to_owned(),
                text(&best["patient"]),
                text(&best["grade"]),
                text(&review["createdAt"]),
            ]);
        }
        cursor = answer["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if !json {
        out::table(&["REVIEW", "REASON", "KIND", "BLOCKS", "BEST CANDIDATE", "GRADE", "ASKED"], &rows);
    }
    Ok(())
}

fn show(review: &Value) {
    for (name, key) in
        [("review", "reviewId"), ("status", "status"), ("reason", "reason"), ("kind", "kind"), ("event", "eventId")]
    {
        out::line(&format!("{name:<9}{}", text(&review[key])));
    }
    out::line(&format!("waiting  {} events", review["waiting"]));
    let row = |who: &str, person: &Value, score: &Value| {
        let given: Vec<String> = person["name"]["given"].as_array().into_iter().flatten().map(text).collect();
        let numbers = person["identifiers"].as_array().into_iter().flatten();
        let numbers: Vec<String> =
            numbers.map(|number| format!("{}|{}", text(&number["system"]), text(&number["value"]))).collect();
        vec![
            who.to_owned(),
            text(&person["name"]["family"]),
            given.join(" "),
            text(&person["birthDate"]),
            text(&person["gender"]),
            numbers.join(" "),
            text(&score["grade"]),
            text(&score["score"]),
        ]
    };
    let mut rows = Vec::new();
    if !review["incoming"].is_null() {
        rows.push(row("incoming", &review["incoming"], &Value::Null));
    }
    for person in review["people"].as_array().into_iter().flatten() {
        let candidates = review["candidates"].as_array().into_iter().flatten();
        let score = candidates.into_iter().find(|candidate| candidate["patient"] == person["patient"]);
        rows.push(row(&text(&person["patient"]), person, score.unwrap_or(&Value::Null)));
    }
    out::line("");
    out::table(&["WHO", "FAMILY", "GIVEN", "BORN", "GENDER", "NUMBERS", "GRADE", "SCORE"], &rows);
}
