//! `keys webhook …`: secrets of webhook senders, over HTTP (role admin).

use super::client::{Client, encode};
use super::{orgs, out};
use serde_json::{Value, json};
use std::io::Read as _;
use std::process::ExitCode;

/// Secrets that webhooks are signed with.
#[derive(Debug, clap::Subcommand)]
pub enum WebhookCommand {
    /// Make a secret, for a new sender or for one that is being rotated; it is shown once.
    #[command(
        after_help = "Examples:\n  chartgate keys webhook create --name \"lab system\" --source lab\n  chartgate keys webhook create --sender whs_… --overlap 1d\n  chartgate keys webhook create --name \"lab system\" --secret-stdin < secret"
    )]
    Create {
        /// For people.
        #[arg(long)]
        name: Option<String>,
        /// Label of the sending system: resource ids of two systems are told apart by it.
        #[arg(long, conflicts_with = "sender")]
        source: Option<String>,
        /// A further secret of this sender.
        #[arg(long, value_name = "whs_…")]
        sender: Option<String>,
        /// Its other secrets end after so long, such as 1d or 2h; left out, they stay.
        #[arg(long, requires = "sender", value_parser = humantime::parse_duration)]
        overlap: Option<std::time::Duration>,
        /// Take the secret that the sender made (`whsec_…`) from standard input: on the command line others could see it.
        #[arg(long)]
        secret_stdin: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List senders and their secrets, never the secrets themselves.
    List {
        /// One JSON line a secret.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a secret by its id.
    Revoke {
        /// The secret's id.
        id: String,
    },
}

/// Run a `keys webhook` command.
///
/// # Errors
/// The server's refusal.
pub async fn run(command: WebhookCommand, client: &Client) -> anyhow::Result<ExitCode> {
    match command {
        WebhookCommand::Create { name, source, sender, overlap, secret_stdin, json: as_json } => {
            let mut secret = None;
            if secret_stdin {
                let mut text = String::new();
                // A secret has some 100 characters.
                std::io::stdin().take(1_000).read_to_string(&mut text)?;
                secret = Some(text.trim().to_owned());
            }
            let request = json!({
                "name": name, "source": source, "sender": sender, "secret": secret,
                "overlapSeconds": overlap.map(|overlap| overlap.as_secs()),
            });
            let created: Value = client.post("/v1/admin/webhook-secrets", &request).await?;
            if as_json {
                out::json(&created)?;
            } else {
                out::line(&format!("Chartgate-Key: {}", created["sender"].as_str().unwrap_or_default()));
                if let Some(secret) = created["secret"].as_str() {
                    out::line(secret);
                    out::note("The secret is shown this once.");
                }
            }
        }
        WebhookCommand::List { json: as_json } => {
            let secrets = orgs::all_pages(client, "/v1/admin/webhook-secrets", "secrets").await?;
            let columns = &["id", "sender", "name", "source", "lastUsedAt", "expiresAt", "revokedAt"];
            orgs::print_list(&secrets, as_json, columns)?;
        }
        WebhookCommand::Revoke { id } => {
            let path = format!("/v1/admin/webhook-secrets/{}", encode(&id));
            let _: Value = client.send(client.request(reqwest::Method::DELETE, &path)).await?;
            out::line(&format!("{id} is revoked"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
