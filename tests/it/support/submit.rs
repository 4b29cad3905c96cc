//! Submitting jobs of any workflow, past HTTP.

use super::app::TestApp;
use bytes::Bytes;
use chartgate::audit::Actor;
use chartgate::ids::{JobId, OrganizationId};
use chartgate::ingest::submit::{Submission, Submitted};
use chartgate::phi::Phi;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// A submission of a small unique body.
pub fn submission(app: &TestApp, organization: OrganizationId, workflow: &str, lane: Option<&str>) -> Submission {
    let body = Bytes::from(format!("{{\"unique\":\"{}\"}}", JobId::new()));
    Submission {
        organization,
        workflow: app.app.catalog.latest(workflow).unwrap(),
        source: "webhook",
        source_label: "default".to_owned(),
        idempotency_key: None,
        ordering_key: lane.map(|lane| Phi::new(lane.to_owned())),
        sha256: Sha256::digest(&body).into(),
        fingerprint: Sha256::digest(&body).into(),
        body: Phi::new(body),
        content_type: "application/json".to_owned(),
        resource_count: BTreeMap::new(),
        actor: Actor::internal("test"),
    }
}

/// Submit one.
pub async fn submit(app: &TestApp, organization: OrganizationId, workflow: &str, lane: Option<&str>) -> Submitted {
    app.app.submitter.submit(submission(app, organization, workflow, lane)).await.unwrap()
}
