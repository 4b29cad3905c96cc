//! `purge` and `holds`: erase a payload or a patient, and forbid erasure, over HTTP (role admin).

use super::client::{Client, encode};
use super::{orgs, out};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Erase a payload with everything that was taken from it, or all payloads that tell of a patient (role admin). It cannot be undone.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate purge --payload 9f86d0… --reason \"sent to the wrong organization, ticket 17\" --dry-run\n  chartgate purge --payload 9f86d0… --reason \"sent to the wrong organization, ticket 17\" --json\n  chartgate purge --patient pat_… --reason \"request of the person, ticket 18\" --dry-run\n\nThe same command again goes on where an earlier one was cut off. Exit code 0: finished, or counted; 1: refused, or it goes on by itself."
)]
pub struct Arguments {
    /// SHA-256 of the payload's exact bytes.
    #[arg(long, value_name = "SHA256", required_unless_present = "patient", conflicts_with = "patient")]
    payload: Option<String>,
    /// A patient: all payloads that tell of them.
    #[arg(long, value_name = "pat_…")]
    patient: Option<String>,
    /// With --patient: payloads that tell of others, too, go whole. Without it they refuse the purge.
    #[arg(long, requires = "patient")]
    shared_payloads: bool,
    /// Why; kept in the audit log.
    #[arg(long)]
    reason: String,
    /// Only count what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Legal holds.
#[derive(Debug, clap::Subcommand)]
pub enum HoldsCommand {
    /// Forbid to erase a payload, what is known of a patient, or everything.
    #[command(
        after_help = "Examples:\n  chartgate holds place --patient pat_… --reason \"litigation 4711\"\n  chartgate holds place --organization --reason \"audit 2026\""
    )]
    Place {
        /// A payload, by its SHA-256.
        #[arg(long, value_name = "SHA256", required_unless_present_any = ["patient", "organization"], conflicts_with_all = ["patient", "organization"])]
        payload: Option<String>,
        /// A patient: all payloads that tell of them.
        #[arg(long, value_name = "pat_…", conflicts_with = "organization")]
        patient: Option<String>,
        /// Everything that the organization has.
        #[arg(long)]
        organization: bool,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List holds, newest first.
    List {
        /// One JSON line a hold.
        #[arg(long)]
        json: bool,
    },
    /// Lift a hold by its id.
    Lift {
        /// The hold's id.
        id: String,
    },
}

/// Run `purge`.
///
/// # Errors
/// The server's refusal.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    let request = json!({
        "payload": arguments.payload, "patient": arguments.patient, "reason": arguments.reason, "dryRun": arguments.dry_run,
        "sharedPayloads": arguments.shared_payloads.then_some("purge"),
    });
    let erasure: Value = client.post("/v1/admin/purge", &request).await?;
    let status = erasure["status"].as_str().unwrap_or_default();
    if arguments.json {
        out::json(&erasure)?;
    } else {
        for (table, rows) in erasure["counts"].as_object().into_iter().flatten() {
            out::line(&format!("{table:<24} {rows}"));
        }
        out::note(match status {
            "planned" => "Nothing was changed. Without --dry-run these rows and objects go for good.",
            "finished" => "Erased. Rows of payloads stay as tombstones; the audit log keeps that they were there.",
            _ => "Nobody can read it any more; the rest goes on by itself. The same command tells how far it is.",
        });
    }
    Ok(ExitCode::from(u8::from(!matches!(status, "planned" | "finished"))))
}

/// Run a `holds` command.
///
/// # Errors
/// The server's refusal.
pub async fn run_holds(command: HoldsCommand) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    match command {
        HoldsCommand::Place { payload, patient, organization, reason, json: as_json } => {
            let request =
                json!({ "payload": payload, "patient": patient, "organization": organization, "reason": reason });
            let hold: Value = client.post("/v1/admin/holds", &request).await?;
            if as_json {
                out::json(&hold)?;
            } else {
                out::line(hold["holdId"].as_str().unwrap_or_default());
            }
        }
        HoldsCommand::List { json: as_json } => {
            let list: Value = client.get("/v1/admin/holds").await?;
            let columns = &["holdId", "kind", "payload", "patient", "reason", "placedBy", "placedAt", "liftedAt"];
            orgs::print_list(&list["holds"], as_json, columns)?;
        }
        HoldsCommand::Lift { id } => {
            let path = format!("/v1/admin/holds/{}", encode(&id));
            let _: Value = client.send(client.request(reqwest::Method::DELETE, &path)).await?;
            out::line(&format!("{id} is lifted"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
