//! What `doctor` finds by trying.

use crate::support::faulty_s3::FaultyS3;
use crate::support::objects::{ACCESS_KEY, BUCKET, SECRET_KEY, TestObjects};
use crate::telemetry::served::Served;
use axum::http::Method;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_names_each_place_where_the_key_may_not_delete() {
    let objects = TestObjects::start().await;
    let faulty = FaultyS3::start(&objects.endpoint());
    let mut served = Served::start(&[
        ("CHARTGATE_S3_ENDPOINT", &faulty.endpoint()),
        ("CHARTGATE_S3_BUCKET", BUCKET),
        ("CHARTGATE_S3_ACCESS_KEY", ACCESS_KEY),
        ("CHARTGATE_S3_SECRET_KEY", SECRET_KEY),
    ])
    .await;
    let (_, said) = served.run("platform", &["doctor"]).await;
    assert!(said.contains("deleted below incoming/, chunks/, raw/, outcomes/"), "{said}");
    // As a policy that knows of uploads, and of no erasure.
    faulty.refuse(|method, path| {
        let is_ours = path.contains("/incoming/") || path.contains("/chunks/");
        (*method == Method::DELETE && !is_ours).then_some((403, "AccessDenied"))
    });
    let (code, said) = served.run("platform", &["doctor"]).await;
    assert!(code != 0 && said.contains("FAIL  object storage"), "{code} {said}");
    for (below, is_denied) in [("raw/", true), ("outcomes/", true), ("incoming/", false), ("chunks/", false)] {
        assert_eq!(said.contains(&format!("DeleteObject on {below}")), is_denied, "{below}: {said}");
    }
    served.stop().await;
}
