//! Notifications of a server that is not ours, through SQS: moto sends what S3 sends.
//!
//! It comes from the Python package index, into a directory that later runs find again. Without the index and without that
//! directory the test says that it was skipped.

use super::found_by;
use crate::support::app::{Setup, TestApp};
use crate::support::objects::BUCKET;
use aws_sdk_s3::types::{
    BucketVersioningStatus, Event, NotificationConfiguration, QueueConfiguration, VersioningConfiguration,
};
use chartgate::app::App;
use chartgate::objects::notifications::NotificationQueue;
use chartgate::objects::{Objects, ObjectsOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn install() -> Option<PathBuf> {
    let home = std::env::temp_dir().join("chartgate-test-moto");
    let python = home.join("bin/python3");
    if python.exists() {
        return Some(python);
    }
    // Apart, then renamed: another run must not meet half of it.
    let apart = home.with_extension(std::process::id().to_string());
    let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&apart))
        && succeeds(Command::new("timeout").arg("180").arg(apart.join("bin/python3")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "moto[server]",
        ]));
    if made {
        let _ = std::fs::rename(&apart, &home);
    }
    let _ = std::fs::remove_dir_all(&apart);
    python.exists().then_some(python)
}

/// An application on a moto of its own, with its bucket, and where moto is; none if it cannot be installed.
async fn app() -> Option<(TestApp, String, Server)> {
    let python = tokio::task::spawn_blocking(install).await.unwrap();
    let Some(python) = python else {
        println!("skipped: moto cannot be installed from PyPI here");
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Command::new(python)
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server(server);
    let endpoint = format!("http://127.0.0.1:{port}");
    let options = move |endpoint: &str, test: &ObjectsOptions| ObjectsOptions {
        endpoint: Some(endpoint.to_owned()),
        ..test.clone()
    };
    let at = endpoint.clone();
    let through = Box::new(move |objects: &crate::support::objects::TestObjects| {
        Objects::connect(&options(&at, &objects.client_options()))
    });
    let app = TestApp::with(Setup { s3: Some(through), ..Setup::default() }).await;
    let deadline = Instant::now() + Duration::from_mins(1);
    while app.app.objects.ensure_bucket().await.is_err() {
        assert!(Instant::now() < deadline, "moto does not answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Some((app, endpoint, server))
}

/// The plain SDK, at moto.
fn sdk(app: &TestApp, endpoint: &str) -> aws_sdk_s3::Client {
    aws_sdk_s3::Client::from_conf(app.objects.sdk().config().to_builder().endpoint_url(endpoint).build())
}

#[tokio::test]
async fn of_a_bucket_with_versions_the_one_that_was_taken_up_goes_for_good() {
    let Some((app, endpoint, _server)) = app().await else { return };
    let (sdk, objects) = (sdk(&app, &endpoint), &app.app.objects);
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    sdk.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled).send().await.unwrap();
    let key = format!("incoming/fhir/{}/nightly.ndjson", app.organization.id);
    let put = |body: &'static str| objects.put(&key, body.into(), "application/fhir+ndjson", &[]);
    put("{}").await.unwrap();
    assert_eq!(app.app.watcher.sweep().await.unwrap().taken_up, 1);
    let first = objects.head(&key).await.unwrap().unwrap().version_id.unwrap();
    // Its job ends; the next night's file has the same name, and its job has not ended.
    let ended = "update jobs set status = 'succeeded', finished_at = chartgate_now()";
    sqlx::query(ended).execute(&mut app.owner().await).await.unwrap();
    put("[]").await.unwrap();
    assert_eq!(app.app.watcher.sweep().await.unwrap().taken_up, 1);
    let second = objects.head(&key).await.unwrap().unwrap().version_id.unwrap();
    assert_ne!(first, second);
    app.advance(Duration::from_hours(24 * 31)).await;
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 1);
    let listed = async |key: &str| {
        let listed = sdk.list_object_versions().bucket(BUCKET).prefix(key).send().await.unwrap();
        let versions: Vec<String> = listed.versions().iter().map(|one| one.version_id().unwrap().to_owned()).collect();
        (versions, listed.delete_markers().len())
    };
    assert_eq!(listed(&key).await, (vec![second], 0));
    assert_eq!(objects.get(&key).await.unwrap(), "[]");
    // What is purged leaves no version, and no mark.
    for body in ["1", "2", "3"] {
        objects.put("chunks/x", body.into(), "text/plain", &[]).await.unwrap();
    }
    assert_eq!(listed("chunks/x").await.0.len(), 3);
    objects.purge("chunks/x").await.unwrap();
    assert_eq!(listed("chunks/x").await, (vec![], 0));
    objects.purge("chunks/x").await.unwrap();
}

#[tokio::test]
async fn objects_of_a_real_s3_are_taken_up_through_its_queue() {
    let Some((app, endpoint, _server)) = app().await else { return };

    // A queue, by the plain protocol, and the bucket's notifications into it.
    let created = app
        .client
        .post(&endpoint)
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=x/20260301/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=x",
        )
        .header("content-type", "application/x-www-form-urlencoded")
        .body("Action=CreateQueue&QueueName=incoming&Version=2012-11-05")
        .send()
        .await
        .unwrap();
    assert_eq!(created.status(), 200);
    let text = created.text().await.unwrap();
    let url = text.split("<QueueUrl>").nth(1).unwrap().split('<').next().unwrap();
    let path = url.splitn(4, '/').nth(3).unwrap();
    let account = path.split('/').next().unwrap();
    let queue = QueueConfiguration::builder()
        .queue_arn(format!("arn:aws:sqs:us-east-1:{account}:incoming"))
        .events(Event::S3ObjectCreated)
        .build()
        .unwrap();
    sdk(&app, &endpoint)
        .put_bucket_notification_configuration()
        .bucket(BUCKET)
        .notification_configuration(NotificationConfiguration::builder().queue_configurations(queue).build())
        .send()
        .await
        .unwrap();

    let organization = app.organization.id;
    let keys = ["plain.ndjson", "with space+plus é.json", "third.json"]
        .map(|name| format!("incoming/fhir/{organization}/{name}"));
    for key in &keys {
        app.app.objects.put(key, "{}".into(), "application/json", &[]).await.unwrap();
    }
    app.app.objects.put("raw/elsewhere", "{}".into(), "application/json", &[]).await.unwrap();

    let connection = options_of(&app, &endpoint);
    let queue = NotificationQueue::connect(&format!("{endpoint}/{path}"), &connection).unwrap();
    // While S3 is away, what it must be asked for comes back later; what is of no use (the test event, an object that lies
    // elsewhere) is done with.
    let away = Objects::connect(&options_of(&app, "http://127.0.0.1:1"));
    let away = App::build(app.app.config.clone(), app.owner_options.clone(), away).await.unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut received = 0;
    while received < 5 {
        assert!(Instant::now() < deadline, "after {received} messages");
        received += away.watcher.drain(&queue).await.unwrap();
    }
    assert_eq!((received, found_by(&app, "queue").await), (5, 0));
    let (postponed, mut received) = (Instant::now(), 0);
    while found_by(&app, "queue").await < 3 || received < 3 {
        assert!(Instant::now() < deadline, "after {received} messages");
        received += app.app.watcher.drain(&queue).await.unwrap();
    }
    // Five seconds after the first time.
    assert!(received == 3 && postponed.elapsed() > Duration::from_secs(3), "{received} {:?}", postponed.elapsed());
    // The test event, three objects and one that lies elsewhere: all done with, and deleted.
    super::assert_each_once(&app, 3).await;
    let swept = app.app.watcher.sweep().await.unwrap();
    assert_eq!((swept.listed, swept.known, swept.taken_up), (3, 3, 0), "{swept:?}");
    let attributes = app
        .client
        .post(&endpoint)
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=x/20260301/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=x",
        )
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("Action=GetQueueAttributes&AttributeName.1=All&Version=2012-11-05&QueueUrl={endpoint}/{path}"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    // However the XML is laid out.
    let attributes: String = attributes.split_whitespace().collect();
    for name in ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"] {
        assert!(attributes.contains(&format!("<Name>{name}</Name><Value>0</Value>")), "{attributes}");
    }
}

fn options_of(app: &TestApp, endpoint: &str) -> ObjectsOptions {
    ObjectsOptions { endpoint: Some(endpoint.to_owned()), ..app.objects.client_options() }
}
