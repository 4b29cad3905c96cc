//! Configuration: defaults < `chartgate.toml` (`--config`) < environment. All faults are reported together.
//!
//! [`KEYS`] is the list that `docs/configuration.md` and `--help` speak of; a test compares them. Secrets are
//! [`SecretString`]s and never print.

pub mod callbacks;
pub mod jwt;
mod keys;
mod limits;
pub mod origins;
mod retention;
mod traces;

pub use keys::{KEYS, variable_of};
pub use limits::{BODY_WINDOW, LimitsConfig, TlsConfig};
pub use retention::RetentionConfig;
pub use traces::TracesConfig;

use crate::secrets::Secrets;
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In the data directory, unless `audit.signing_key_file` says otherwise.
const AUDIT_KEY_FILE: &str = "audit-signing-key.pem";

/// How the database is reached.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `None`: embedded.
    pub url: Option<SecretString>,
    /// Owner's URL for migrations.
    pub migrate_url: Option<SecretString>,
    /// Pool size.
    pub connections_max: u32,
    /// Tests only.
    pub allow_unsafe: bool,
}

/// How object storage is reached.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Start the embedded one.
    pub embedded: bool,
    /// Endpoint of another S3 than AWS.
    pub endpoint: Option<String>,
    /// Bucket.
    pub bucket: String,
    /// Region.
    pub region: String,
    /// Key prefix.
    pub prefix: String,
    /// Access key id.
    pub access_key: Option<String>,
    /// Secret.
    pub secret_key: Option<SecretString>,
    /// Address of the embedded server.
    pub listen: SocketAddr,
    /// Notifications in SQS.
    pub events_queue_url: Option<String>,
}

/// Everything, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Embedded servers' data.
    pub data_dir: PathBuf,
    /// HTTP address.
    pub listen: SocketAddr,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// S3.
    pub s3: S3Config,
    /// Of one organization, at once.
    pub uploads_waiting_max: u32,
    /// Between two sweeps of the watcher.
    pub watcher_sweep: Duration,
    /// Life of objects below `incoming/` that are of no use.
    pub watcher_keep: Duration,
    /// Bytes, after content decoding.
    pub intake_max_body_bytes: usize,
    /// Origins for every organization, in canonical form.
    pub cors_origins: Vec<String>,
    /// Outbound callbacks.
    pub callbacks: callbacks::CallbackConfig,
    /// Seals secrets that must be usable; `None`: the key is in a file.
    pub secrets_key: Option<SecretString>,
    /// Jobs at once.
    pub workers_concurrency: usize,
    /// Chunks at once.
    pub workers_chunks: usize,
    /// Lease.
    pub lease: Duration,
    /// How long data are kept.
    pub retention: RetentionConfig,
    /// Private key of the audit log, if it is elsewhere than [`Config::audit_key`] would look for it.
    pub audit_signing_key_file: Option<PathBuf>,
    /// Public keys that are known to be the audit log's.
    pub audit_trusted_keys: Vec<String>,
    /// Own workflow files.
    pub workflows_dir: Option<PathBuf>,
    /// Whose tokens are accepted.
    pub jwt: Vec<jwt::IssuerConfig>,
    /// Log filter.
    pub log_level: String,
    /// JSON lines instead of text.
    pub log_json: bool,
    /// Where a process without the API answers `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
    /// Where spans go; none: nowhere.
    pub traces: Option<TracesConfig>,
    /// What one caller, and all of them together, may take.
    pub limits: LimitsConfig,
    /// HTTPS instead of HTTP.
    pub tls: Option<TlsConfig>,
}

/// All faults of the configuration at once.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):\n{}", .0.len(), .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Where data goes when nothing is configured: `/var/lib/chartgate` for root (whose home no other account may enter),
/// else `$XDG_DATA_HOME/chartgate` or `~/.local/share/chartgate` (XDG Base Directory Specification).
#[must_use]
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/chartgate");
    }
    // The specification: relative paths in these variables are invalid and ignored.
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("chartgate")
}

struct Reader {
    values: BTreeMap<&'static str, (String, String)>,
    faults: Vec<String>,
}

impl Reader {
    fn text(&self, key: &str) -> Option<String> {
        self.values.get(key).map(|(value, _)| value.clone()).filter(|value| !value.is_empty())
    }

    fn parse<T>(&mut self, key: &str, default: T, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        match self.values.get(key) {
            None => default,
            Some((value, origin)) => parse(value).unwrap_or_else(|| {
                self.faults.push(format!("{origin}: must be {expected}"));
                default
            }),
        }
    }
}

impl Config {
    /// Where the private key of the audit log is.
    #[must_use]
    pub fn audit_key(&self) -> PathBuf {
        self.audit_signing_key_file.clone().unwrap_or_else(|| self.data_dir.join(AUDIT_KEY_FILE))
    }

    /// Read the file, if any, and the process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_sources(file, &|name| std::env::var_os(name).and_then(|value| value.into_string().ok()))
    }

    /// The same with an environment of the caller's.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault.
    pub fn from_sources(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader { values: BTreeMap::new(), faults: Vec::new() };
        if let Some(path) = file {
            read_file(path, &mut reader);
        }
        for (key, others, _, _) in KEYS {
            let own = variable_of(key);
            let found = std::iter::once(own.as_str())
                .chain(others.iter().copied())
                .find_map(|name| environment(name).map(|value| (value, name.to_owned())));
            if let Some((value, name)) = found {
                reader.values.insert(key, (value, name));
            }
        }
        let config = Self::build(&mut reader);
        if reader.faults.is_empty() { Ok(config) } else { Err(ConfigError(reader.faults)) }
    }

    fn build(reader: &mut Reader) -> Self {
        let embedded_s3 = reader.text("s3.endpoint").is_none() && reader.text("s3.bucket").is_none();
        let whole = |max: u64| move |text: &str| text.parse::<u64>().ok().filter(|value| (1..=max).contains(value));
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let flag = |text: &str| text.parse::<bool>().ok();
        let secret = |text: Option<String>| text.map(SecretString::from);
        let lease = reader.parse("lease_seconds", 10.0, "a number of seconds from 0.5 to 3600", |text| {
            text.parse::<f64>().ok().filter(|seconds| (0.5..=3600.0).contains(seconds))
        });
        let body_max = usize::try_from(reader.parse(
            "intake.max_body_bytes",
            16 << 20,
            "a number of bytes, at most 1 GiB",
            whole(1 << 30),
        ))
        .unwrap_or(16 << 20);
        let config = Self {
            limits: LimitsConfig::read(reader, body_max),
            tls: TlsConfig::read(reader),
            retention: RetentionConfig::read(reader),
            data_dir: reader.text("data_dir").map_or_else(default_data_dir, PathBuf::from),
            audit_signing_key_file: reader.text("audit.signing_key_file").map(PathBuf::from),
            audit_trusted_keys: reader.parse(
                "audit.trusted_keys",
                Vec::new(),
                "keys such as chartgate-audit/…+01234567+AQ…",
                |text| {
                    let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty());
                    keys.map(|key| (key.matches('+').count() >= 2).then(|| key.to_owned())).collect()
                },
            ),
            listen: reader.parse(
                "listen",
                SocketAddr::from(([127, 0, 0, 1], 8080)),
                "an address such as 127.0.0.1:8080",
                address,
            ),
            database: DatabaseConfig {
                url: secret(reader.text("database.url")),
                migrate_url: secret(reader.text("database.migrate_url")),
                connections_max: u32::try_from(reader.parse(
                    "database.connections_max",
                    24,
                    "a number from 1 to 1000",
                    whole(1000),
                ))
                .unwrap_or(24),
                allow_unsafe: reader.parse("database.allow_unsafe", false, "true or false", flag),
            },
            s3: S3Config {
                embedded: embedded_s3,
                endpoint: reader.text("s3.endpoint"),
                bucket: reader.text("s3.bucket").unwrap_or_else(|| "chartgate".to_owned()),
                region: reader.text("s3.region").unwrap_or_else(|| "us-east-1".to_owned()),
                prefix: reader.text("s3.prefix").unwrap_or_default(),
                access_key: reader.text("s3.access_key"),
                secret_key: secret(reader.text("s3.secret_key")),
                listen: reader.parse(
                    "s3.listen",
                    SocketAddr::from(([127, 0, 0, 1], 0)),
                    "an address such as 127.0.0.1:9000",
                    address,
                ),
                events_queue_url: reader.text("s3.events_queue_url"),
            },
            uploads_waiting_max: u32::try_from(reader.parse(
                "uploads.waiting_max",
                10_000,
                "a number from 1 to 1000000",
                whole(1_000_000),
            ))
            .unwrap_or(10_000),
            watcher_sweep: Duration::from_secs(reader.parse(
                "watcher.sweep_seconds",
                30,
                "a number of seconds from 1 to 86400",
                whole(86_400),
            )),
            watcher_keep: Duration::from_hours(
                24 * reader.parse("watcher.keep_days", 30, "a number of days from 1 to 3650", whole(3650)),
            ),
            intake_max_body_bytes: body_max,
            cors_origins: reader.parse(
                "cors.origins",
                Vec::new(),
                "origins such as https://ehr.example or chrome-extension://…, without a path and without *",
                |text| {
                    text.split(',')
                        .filter(|one| !one.trim().is_empty())
                        .map(|one| origins::canonical(one.trim()))
                        .collect()
                },
            ),
            callbacks: callbacks::read(reader),
            secrets_key: secret(reader.text("secrets.key")),
            workers_concurrency: usize::try_from(reader.parse(
                "workers.concurrency",
                256,
                "a number from 1 to 10000",
                whole(10_000),
            ))
            .unwrap_or(256),
            workers_chunks: usize::try_from(reader.parse("workers.chunks", 2, "a number from 1 to 1000", whole(1_000)))
                .unwrap_or(2),
            lease: Duration::from_secs_f64(lease),
            workflows_dir: reader.text("workflows.dir").map(PathBuf::from),
            jwt: issuers(reader),
            log_level: reader.text("telemetry.log_level").unwrap_or_else(|| "info".to_owned()),
            log_json: reader.parse("telemetry.log_format", false, "text or json", |text| match text {
                "text" => Some(false),
                "json" => Some(true),
                _ => None,
            }),
            metrics_listen: reader.parse(
                "telemetry.metrics_listen",
                None,
                "an address such as 127.0.0.1:9464",
                |text| {
                    if text.is_empty() { Some(None) } else { address(text).map(Some) }
                },
            ),
            traces: TracesConfig::read(reader),
        };
        if config.database.migrate_url.is_some() && config.database.url.is_none() {
            reader.faults.push("database.migrate_url: needs database.url too".to_owned());
        }
        if let Some(Err(error)) = config.secrets_key.as_ref().map(|text| Secrets::check(text.expose_secret())) {
            reader
                .faults
                .push(format!("{error} (`openssl rand -base64 32` makes some; several with commas between them)"));
        }
        let queue_url = config.s3.events_queue_url.as_deref();
        if queue_url.is_some_and(|url| !(url.starts_with("https://") || url.starts_with("http://"))) {
            reader.faults.push("s3.events_queue_url: must be the URL of a queue".to_owned());
        }
        if config.s3.access_key.is_some() != config.s3.secret_key.is_some() {
            reader.faults.push("s3.access_key and s3.secret_key: give both or neither".to_owned());
        }
        config
    }
}

fn issuers(reader: &mut Reader) -> Vec<jwt::IssuerConfig> {
    let flat: BTreeMap<String, String> = jwt::KEYS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), reader.text(&format!("auth.jwt.{key}"))?)))
        .collect();
    let list = reader.text("auth.jwt.issuers");
    jwt::issuers(&flat, list.as_deref(), &mut reader.faults)
}

fn read_file(path: &Path, reader: &mut Reader) {
    let origin = path.display().to_string();
    let table: toml::Table = match std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| text.parse().map_err(|error: toml::de::Error| error.message().to_owned()))
    {
        Ok(table) => table,
        Err(error) => {
            reader.faults.push(format!("{origin}: {error}"));
            return;
        }
    };
    let mut flat = Vec::new();
    flatten("", &table, &mut flat);
    for (name, value) in flat {
        match KEYS.iter().find(|(key, ..)| *key == name) {
            Some((key, ..)) => {
                reader.values.insert(key, (value, format!("{origin}: {name}")));
            }
            None => reader.faults.push(format!("{origin}: {name}: is not a known key")),
        }
    }
}

fn flatten(prefix: &str, table: &toml::Table, flat: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&name, inner, flat),
            toml::Value::String(text) => flat.push((name, text.clone())),
            // A list of texts is written with commas in the environment.
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                let items: Vec<&str> = items.iter().filter_map(toml::Value::as_str).collect();
                flat.push((name, items.join(",")));
            }
            other => flat.push((name, other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_sources(None, &|name| pairs.get(name).cloned())
    }

    #[test]
    fn without_any_setting_both_servers_are_embedded() {
        let config = with(&[]).unwrap();
        assert!(config.database.url.is_none() && config.s3.embedded);
        assert_eq!(config.lease, Duration::from_secs(10));
    }

    #[test]
    fn the_usual_variables_of_others_are_honored_and_ours_win() {
        let config = with(&[
            ("DATABASE_URL", "postgres://a"),
            ("UPLOAD_BUCKET", "b"),
            ("LOG_LEVEL", "debug"),
            ("CHARTGATE_DATABASE_URL", "postgres://c"),
        ])
        .unwrap();
        assert_eq!(config.database.url.unwrap().expose_secret(), "postgres://c");
        assert!(!config.s3.embedded);
        assert_eq!((config.s3.bucket.as_str(), config.log_level.as_str()), ("b", "debug"));
    }

    #[test]
    fn origins_are_a_list_of_the_file_or_a_text_of_the_environment() {
        let origins = ["https://ehr.example", "chrome-extension://abc"];
        let config = with(&[("CHARTGATE_CORS_ORIGINS", "https://EHR.example:443, chrome-extension://abc,")]).unwrap();
        assert_eq!(config.cors_origins, origins);
        let file = std::env::temp_dir().join(format!("chartgate-origins-{}.toml", std::process::id()));
        std::fs::write(&file, "cors.origins = ['https://ehr.example', 'chrome-extension://abc']").unwrap();
        let config = Config::from_sources(Some(&file), &|_| None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config.unwrap().cors_origins, origins);
        assert!(with(&[]).unwrap().cors_origins.is_empty());
        for bad in ["*", "https://ehr.example/", "https://ehr.example https://b.example"] {
            assert_eq!(with(&[("CHARTGATE_CORS_ORIGINS", bad)]).unwrap_err().0.len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_job_is_not_kept_shorter_than_what_it_brought() {
        let days = |jobs, payloads, findings| {
            with(&[
                ("CHARTGATE_RETENTION_JOBS_DAYS", jobs),
                ("CHARTGATE_RETENTION_PAYLOADS_DAYS", payloads),
                ("CHARTGATE_RETENTION_FINDINGS_DAYS", findings),
            ])
        };
        assert_eq!(with(&[]).unwrap().retention, RetentionConfig::default());
        assert_eq!(days("90", "30", "90").unwrap().retention.shortest(), Some(30));
        assert_eq!(days("0", "0", "7").unwrap().retention.shortest(), Some(7));
        for (jobs, payloads, findings) in [("90", "0", "90"), ("90", "30", "0"), ("90", "91", "30"), ("-1", "0", "0")] {
            assert_eq!(days(jobs, payloads, findings).unwrap_err().0.len(), 1, "{jobs} {payloads} {findings}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once_and_no_secret_prints() {
        let faults = with(&[
            ("CHARTGATE_LISTEN", "here"),
            ("CHARTGATE_LEASE_SECONDS", "0"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("CHARTGATE_SECRETS_KEY", "hunter2"),
        ])
        .unwrap_err();
        assert_eq!(faults.0.len(), 4, "{faults}");
        assert!(faults.0.iter().any(|fault| fault.starts_with("secrets.key does not hold 32 bytes")), "{faults}");
        let config = with(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2")]).unwrap();
        assert!(!format!("{config:?}{faults}").contains("hunter2"));
    }
}
