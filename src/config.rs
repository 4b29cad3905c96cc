//! Configuration: defaults < `chartgate.toml` (`--config`) < environment. All faults are reported together.
//!
//! [`KEYS`] is the list that `docs/configuration.md` and `--help` speak of; a test compares them. Secrets are
//! [`SecretString`]s and never print.

pub mod callbacks;
pub mod jwt;
mod limits;
pub mod origins;

pub use limits::{BODY_WINDOW, LimitsConfig, TlsConfig};

use secrecy::SecretString;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every key: name in the file (dotted), other environment variables that are honored, default, meaning. The
/// environment variable of a key is `CHARTGATE_` and the name in capitals with `_` for `.`.
pub const KEYS: &[(&str, &[&str], &str, &str)] = &[
    (
        "data_dir",
        &[],
        "/var/lib/chartgate as root, else ~/.local/share/chartgate",
        "Where the embedded PostgreSQL, the embedded S3 and the demo's credentials live.",
    ),
    ("listen", &[], "127.0.0.1:8080", "Address and port of the HTTP API."),
    ("database.url", &["DATABASE_URL"], "embedded", "PostgreSQL to use instead of the embedded one."),
    (
        "database.migrate_url",
        &[],
        "database.url",
        "The owner's URL: runs the migrations and creates the role chartgate_app, as which database.url then logs in.",
    ),
    ("database.connections_max", &[], "24", "Pooled connections of one process."),
    ("database.allow_unsafe", &[], "false", "Tests only: start although fsync or synchronous_commit is off."),
    (
        "s3.endpoint",
        &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        "embedded, unless s3.bucket is set",
        "S3 to use instead of the embedded one.",
    ),
    ("s3.bucket", &["UPLOAD_BUCKET"], "chartgate", "Bucket of raw payloads and uploads."),
    ("s3.region", &["AWS_REGION", "AWS_DEFAULT_REGION"], "us-east-1", "Region that requests are signed for."),
    ("s3.prefix", &["UPLOAD_PREFIX"], "", "Put before every key."),
    ("s3.access_key", &["AWS_ACCESS_KEY_ID"], "", "Access key id."),
    ("s3.secret_key", &["AWS_SECRET_ACCESS_KEY"], "", "Secret access key."),
    ("s3.listen", &[], "127.0.0.1:0", "Address of the embedded S3."),
    (
        "s3.events_queue_url",
        &[],
        "",
        "Queue of SQS with the bucket's notifications, read by the role watcher; without it the sweep finds all objects.",
    ),
    ("uploads.waiting_max", &[], "10000", "Uploads of one organization that may wait for their object at once."),
    ("watcher.sweep_seconds", &[], "30", "Between two listings of what lies below incoming/."),
    (
        "watcher.keep_days",
        &[],
        "30",
        "How long refused objects are kept, and those of jobs that ended before their bytes were stored.",
    ),
    ("intake.max_body_bytes", &[], "16777216", "Largest request body, after content decoding."),
    (
        "cors.origins",
        &[],
        "",
        "Web origins that may call for every organization, beside the organizations' own: a list, or separated by commas.",
    ),
    (
        "callbacks.allow_http",
        &[],
        "false",
        "Development only: callbacks may have http URLs; bodies and signatures are then readable on the way.",
    ),
    (
        "callbacks.allow_private",
        &[],
        "",
        "Networks that callbacks may reach although they are private or of special purpose, such as 10.1.0.0/16, separated by commas.",
    ),
    ("callbacks.ports", &[], "443,1024-65535", "Ports that callbacks may have, single ones or ranges."),
    (
        "callbacks.disable_after_days",
        &[],
        "5",
        "A callback whose deliveries fail for so long without a success between is disabled.",
    ),
    (
        "callbacks.keep_days",
        &[],
        "30",
        "How long messages of callbacks and the log of their deliveries are kept after their end.",
    ),
    (
        "callbacks.public_url",
        &[],
        "",
        "Where others reach the API; put before the path of the job in messages of callbacks.",
    ),
    ("workers.concurrency", &[], "256", "Jobs under way at once in one process."),
    (
        "workers.chunks",
        &[],
        "2",
        "Chunks of bulk files under way at once in one process, beside the jobs; each may take some 60 MB.",
    ),
    (
        "secrets.key",
        &[],
        "{data_dir}/secrets.key",
        "32 bytes in base64 that seal the secrets of callbacks and of webhook senders in the database; several separated by commas: the first seals, all open.",
    ),
    ("lease_seconds", &[], "10", "How long a claim is good without renewal."),
    (
        "audit.signing_key_file",
        &[],
        "{data_dir}/audit-signing-key.pem",
        "Private key that signs the audit log; made at the first start of a sweeper, and kept out of the database.",
    ),
    (
        "audit.trusted_keys",
        &[],
        "",
        "Public keys that are known to be the audit log's (as `chartgate audit verify` shows them), separated by commas; the signing key's is always among them where its file is.",
    ),
    ("workflows.dir", &[], "", "Directory of workflow files that add to or replace the embedded ones."),
    (
        "auth.jwt.issuer",
        &[],
        "",
        "The exact `iss` of accepted tokens; without an issuer no tokens are accepted. See authentication.md.",
    ),
    ("auth.jwt.name", &[], "the issuer's host", "Names the issuer in audit records."),
    ("auth.jwt.audience", &[], "", "One of these must be in the tokens' `aud`: a list, or separated by commas."),
    ("auth.jwt.jwks_url", &[], "", "Where the issuer's public keys are: https, or http on this host."),
    ("auth.jwt.secret", &[], "", "Instead of auth.jwt.jwks_url: the secret that tokens are signed with by HMAC."),
    (
        "auth.jwt.algorithms",
        &[],
        "RS256,RS384,ES256,ES384,EdDSA; HS256 with a secret",
        "Accepted signatures. HS256, HS384 and HS512 only with auth.jwt.secret, and then only these.",
    ),
    ("auth.jwt.organization", &[], "", "The organization, by id or name, of all tokens, instead of a claim."),
    ("auth.jwt.organization_claim", &[], "organization", "The claim that names the organization, by id or name."),
    ("auth.jwt.roles_claim", &[], "roles", "The claim that names roles: a text or a list of them."),
    (
        "auth.jwt.roles",
        &[],
        "",
        "Further words of that claim, or scopes, and the roles that they give: a list of word=role.",
    ),
    ("auth.jwt.platform", &[], "false", "Tokens may have the role platform."),
    (
        "auth.jwt.source",
        &[],
        "default",
        "Label of the sending system: resource ids of two systems are told apart by it.",
    ),
    ("auth.jwt.lifetime_max_seconds", &[], "86400", "A token's `exp` may be at most so far in the future."),
    ("auth.jwt.issuers", &[], "", "Several issuers: an array of tables with the same keys."),
    (
        "telemetry.log_level",
        &["LOG_LEVEL"],
        "info",
        "error, warn, info, debug or trace, or a tracing filter of targets below `chartgate`; libraries stay at warn.",
    ),
    ("telemetry.log_format", &[], "text", "text or json."),
    ("limits.connections", &[], "4096", "Open connections of one process."),
    (
        "limits.connections_per_address",
        &[],
        "1024",
        "Open connections of one address (IPv6: of one /64). Behind a proxy all are the proxy's: raise it.",
    ),
    (
        "limits.header_seconds",
        &[],
        "10",
        "For a TLS handshake, for a request's whole head, and for the time between two requests of a connection.",
    ),
    (
        "limits.body_bytes_per_second",
        &[],
        "32768",
        "A request's body must bring so much, in every window of ten seconds.",
    ),
    (
        "limits.body_bytes_total",
        &[],
        "268435456, or twice intake.max_body_bytes if that is more",
        "Bytes of request bodies in memory at once, as received and as decompressed.",
    ),
    ("limits.write_seconds", &[], "10", "A client that takes nothing of an answer for so long is cut off."),
    ("limits.validations", &[], "4", "validateOnly requests that are computed at once."),
    ("limits.requests_per_second", &[], "0", "Requests of one organization in one process; 0: no limit."),
    ("limits.burst", &[], "0", "Requests that an organization may send at once after quiet; 0: those of one second."),
    (
        "limits.failed_authentications_per_minute",
        &[],
        "300",
        "Requests without valid credentials from one address; further ones are answered 429. 0: no limit.",
    ),
    (
        "limits.queue_organization",
        &[],
        "1000000",
        "Jobs of one organization in the queue; above, its submissions are answered 429 (uploads from four fifths on). 0: no limit.",
    ),
    (
        "limits.queue_total",
        &[],
        "5000000",
        "Jobs in the queue; above, submissions are answered 503 (uploads from four fifths on). 0: no limit.",
    ),
    (
        "limits.drain_grace_seconds",
        &[],
        "0",
        "How long a process that got SIGTERM still answers while /health/ready says draining; twice the load balancer's interval.",
    ),
    ("tls.certificate", &[], "", "PEM file with the listener's certificate and its chain: HTTPS instead of HTTP."),
    ("tls.key", &[], "", "PEM file with its private key. Both are read again on SIGHUP and when they change."),
];

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

/// The environment variable of a key.
#[must_use]
pub fn variable_of(key: &str) -> String {
    format!("CHARTGATE_{}", key.to_uppercase().replace('.', "_"))
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
        };
        if config.database.migrate_url.is_some() && config.database.url.is_none() {
            reader.faults.push("database.migrate_url: needs database.url too".to_owned());
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
    use secrecy::ExposeSecret as _;

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
    fn all_faults_are_told_at_once_and_no_secret_prints() {
        let faults = with(&[
            ("CHARTGATE_LISTEN", "here"),
            ("CHARTGATE_LEASE_SECONDS", "0"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ])
        .unwrap_err();
        assert_eq!(faults.0.len(), 3, "{faults}");
        let config = with(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2")]).unwrap();
        assert!(!format!("{config:?}{faults}").contains("hunter2"));
    }
}
