//! The administrators' pages: over plain HTTP, and in a real browser where there is one.

mod audit;
mod browser;
mod every_page;
pub mod figures;
mod foundation;
mod jobs;
mod organizations;
mod reviews;
mod scale;
mod workers;

use crate::engine::scripted::{Scripted, workflow};
use crate::support::app::{Setup, TestApp};
use std::sync::Arc;

/// An application with the workflow `scripted`, whose steps do what a test tells them.
pub async fn scripted_app() -> (TestApp, Arc<Scripted>) {
    let scripted = Scripted::new();
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![("scripted", workflow("scripted", "none"))],
        ..Setup::default()
    };
    (TestApp::with(setup).await, scripted)
}

/// Somebody who is logged in, over plain HTTP.
pub struct Visitor<'a> {
    app: &'a TestApp,
    cookie: String,
}

impl<'a> Visitor<'a> {
    /// Log in with that key.
    pub async fn of(app: &'a TestApp, key: &str) -> Self {
        let (status, headers, body) = send(app, "POST", "/admin/login", None, Some(&[("key", key)])).await;
        assert_eq!(status, 303, "{body}");
        let cookie = headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        Self { app, cookie }
    }

    /// A page, or where it leads to.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let (status, headers, body) = send(self.app, "GET", path, Some(&self.cookie), None).await;
        (status, headers.get("location").map_or(body, |to| to.to_str().unwrap().to_owned()))
    }

    /// Post a form; answers the page, or where it leads to.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let (status, headers, body) = send(self.app, "POST", path, Some(&self.cookie), Some(fields)).await;
        (status, headers.get("location").map_or(body, |to| to.to_str().unwrap().to_owned()))
    }
}

/// As a browser would send it from a page of ours, but without following where it leads.
pub async fn send(
    app: &TestApp,
    method: &str,
    path: &str,
    cookie: Option<&str>,
    fields: Option<&[(&str, &str)]>,
) -> (u16, reqwest::header::HeaderMap, String) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{}{path}", app.url)).header("origin", &app.url);
    if let Some(cookie) = cookie {
        request = request.header("cookie", cookie);
    }
    if let Some(fields) = fields {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.headers().clone(), response.text().await.unwrap())
}
