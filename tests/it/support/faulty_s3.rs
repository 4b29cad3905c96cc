//! A real S3 that refuses what a test tells it to: everything else goes through to the server behind.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// Status and S3 code for a request of this method and path, asked when the whole of it has come; none: it goes through. An
/// empty code: no body at all.
type Rule = Box<dyn Fn(&Method, &str) -> Option<(u16, &'static str)> + Send>;

/// In front of a server.
#[derive(Clone)]
pub struct FaultyS3 {
    address: SocketAddr,
    target: Arc<Mutex<String>>,
    rule: Arc<Mutex<Rule>>,
}

impl FaultyS3 {
    /// In front of `http://host:port`, letting all through.
    pub fn start(target: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(target.to_owned())),
            rule: Arc::new(Mutex::new(Box::new(|_, _| None))),
        };
        let router = Router::new()
            .fallback(pass)
            .with_state((this.clone(), reqwest::Client::builder().no_proxy().build().unwrap()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        this
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn refuse(&self, rule: impl Fn(&Method, &str) -> Option<(u16, &'static str)> + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }
}

async fn pass(State((this, client)): State<(FaultyS3, reqwest::Client)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let refused = (this.rule.lock().unwrap())(&parts.method, parts.uri.path());
    if let Some((status, code)) = refused {
        let body = if code.is_empty() { String::new() } else { format!("<Error><Code>{code}</Code></Error>") };
        return Response::builder().status(status).body(Body::from(body)).unwrap();
    }
    let url = format!("{}{}", this.target.lock().unwrap(), parts.uri.path_and_query().unwrap());
    // With the host that was signed. In a task of its own: it gets there also when the sender is dead by now.
    let sent = client.request(parts.method, url).headers(parts.headers).body(body).send();
    let answer = tokio::spawn(sent).await.unwrap().unwrap();
    let mut response = Response::builder().status(answer.status());
    *response.headers_mut().unwrap() = answer.headers().clone();
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}
