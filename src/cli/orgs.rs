//! `orgs …` and `keys …`, over HTTP.

use super::client::{Client, ClientError, encode};
use super::webhooks::{self, WebhookCommand};
use super::{out, serve};
use crate::auth::Role;
use crate::config::Config;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Organizations.
#[derive(Debug, clap::Subcommand)]
pub enum OrgsCommand {
    /// Create an organization.
    #[command(after_help = "Example:\n  chartgate orgs create \"St. Mary's\"")]
    Create {
        /// Unique name.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List organizations.
    #[command(after_help = "Example:\n  chartgate orgs list --json | jq -r .id")]
    List {
        /// One JSON line an organization.
        #[arg(long)]
        json: bool,
    },
    /// Pause: its jobs are accepted and wait.
    #[command(after_help = "Example:\n  chartgate orgs pause \"St. Mary's\" --reason \"downtime\"")]
    Pause {
        /// Name or id.
        organization: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Resume a paused organization.
    #[command(after_help = "Example:\n  chartgate orgs resume \"St. Mary's\" --reason \"downtime\"")]
    Resume {
        /// Name or id.
        organization: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// API keys.
#[derive(Debug, clap::Subcommand)]
pub enum KeysCommand {
    /// Create a key; it is shown once.
    #[command(
        after_help = "Example:\n  chartgate keys create --organization \"St. Mary's\" --role sender --name \"lab system\""
    )]
    Create {
        /// Name or id; not for the platform role.
        #[arg(long)]
        organization: Option<String>,
        /// What the key may do.
        #[arg(long, value_enum)]
        role: Role,
        /// For people.
        #[arg(long, default_value = "")]
        name: String,
        /// Label of the sending system: resource ids of two systems are told apart by it.
        #[arg(long, default_value = "default")]
        source: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List keys, never their secrets.
    #[command(after_help = "Example:\n  chartgate keys list")]
    List {
        /// One JSON line a key.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key, by the part between its first two underscores.
    #[command(after_help = "Example:\n  chartgate keys revoke 21a3303bf7a5ffaa")]
    Revoke {
        /// The key's id.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a key's successor; the old key ends after the overlap.
    #[command(after_help = "Example:\n  chartgate keys rotate 21a3303bf7a5ffaa --overlap 2d")]
    Rotate {
        /// The key's id: the part between its first two underscores.
        id: String,
        /// How long the old key stays good beside the new one, such as 1d, 2h or 0s.
        #[arg(long, default_value = "1d", value_parser = humantime::parse_duration)]
        overlap: std::time::Duration,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make, list and revoke secrets that webhooks are signed with (role admin).
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Write the first platform key straight into the database.
    #[command(after_help = "Example:\n  DATABASE_URL=postgres://… chartgate keys bootstrap --json")]
    Bootstrap {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

async fn organization_id(client: &Client, text: &str) -> anyhow::Result<String> {
    let list: Value = client.get("/v1/admin/organizations").await?;
    let found = list["organizations"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["id"] == json!(text) || one["name"] == json!(text));
    let id = found.and_then(|one| one["id"].as_str()).map(str::to_owned);
    id.ok_or_else(|| {
        ClientError::Settings(format!("there is no organization \"{text}\"; see `chartgate orgs list`")).into()
    })
}

/// Run an `orgs` command.
///
/// # Errors
/// The server's refusal.
pub async fn run_orgs(command: OrgsCommand) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    match command {
        OrgsCommand::Create { name, json: as_json } => {
            let created: Value = client.post("/v1/admin/organizations", &json!({ "name": name })).await?;
            if as_json {
                out::json(&created)?;
            } else {
                out::line(created["id"].as_str().unwrap_or_default());
            }
        }
        OrgsCommand::List { json: as_json } => {
            let list: Value = client.get("/v1/admin/organizations").await?;
            print_list(&list["organizations"], as_json, &["id", "name", "status"])?;
        }
        OrgsCommand::Pause { organization, reason, json } => {
            set_status(&client, &organization, "pause", reason, json).await?;
        }
        OrgsCommand::Resume { organization, reason, json } => {
            set_status(&client, &organization, "resume", reason, json).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set_status(
    client: &Client,
    organization: &str,
    act: &str,
    reason: Option<String>,
    as_json: bool,
) -> anyhow::Result<()> {
    let id = organization_id(client, organization).await?;
    let changed: Value =
        client.post(&format!("/v1/admin/organizations/{id}/{act}"), &json!({ "reason": reason })).await?;
    if as_json {
        return out::json(&changed);
    }
    out::line(&format!(
        "{} is {}",
        changed["name"].as_str().unwrap_or_default(),
        changed["status"].as_str().unwrap_or_default()
    ));
    Ok(())
}

/// Run a `keys` command.
///
/// # Errors
/// The server's refusal.
pub async fn run_keys(command: KeysCommand, config: &Config) -> anyhow::Result<ExitCode> {
    if let KeysCommand::Bootstrap { json } = command {
        return serve::bootstrap_key(config, json).await;
    }
    let client = Client::from_environment()?;
    match command {
        KeysCommand::Create { organization, role, name, source, json: as_json } => {
            let request = json!({ "organization": organization, "role": role, "name": name, "source": source });
            let created: Value = client.post("/v1/admin/keys", &request).await?;
            if as_json {
                out::json(&created)?;
            } else {
                out::line(created["key"].as_str().unwrap_or_default());
                out::note("The key is shown this once.");
            }
        }
        KeysCommand::List { json: as_json } => {
            let keys = all_pages(&client, "/v1/admin/keys", "keys").await?;
            print_list(
                &keys,
                as_json,
                &["id", "role", "organizationId", "name", "source", "lastUsedAt", "expiresAt", "revokedAt"],
            )?;
        }
        KeysCommand::Revoke { id, json: as_json } => {
            let _: Value = client
                .send(client.request(reqwest::Method::DELETE, &format!("/v1/admin/keys/{}", encode(&id))))
                .await?;
            if as_json {
                out::json(&json!({ "id": id, "status": "revoked" }))?;
            } else {
                out::line(&format!("{id} is revoked"));
            }
        }
        KeysCommand::Rotate { id, overlap, json: as_json } => {
            let request = json!({ "overlapSeconds": overlap.as_secs() });
            let created: Value = client.post(&format!("/v1/admin/keys/{}/rotate", encode(&id)), &request).await?;
            if as_json {
                out::json(&created)?;
            } else {
                out::line(created["key"].as_str().unwrap_or_default());
                out::note("The key is shown this once.");
            }
        }
        KeysCommand::Webhook(command) => return webhooks::run(command, &client).await,
        KeysCommand::Bootstrap { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// All rows of a list that comes in pages, oldest first, as people read on from what they know.
pub(super) async fn all_pages(client: &Client, path: &str, member: &str) -> anyhow::Result<Value> {
    let mut rows: Vec<Value> = Vec::new();
    let mut query = String::new();
    loop {
        let mut page: Value = client.get(&format!("{path}{query}")).await?;
        if let Some(more) = page[member].as_array_mut() {
            rows.append(more);
        }
        match page["nextCursor"].as_str() {
            Some(cursor) => query = format!("?cursor={}", encode(cursor)),
            None => break,
        }
    }
    rows.reverse();
    Ok(Value::Array(rows))
}

pub(super) fn print_list(list: &Value, as_json: bool, columns: &[&str]) -> anyhow::Result<()> {
    let items = list.as_array().cloned().unwrap_or_default();
    if as_json {
        return items.iter().try_for_each(out::json);
    }
    let header: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let cell = |item: &Value, column: &str| item[column].as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
    out::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    Ok(())
}
