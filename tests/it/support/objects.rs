//! The embedded S3 in a directory of the test's own, and clients of it.

use super::directory::TestDirectory;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use chartgate::objects::embedded::{CreatedObject, EmbeddedS3, EmbeddedS3Error, EmbeddedS3Options};
use chartgate::objects::{Objects, ObjectsOptions};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";
pub const BUCKET: &str = "chartgate";

/// A running server with one bucket.
pub struct TestObjects {
    /// The gateway's own client.
    pub objects: Objects,
    /// Told of every object that appears.
    pub created: UnboundedReceiver<CreatedObject>,
    server: EmbeddedS3,
    directory: TestDirectory,
}

impl TestObjects {
    /// A fresh one.
    pub async fn start() -> Self {
        Self::start_in(TestDirectory::new()).await
    }

    /// In a directory that may hold objects already.
    pub async fn start_in(directory: TestDirectory) -> Self {
        let (sender, created) = unbounded_channel();
        let options = EmbeddedS3Options { created: Some(sender), ..server_options(directory.path().join("objects")) };
        let server = EmbeddedS3::start(options).await.unwrap();
        let objects = Objects::connect(&client_options(&server.endpoint()));
        objects.ensure_bucket().await.unwrap();
        Self { objects, created, server, directory }
    }

    /// Stop, let `meanwhile` touch the files, and start again on another port.
    pub async fn restart(self, meanwhile: impl FnOnce(PathBuf)) -> Self {
        self.server.stop().await;
        meanwhile(self.directory.path().join("objects"));
        Self::start_in(self.directory).await
    }

    /// The directory of the store.
    pub fn dir(&self) -> PathBuf {
        self.directory.path().join("objects")
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// How the gateway connects, to be changed.
    pub fn client_options(&self) -> ObjectsOptions {
        client_options(&self.endpoint())
    }

    /// A second server on the same directory.
    pub async fn start_second(&self) -> Result<EmbeddedS3, EmbeddedS3Error> {
        EmbeddedS3::start(server_options(self.dir())).await
    }

    /// The plain SDK with its defaults, which sends CRC32 checksums as trailers.
    pub fn sdk(&self) -> aws_sdk_s3::Client {
        self.sdk_with(RequestChecksumCalculation::WhenSupported)
    }

    /// The plain SDK.
    pub fn sdk_with(&self, checksums: RequestChecksumCalculation) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.endpoint())
            .force_path_style(true)
            .request_checksum_calculation(checksums)
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"));
        aws_sdk_s3::Client::from_conf(config.build())
    }
}

fn server_options(dir: PathBuf) -> EmbeddedS3Options {
    EmbeddedS3Options {
        dir,
        listen: ([127, 0, 0, 1], 0).into(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.into(),
        region: "us-east-1".to_owned(),
        created: None,
    }
}

fn client_options(endpoint: &str) -> ObjectsOptions {
    ObjectsOptions {
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        bucket: BUCKET.to_owned(),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(SECRET_KEY.into()),
        prefix: String::new(),
        timeout: Duration::from_secs(10),
    }
}

/// As they go over the wire.
pub fn header_lines(headers: &[(String, String)]) -> String {
    headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect()
}

/// One HTTP/1.1 request exactly as given: a real client would correct what the tests want to get wrong. Returns the
/// status and everything behind the answer's headers.
pub async fn raw(method: &str, url: &str, headers: &[(String, String)], body: &[u8]) -> (u16, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let headers = header_lines(headers);
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n");
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // A server that refuses by the headers alone may close before it has read the body.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
