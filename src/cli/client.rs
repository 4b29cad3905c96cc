//! The commands' HTTP client: `CHARTGATE_URL` and `CHARTGATE_API_KEY`, errors in the server's own words.

use crate::ids::{JobId, UploadId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// What a command could not do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Missing or wrong settings.
    #[error("{0}")]
    Settings(String),
    /// No answer.
    #[error("cannot reach {url}: is `chartgate serve` running there? (CHARTGATE_URL)")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server refused.
    #[error("{detail} ({code}, request {request_id}). {action}{hint}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// What happened.
        detail: String,
        /// What to do.
        action: String,
        /// For reports.
        request_id: String,
        /// What to try at this command line; begins a line of its own, or empty.
        hint: String,
    },
}

/// A client of one server with one key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Client {
    /// From the environment.
    ///
    /// # Errors
    /// [`ClientError::Settings`], saying what to set.
    pub fn from_environment() -> Result<Self, ClientError> {
        let read = |name: &str| {
            std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
        };
        let url = read("CHARTGATE_URL").unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
        let key = read("CHARTGATE_API_KEY").ok_or_else(|| {
            ClientError::Settings("set CHARTGATE_API_KEY to a key (an embedded instance keeps its keys in demo-credentials.json in its data directory)".to_owned())
        })?;
        Self::new(&url, &key)
    }

    /// For that server and key.
    ///
    /// # Errors
    /// [`ClientError::Settings`].
    pub fn new(url: &str, key: &str) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_mins(2))
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| ClientError::Settings(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// The server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request with the key.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// Send and read the JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ClientError> {
        let unreachable = |source| ClientError::Unreachable { url: self.url.clone(), source };
        let bytes = self.open(request).await?.bytes().await.map_err(unreachable)?;
        let bytes = if bytes.is_empty() { "null".into() } else { bytes };
        serde_json::from_slice(&bytes)
            .map_err(|_| ClientError::Settings(format!("{} does not answer like Chartgate", self.url)))
    }

    /// Send; the answer's body is yet to be read.
    ///
    /// # Errors
    /// [`ClientError`], also when the server refused.
    pub async fn open(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let unreachable = |source| ClientError::Unreachable { url: self.url.clone(), source };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let path = response.url().path().to_owned();
        let problem: Value = response.json().await.unwrap_or_default();
        let text = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(ClientError::Refused {
            status: status.as_u16(),
            code: text("code"),
            detail: Some(text("detail")).filter(|text| !text.is_empty()).unwrap_or_else(|| status.to_string()),
            action: text("action"),
            request_id: text("requestId"),
            hint: hint(&text("code"), &path).map(|hint| format!("\n  {hint}")).unwrap_or_default(),
        })
    }

    /// GET.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(self.request(reqwest::Method::GET, path)).await
    }

    /// POST of a JSON body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        self.send(self.request(reqwest::Method::POST, path).json(body)).await
    }
}

/// What somebody at a command line should try after a refusal.
fn hint(code: &str, path: &str) -> Option<String> {
    let after = |marker: &str| path.split(marker).nth(1)?.split('/').next().map(str::to_owned);
    match code {
        "unauthenticated" => Some(
            "Set CHARTGATE_API_KEY to a key of this server (CHARTGATE_URL); `chartgate keys list` shows which exist. An embedded instance keeps its keys in demo-credentials.json.".to_owned(),
        ),
        "forbidden" => Some(
            "Use a key of another role in CHARTGATE_API_KEY: `chartgate keys create --role admin …` makes one (role admin or platform).".to_owned(),
        ),
        "job_not_found" => {
            let id = after("/jobs/")?;
            Some(match id.split_once('_').map(|(prefix, _)| prefix) {
                Some("op") => format!("{id} is a bulk operation: chartgate operations show {id}"),
                Some("job" | "upload") if id.parse::<JobId>().is_ok() || id.parse::<UploadId>().is_ok() => {
                    "The id is well formed, but no job of this key's organization has it: see `chartgate jobs list`, and whether CHARTGATE_URL and CHARTGATE_API_KEY are the right ones.".to_owned()
                }
                _ => "That is not a job's id: they are `job_` and 26 small letters and digits; `chartgate jobs list` shows them.".to_owned(),
            })
        }
        "operation_not_found" => Some("`chartgate operations list` shows the operations of this key's organization.".to_owned()),
        _ => None,
    }
}

/// A part of a path or query, percent-encoded (RFC 3986, unreserved characters stay).
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
