//! Traces of the real binary, as a collector gets them.

use super::collector::{Collector, Span};
use super::served::Served;
use crate::support::faulty_s3::FaultyS3;
use crate::support::objects::{ACCESS_KEY, BUCKET, SECRET_KEY, TestObjects};
use chartgate::ingest::fhir::sample::{self, Size};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BUNDLES: &str = "/v1/ingestion/fhir/Bundle";
const FHIR: (&str, &str) = ("content-type", "application/fhir+json");
const JSON: (&str, &str) = ("content-type", "application/json");
const STEPS: [&str; 5] = ["validate", "store_raw", "link_patient", "extract_findings", "audit"];

/// A trace of the sender's.
fn traceparent(number: u8) -> (String, String, String) {
    let (trace, span) = (format!("{number:02x}af7651916cd43dd8448eb211c80319"), format!("{number:02x}ad6b7169203331"));
    (format!("00-{trace}-{span}-01"), trace, span)
}

async fn post(served: &Served, seed: u64, headers: &[(&str, &str)]) -> String {
    let headers = [&[FHIR], headers].concat();
    let (status, answer) =
        served.ask(Method::POST, BUNDLES, "sender", &headers, sample::bundle(seed, 1, Size::Small)).await;
    assert_eq!(status, 202, "{answer}");
    answer["jobId"].as_str().unwrap().to_owned()
}

fn of_job<'a>(job: &'a str, step: &'a str) -> impl Fn(&Span) -> bool + 'a {
    move |span| {
        span.attribute("chartgate.job.id") == job && (step.is_empty() || span.attribute("chartgate.step.name") == step)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_follows_a_request_through_every_step_attempt_delivery_and_round() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let collector = Collector::start().await;
    let objects = TestObjects::start().await;
    let faulty = FaultyS3::start(&objects.endpoint());
    let endpoint = faulty.endpoint();
    let served = Served::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20for-the-collector"),
        ("OTEL_SERVICE_NAME", "ingest-east"),
        ("CHARTGATE_TELEMETRY_LOG_LEVEL", "debug"),
        ("CHARTGATE_CALLBACKS_ALLOW_HTTP", "true"),
        ("CHARTGATE_CALLBACKS_ALLOW_PRIVATE", "127.0.0.0/8"),
        ("CHARTGATE_S3_ENDPOINT", &endpoint),
        ("CHARTGATE_S3_BUCKET", BUCKET),
        ("CHARTGATE_S3_ACCESS_KEY", ACCESS_KEY),
        ("CHARTGATE_S3_SECRET_KEY", SECRET_KEY),
    ])
    .await;

    // From the sender's span to the request's, from there to five steps.
    let (header, trace, span) = traceparent(1);
    let job = post(&served, 1, &[("traceparent", &header), ("x-request-id", "MRN-4711")]).await;
    served.ended(&job, "succeeded").await;
    let steps = collector.wait(5, of_job(&job, "")).await;
    let request =
        collector.wait(1, |span| span.trace == trace && span.name == format!("POST {BUNDLES}")).await.remove(0);
    assert_eq!((request.parent.as_str(), request.attribute("http.response.status_code")), (span.as_str(), "202"));
    assert_eq!(request.attribute("chartgate.request.id"), "", "what a caller wrote is told to nobody");
    assert_eq!(request.resource["service.name"], "ingest-east");
    assert_eq!(collector.first_headers()["authorization"], "Bearer for-the-collector");
    let names: Vec<&str> = steps.iter().map(|span| span.attribute("chartgate.step.name")).collect();
    assert_eq!(BTreeSet::from_iter(names), BTreeSet::from(STEPS));
    for step in &steps {
        assert_eq!((&step.trace, &step.parent, step.status), (&trace, &request.id, 1), "{step:#?}");
        assert_eq!(step.attribute("chartgate.step.outcome"), "succeeded");
        assert!(step.began <= step.ended && step.ended >= request.began, "{step:#?}");
        assert!(step.links.is_empty());
    }
    // Of the sender's header nothing but its ids; of a bad one nothing.
    let bad = "00-QOIZULO1916cd43dd8448eb211c80319-b7ad6b7169203331-01";
    let job = post(&served, 2, &[("traceparent", bad)]).await;
    let steps = collector.wait(5, of_job(&job, "")).await;
    assert!(steps.iter().all(|step| step.trace == steps[0].trace && step.trace != trace));
    let of_ours = |span: &Span| span.trace == steps[0].trace && span.name == format!("POST {BUNDLES}");
    let request = collector.wait(1, of_ours).await.remove(0);
    assert!(request.attribute("chartgate.request.id").starts_with("req_"), "{request:#?}");
    // Whoever began the trace decided that it is not recorded; the next one's is waited for instead of a time.
    let (header, unsampled, _) = traceparent(3);
    let silent = post(&served, 3, &[("traceparent", &header.replace("-01", "-00"))]).await;
    served.ended(&silent, "succeeded").await;

    // A step that fails, and is tried again.
    faulty.refuse(|method, _| (method == Method::PUT).then_some((503, "SlowDown")));
    let (header, trace, _) = traceparent(4);
    let job = post(&served, 4, &[("traceparent", &header)]).await;
    served.until(&job, "retrying", |view| view["status"] == "retrying").await;
    faulty.refuse(|_, _| None);
    served.ended(&job, "succeeded").await;
    let attempts = collector.wait(2, of_job(&job, "store_raw")).await;
    let told: Vec<_> = attempts
        .iter()
        .map(|span| (span.attribute("chartgate.step.attempt"), span.attribute("chartgate.step.outcome"), span.status))
        .collect();
    assert_eq!((told[0], told.last().unwrap().1), (("1", "retried", 2), "succeeded"), "{told:?}");
    assert_eq!(attempts[0].attribute("error.type"), "object_store_unavailable");
    assert_eq!(attempts[0].attribute("chartgate.error.class"), "transient");
    assert!(attempts.iter().all(|span| span.trace == trace && span.parent == attempts[0].parent));
    // The same id in the log's lines: of the request, and of the failure.
    let lines: Vec<Value> = served.log().into_iter().filter(|line| line["trace.id"] == trace.as_str()).collect();
    assert!(lines.iter().any(|line| line["route"] == BUNDLES), "{lines:#?}");
    assert!(lines.iter().any(|line| line["job.id"] == job.as_str() && line["level"] == "WARN"), "{lines:#?}");

    // A later round is in the trace of the request that opened it, with a link to the first; its callback, too.
    let hook = json!({ "url": format!("{}/hook", collector.endpoint), "events": ["job.failed", "job.succeeded"] });
    let (status, answer) = served.ask(Method::POST, "/v1/admin/callbacks", "admin", &[JSON], hook.to_string()).await;
    assert_eq!(status, 201, "{answer}");
    let (header, trace, _) = traceparent(5);
    let refused = json!({"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": {"resourceType": "Patient", "x": 1}}]});
    let headers = [FHIR, ("traceparent", header.as_str())];
    let (_, answer) = served.ask(Method::POST, BUNDLES, "sender", &headers, refused.to_string()).await;
    let job = answer["jobId"].as_str().unwrap().to_owned();
    served.ended(&job, "failed").await;
    let first = collector.wait(1, of_job(&job, "validate")).await.remove(0);
    assert_eq!((first.trace.as_str(), first.attribute("chartgate.step.outcome")), (trace.as_str(), "failed"));
    let delivered =
        collector.wait(1, |span| span.trace == trace && span.attribute("chartgate.workflow.name") == "callback").await;
    assert_eq!((&delivered[0].parent, delivered[0].attribute("chartgate.step.outcome")), (&first.parent, "succeeded"));
    let (header, again, _) = traceparent(6);
    let body = json!({ "from": "failed_step", "reason": "look again" }).to_string();
    let headers = [JSON, ("traceparent", header.as_str())];
    let path = format!("/v1/admin/jobs/{job}/retry");
    assert!(served.ask(Method::POST, &path, "admin", &headers, body).await.0 < 300);
    let second =
        collector.wait(1, |span| of_job(&job, "validate")(span) && span.attribute("chartgate.job.round") == "2").await;
    assert_eq!(second[0].trace, again);
    assert_eq!(second[0].links, [(trace.clone(), first.parent.clone())]);

    // Chunks of an upload: in the trace of whoever asked for its URL.
    let (header, trace, _) = traceparent(7);
    let headers = [JSON, ("traceparent", header.as_str())];
    let wanted = json!({ "contentType": "application/fhir+ndjson" }).to_string();
    let (status, url) = served.ask(Method::POST, "/v1/ingestion/upload-url", "sender", &headers, wanted).await;
    assert_eq!(status, 200, "{url}");
    let line = json!({"resourceType": "Patient", "identifier": [{"system": "urn:oid:1.2.3", "value": "7"}]});
    let mut put = served.client.put(url["uploadUrl"].as_str().unwrap()).body(format!("{line}\n"));
    for (name, value) in url["headers"].as_object().unwrap() {
        put = put.header(name, value.as_str().unwrap());
    }
    assert_eq!(put.send().await.unwrap().status(), 200);
    let job = url["jobId"].as_str().unwrap();
    let complete = format!("/v1/ingestion/uploads/{}/complete", url["uploadId"].as_str().unwrap());
    let (status, answer) = served.ask(Method::POST, &complete, "sender", &[JSON], "").await;
    assert!(status < 300, "{status} {answer}");
    let chunk = collector.wait(1, |span| of_job(job, "")(span) && span.attribute("chartgate.chunk") == "1").await;
    assert_eq!(chunk[0].trace, trace);
    let opened = collector.wait(1, |span| span.attribute("chartgate.step.outcome") == "fanned_out").await;
    assert_eq!((&opened[0].trace, &opened[0].parent), (&trace, &chunk[0].parent));

    assert!(
        collector.spans().iter().all(|span| span.trace != unsampled && span.attribute("chartgate.job.id") != silent)
    );
    let watched = ["/metrics", "/health/ready"];
    assert!(collector.spans().iter().all(|span| !watched.contains(&span.attribute("http.route"))));
}

async fn owner(served: &Served) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(served.data().join("postgres/run"))
        .username("postgres")
        .database("chartgate");
    PgConnection::connect_with(&options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_trace_could_not_be_read_at_its_claim_is_told_in_it_as_soon_as_it_can_be_read() {
    let collector = Collector::start().await;
    let objects = TestObjects::start().await;
    let faulty = FaultyS3::start(&objects.endpoint());
    let endpoint = faulty.endpoint();
    let served = Served::start(&[
        ("CHARTGATE_TELEMETRY_OTLP_ENDPOINT", &collector.endpoint),
        ("CHARTGATE_S3_ENDPOINT", &endpoint),
        ("CHARTGATE_S3_BUCKET", BUCKET),
        ("CHARTGATE_S3_ACCESS_KEY", ACCESS_KEY),
        ("CHARTGATE_S3_SECRET_KEY", SECRET_KEY),
    ])
    .await;
    // The job stands in its second step until it is let go.
    let (there, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_there, may_go) = (Arc::clone(&there), Arc::clone(&go));
    faulty.refuse(move |method, _| {
        if method == Method::PUT && !is_there.swap(true, Ordering::SeqCst) {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !may_go.load(Ordering::SeqCst) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        None
    });
    let mut owner = owner(&served).await;
    sqlx::raw_sql("alter function traces_of rename to traces_away").execute(&mut owner).await.unwrap();
    let (header, trace, _) = traceparent(1);
    let job = post(&served, 1, &[("traceparent", &header)]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !there.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "the job does not come to its second step");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sqlx::raw_sql("alter function traces_away rename to traces_of").execute(&mut owner).await.unwrap();
    go.store(true, Ordering::SeqCst);
    served.ended(&job, "succeeded").await;
    let told = collector.wait(4, of_job(&job, "")).await;
    let steps: BTreeSet<&str> = told.iter().map(|span| span.attribute("chartgate.step.name")).collect();
    assert_eq!(steps, STEPS[1..].iter().copied().collect(), "the first one ended before");
    assert!(told.iter().all(|span| span.trace == trace), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_flushed_at_the_stop_and_a_collector_that_is_away_stops_nothing() {
    let collector = Collector::start().await;
    let mut served = Served::start(&[("CHARTGATE_TELEMETRY_OTLP_ENDPOINT", &collector.endpoint)]).await;
    let job = post(&served, 1, &[]).await;
    served.ended(&job, "succeeded").await;
    served.stop().await;
    let told = collector.spans().into_iter().filter(of_job(&job, "")).count();
    assert_eq!(told, 5, "what was told before the end arrived before the process ended");

    // Nobody listens there: the port was this test's own.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let mut served = Served::start(&[("CHARTGATE_TELEMETRY_OTLP_ENDPOINT", &endpoint)]).await;
    let mut last = String::new();
    for seed in 0..20 {
        last = post(&served, seed, &[]).await;
    }
    served.ended(&last, "succeeded").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while !served
        .log()
        .iter()
        .any(|line| line["message"].as_str().is_some_and(|text| text.contains("does not take spans")))
    {
        assert!(std::time::Instant::now() < deadline, "the log does not say that the collector is away");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (code, said) = served.run("platform", &["doctor"]).await;
    assert!(said.contains("FAIL  collector"), "{code} {said}");
    served.stop().await;
}
