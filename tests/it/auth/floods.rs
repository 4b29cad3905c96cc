//! Those who are not let in, by the thousand: the audit log tells of all of them, in few records.

use crate::http::{call, get};
use crate::support::app::TestApp;
use chartgate::auth::NewKey;
use chartgate::auth::denials::{Denial, KINDS_MAX};
use chartgate::auth::{Refusal, store};
use futures::StreamExt as _;
use reqwest::Method;

const RECORDS: &str = "select count(*) from audit_records where event = 'access.denied'";
const COUNTED: &str = "select (count(*) filter (where not detail ? 'repetitions') + coalesce(sum((detail->>'repetitions')::bigint), 0))::bigint
    from audit_records where event = 'access.denied'";

#[tokio::test]
async fn thousands_of_wrong_keys_are_counted_in_a_few_records() {
    let app = TestApp::start().await;
    let wrong = 3_000;
    futures::stream::iter(0..wrong)
        .for_each_concurrent(32, |number| {
            let app = &app;
            async move {
                let path = if number % 2 == 0 { "/v1/ingestion/jobs" } else { "/v1/admin/keys" };
                assert_eq!(get(app, &NewKey::generate().key, path).await.status, 401);
            }
        })
        .await;
    call(&app, Method::GET, "/v1/admin/keys", "", &[], "").await.problem(401, "unauthenticated");
    // Two routes with one reason, and one of them with another: three kinds.
    assert_eq!(app.count(RECORDS).await, 3);
    app.app.denials.flush().await;
    assert_eq!((app.count(RECORDS).await, app.count(COUNTED).await), (5, wrong + 1));
    let told = "select count(*) from audit_records
        where event = 'access.denied' and detail->>'reason' = 'key_unknown' and actor = 'unknown' and address is not null
          and outcome = 'denied' and organization_id = '00000000-0000-0000-0000-000000000000'";
    assert_eq!(app.count(told).await, 4);
    assert_eq!(app.count("select count(*) from audit_records r where r::text like '%cgk\\_%'").await, 0);
    // Afterwards the next one is recorded at once again.
    get(&app, "cgk_x", "/v1/ingestion/jobs").await.problem(401, "unauthenticated");
    assert_eq!(app.count(RECORDS).await, 6);
}

#[tokio::test]
async fn a_flood_from_everywhere_has_a_bound_too() {
    let app = TestApp::start().await;
    let total = 5_000u32;
    for number in 0..total {
        let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(number));
        let (request_id, route, method) = (number.to_string(), "/v1/ingestion/jobs".to_owned(), "GET".to_owned());
        let (code, reason) = ("unauthenticated", Some(Refusal::KeyUnknown));
        app.app
            .denials
            .record(Denial { caller: None, address: Some(address), request_id, method, route, code, reason })
            .await;
    }
    let kinds = i64::try_from(KINDS_MAX).unwrap();
    assert_eq!(app.count(RECORDS).await, kinds + 1);
    app.app.denials.flush().await;
    assert_eq!((app.count(RECORDS).await, app.count(COUNTED).await), (kinds + 2, i64::from(total)));
}

#[tokio::test]
async fn no_answer_list_or_debug_output_holds_a_key() {
    let app = TestApp::start().await;
    let secret = app.organization.admin.rsplit('_').next().unwrap().to_owned();
    for path in ["/v1/admin/keys", "/v1/admin/organizations", "/v1/admin/jobs"] {
        let answer = get(&app, &app.organization.admin, path).await;
        assert!(answer.status == 200 && !String::from_utf8_lossy(&answer.body).contains(&secret), "{path}");
    }
    let id = app.organization.admin.split('_').nth(1).unwrap().to_owned();
    let row = app
        .app
        .db
        .unit::<_, chartgate::db::DbError, _>(chartgate::db::Scope::Global, move |connection| {
            Box::pin(async move { store::find_key(connection, &id).await })
        })
        .await
        .unwrap()
        .unwrap();
    let caller = app.app.authenticator.authenticate(&app.organization.admin).await.unwrap();
    let config = &app.app.config;
    for shown in [format!("{row:?}"), format!("{caller:?}"), format!("{config:?}")] {
        assert!(!shown.contains(&secret), "{shown}");
    }
}
