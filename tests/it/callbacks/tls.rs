//! Receivers by https whose certificates come from an authority of the operator's own, or from nobody that is known.

use super::receiver::Receiver;
use super::{deliveries, dispatch, register_url, wait_until};
use crate::support::app::{Setup, TestApp, test_config};
use crate::support::directory::TestDirectory;
use crate::support::submit::submit;
use chartgate::app::App;
use chartgate::config::Config;
use chartgate::objects::{Objects, ObjectsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::sync::LazyLock;
use std::time::Duration;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// The hospital's own authority.
static KNOWN: LazyLock<Authority> =
    LazyLock::new(|| CertifiedIssuer::self_signed(authority("Hospital Root"), KeyPair::generate().unwrap()).unwrap());

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn host(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A receiver with a certificate by that authority, which sends `between` with it.
async fn receiver(params: CertificateParams, by: &Authority, between: &[&Authority]) -> Receiver {
    let key = KeyPair::generate().unwrap();
    let own = params.signed_by(&key, by).unwrap().der().clone();
    let chain: Vec<CertificateDer<'static>> =
        std::iter::once(own).chain(between.iter().map(|authority| authority.der().clone())).collect();
    Receiver::over_tls(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap()).await
}

/// An application that trusts [`KNOWN`] beside the system's authorities, if it is told so.
async fn app(is_told: bool) -> TestApp {
    let reaches_us = |config: &mut Config| {
        config.callbacks.allow_private =
            vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().map(std::net::IpAddr::into).unwrap()];
    };
    let with_authority = |config: &mut Config| {
        config.callbacks.allow_private =
            vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().map(std::net::IpAddr::into).unwrap()];
        std::fs::create_dir_all(&config.data_dir).unwrap();
        let path = config.data_dir.join("authorities.pem");
        // As such files are: another one stands before it, with words around them.
        let other = CertifiedIssuer::self_signed(authority("Other"), KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&path, format!("# other\n{}\n# ours\n{}", other.pem(), KNOWN.pem())).unwrap();
        config.callbacks.ca_file = Some(path);
    };
    TestApp::with(Setup { configure: if is_told { with_authority } else { reaches_us }, ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_is_told_only_if_a_known_authority_says_now_that_it_is_the_host_of_the_url() {
    let app = app(true).await;
    let unknown = CertifiedIssuer::self_signed(authority("Hospital Root"), KeyPair::generate().unwrap()).unwrap();
    let between = CertifiedIssuer::signed_by(authority("Between"), KeyPair::generate().unwrap(), &KNOWN).unwrap();
    let (mut past, mut future) = (host("localhost"), host("localhost"));
    (past.not_before, past.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    (future.not_before, future.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    let lone = KeyPair::generate().unwrap();
    let self_signed = host("localhost").self_signed(&lone).unwrap().der().clone();
    let lone = Receiver::over_tls(vec![self_signed], PrivateKeyDer::try_from(lone.serialize_der()).unwrap()).await;
    let mut named_by_address = receiver(host("127.0.0.1"), &KNOWN, &[]).await;
    named_by_address.url = named_by_address.url.replace("localhost", "127.0.0.1");
    let cases = [
        ("known", receiver(host("localhost"), &KNOWN, &[]).await, None),
        ("known, by its address", named_by_address, None),
        ("known, behind another", receiver(host("localhost"), &between, &[&between]).await, None),
        (
            "its chain has a gap",
            receiver(host("localhost"), &between, &[]).await,
            Some("its authority is not known here"),
        ),
        ("unknown", receiver(host("localhost"), &unknown, &[&unknown]).await, Some("its authority is not known here")),
        ("nobody's", lone, Some("its authority is not known here")),
        ("another name", receiver(host("hooks.example.org"), &KNOWN, &[]).await, Some("it is for another host")),
        ("a name below", receiver(host("*.localhost"), &KNOWN, &[]).await, Some("it is for another host")),
        ("expired", receiver(past, &KNOWN, &[]).await, Some("it has expired, or is not good yet")),
        ("not yet", receiver(future, &KNOWN, &[]).await, Some("it has expired, or is not good yet")),
    ];
    let mut registered = Vec::new();
    for (what, receiver, reason) in &cases {
        registered.push((what, receiver, reason, register_url(&app, &receiver.url).await));
    }
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "fhir-bundle", None).await.job.to_string();
    app.wait_for(&job, "failed").await;
    assert_eq!(dispatch(&app).await, cases.len());
    // Each was tried, some perhaps again by now: the pause before that is drawn by lot.
    let wanted = |is_refused: bool| cases.iter().filter(|(_, _, reason)| reason.is_some() == is_refused).count();
    let delivered = "select count(*) from callback_messages where status = 'delivered'";
    wait_until(&app, delivered, i64::try_from(wanted(false)).unwrap()).await;
    let refused = "select count(distinct job_id) from step_attempts where error_code = 'callback_untrusted'";
    wait_until(&app, refused, i64::try_from(wanted(true)).unwrap()).await;
    for (what, receiver, reason, (id, secret)) in &registered {
        let log = deliveries(&app, id).await;
        assert!(!log.is_empty(), "{what}");
        let received = receiver.received();
        match reason {
            None => {
                assert_eq!((log.len(), &log[0]["outcome"]), (1, &json!("delivered")), "{what}: {log:?}");
                assert_eq!(
                    (received.len(), received[0].signed_by(secret), received[0].job()),
                    (1, 1, job.clone()),
                    "{what}"
                );
            }
            Some(reason) => {
                for attempt in &log {
                    let told = (&attempt["outcome"], &attempt["errorCode"], &attempt["responseStatus"]);
                    assert_eq!(told, (&json!("failed"), &json!("callback_untrusted"), &json!(null)), "{what}: {log:?}");
                }
                assert_eq!(received.len(), 0, "{what}: something was sent");
                let said: Vec<String> = sqlx::query_scalar(
                    "select distinct a.error_message from step_attempts a join callback_messages m on m.delivery_id = a.job_id
                     where m.callback_id = $1",
                )
                .bind(id.parse::<chartgate::ids::CallbackId>().unwrap())
                .fetch_all(&mut app.owner().await)
                .await
                .unwrap();
                let wanted = format!("The callback's receiver showed a certificate that is not trusted: {reason}.");
                assert_eq!(said, [wanted], "{what}");
            }
        }
    }
    // What waits is sent when the receiver has mended its certificate: nothing of it is lost.
    let (_, unknown, _, (id, _)) = &registered[4];
    let mended = receiver(host("localhost"), &KNOWN, &[]).await;
    let (status, view) = super::patch(&app, id, &json!({"url": mended.url})).await;
    assert_eq!(status, 200, "{view}");
    app.advance(Duration::from_hours(3)).await;
    assert_eq!(mended.wait_for(1).await[0].job(), job);
    assert_eq!(unknown.received().len(), 0);
    // The test of a callback tells the same.
    let (_, _, _, (expired, _)) = &registered[8];
    let (status, tried) =
        app.post(&app.organization.admin, &format!("/v1/admin/callbacks/{expired}/test"), &json!({})).await;
    assert_eq!((status, &tried["errorCode"]), (200, &json!("callback_untrusted")), "{tried}");
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_only_the_systems_authorities_are_trusted() {
    let app = app(false).await;
    let receiver = receiver(host("localhost"), &KNOWN, &[]).await;
    let (id, _) = register_url(&app, &receiver.url).await;
    let (status, tried) =
        app.post(&app.organization.admin, &format!("/v1/admin/callbacks/{id}/test"), &json!({})).await;
    assert_eq!((status, &tried["errorCode"]), (200, &json!("callback_untrusted")), "{tried}");
    assert_eq!(receiver.received().len(), 0);
}

#[tokio::test]
async fn a_process_whose_file_of_authorities_cannot_be_used_does_not_start_and_says_why() {
    let app = TestApp::start().await;
    let directory = TestDirectory::new();
    let path = directory.path().join("authorities.pem");
    let nowhere = Objects::connect(&ObjectsOptions {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        ..app.objects.client_options()
    });
    for (text, said) in [
        (None, "cannot be read"),
        (Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "holds no certificate"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let mut config = test_config();
        config.callbacks.ca_file = Some(path.clone());
        let started = App::build(config, app.owner_options.clone(), nowhere.clone()).await;
        let error = started.err().expect("it does not start").to_string();
        assert!(
            error.starts_with("callbacks.ca_file: ") && error.contains("authorities.pem") && error.contains(said),
            "{error}"
        );
    }
}
