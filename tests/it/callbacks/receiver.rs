//! A receiver as others run one: an HTTP server that notes what it gets, and reads signatures by itself.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::serve::Listener;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// One POST.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// What was answered.
    pub status: u16,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn job(&self) -> String {
        self.json()["data"]["jobId"].as_str().unwrap().to_owned()
    }

    /// How many of its signatures are good for that secret.
    pub fn signed_by(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut content = format!("{}.{}.", self.id(), self.header("webhook-timestamp")).into_bytes();
        content.extend_from_slice(&self.body);
        let expected = format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &content)));
        self.header("webhook-signature").split(' ').filter(|signature| *signature == expected).count()
    }
}

/// RFC 2104, written out.
fn hmac_sha256(key: &[u8], content: &[u8]) -> [u8; 32] {
    assert!(key.len() <= 64);
    let pad = |byte: u8| -> Vec<u8> { (0..64).map(|index| key.get(index).copied().unwrap_or(0) ^ byte).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(content).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

type Answer = Arc<Mutex<Box<dyn FnMut(&Received) -> (u16, Vec<(&'static str, String)>) + Send>>>;

/// Whose handshake fails is not heard of again.
struct Encrypted {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

pub struct Receiver {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    answer: Answer,
}

impl Receiver {
    /// On 127.0.0.1, answering 204.
    pub async fn start() -> Self {
        Self::on("127.0.0.1".parse().unwrap()).await
    }

    pub async fn on(address: IpAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await.unwrap();
        let url = format!("http://{}/hook?token=1", listener.local_addr().unwrap());
        Self::serve(listener, url)
    }

    /// By https on 127.0.0.1, under the name `localhost`, with those certificates, the receiver's own first.
    pub async fn over_tls(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/hook?token=1", listener.local_addr().unwrap().port());
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::serve(Encrypted { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }, url)
    }

    fn serve<L: Listener<Addr: std::fmt::Debug>>(listener: L, url: String) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let answer: Answer = Arc::new(Mutex::new(Box::new(|_| (204, Vec::new()))));
        let (noted, answering) = (Arc::clone(&received), Arc::clone(&answer));
        let handle = move |headers: HeaderMap, body: Bytes| {
            let (noted, answering) = (Arc::clone(&noted), Arc::clone(&answering));
            async move {
                let mut one = Received { headers, body: body.to_vec(), status: 0 };
                let (status, more) = (answering.lock().unwrap())(&one);
                one.status = status;
                noted.lock().unwrap().push(one);
                let more = more
                    .into_iter()
                    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap()));
                (StatusCode::from_u16(status).unwrap(), more.collect::<HeaderMap>(), "thank you")
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await.unwrap() });
        Self { url, received, answer }
    }

    /// From now on answer so.
    pub fn answer(&self, answer: impl FnMut(&Received) -> (u16, Vec<(&'static str, String)>) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn answer_status(&self, status: u16) {
        self.answer(move |_| (status, Vec::new()));
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// What was answered with 2xx.
    pub fn taken(&self) -> Vec<Received> {
        self.received().into_iter().filter(|one| (200..300).contains(&one.status)).collect()
    }

    /// Wait until so many came.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            assert!(Instant::now() < deadline, "{} of {count} messages after a minute", received.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
