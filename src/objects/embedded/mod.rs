//! An S3 server of our own, for `demo`, tests and installations on one machine: s3s speaks the protocol (signatures,
//! presigned URLs, chunked bodies), the store below is ours.
//!
//! Promises:
//! - an object is visible only after its length and every checksum that came with it were verified and it was synced to
//!   disk; a crash at any instant leaves the object before or the object after, with its own attributes;
//! - of any number of writers with `If-None-Match: *` exactly one wins;
//! - any key that S3 allows works, and no key leaves its bucket;
//! - a presigned URL allows what was signed and nothing more: headers that change what is stored must be signed;
//! - one process at a time on a directory;
//! - listings come from an index in memory (about 200 bytes an object), read from the files at start.
//!
//! Leaves to others: TLS and being reachable from elsewhere (a reverse proxy, or a real S3), credentials (the caller
//! makes and keeps them), the removal of abandoned multipart uploads, encryption at rest. No versions, ACLs, policies,
//! tags, lifecycle, replication.

mod access;
mod convert;
mod error;
mod listing;
mod multipart;
mod record;
mod service;
mod staging;
mod store;

use crate::clock::Clock;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::service::{S3Service, S3ServiceBuilder};
use secrecy::ExposeSecret as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// A client gets this long to send the headers of a request.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// Each connection has a socket and buffers of some 100 KiB.
const CONNECTIONS_MAX: usize = 512;
/// Requests that are under way when we stop get this long to end.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How to serve.
#[derive(Clone)]
pub struct EmbeddedS3Options {
    /// Everything is kept below it; made when it is missing.
    pub dir: PathBuf,
    /// Port 0 for any.
    pub listen: SocketAddr,
    /// The one key that is accepted.
    pub access_key: String,
    /// Its secret.
    pub secret_key: secrecy::SecretString,
    /// What we say that our region is; clients may sign for any.
    pub region: String,
    /// Told of every object that appeared (by PUT or by completing an upload), after it is durable. A hint: what a crash
    /// swallows is found by listing.
    pub created: Option<UnboundedSender<CreatedObject>>,
}

/// An object appeared, or was replaced.
#[derive(Clone, PartialEq, Eq)]
pub struct CreatedObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedS3Error {
    /// Another process holds the lock.
    #[error("another chartgate keeps its objects in {}: stop it, or choose another data directory", .dir.display())]
    InUse {
        /// As configured.
        dir: PathBuf,
    },
    /// The directory cannot be read or written.
    #[error("could not open the object store in {}", .dir.display())]
    Store {
        /// As configured.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The address is taken, or not ours.
    #[error("could not listen on {listen} for the object store: choose another address")]
    Listen {
        /// As configured.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A running server. Dropping it ends it at once; [`EmbeddedS3::stop`] lets requests end first. Either is safe for what
/// was answered.
#[derive(Debug)]
pub struct EmbeddedS3 {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl EmbeddedS3 {
    /// Open the directory, listen, serve.
    ///
    /// # Errors
    /// [`EmbeddedS3Error`].
    pub async fn start(options: EmbeddedS3Options) -> Result<Self, EmbeddedS3Error> {
        let dir = options.dir.clone();
        let opened = store::on_disk(move || Store::open(&dir, Clock::system())).await;
        let store = match opened {
            Ok(Some(store)) => Arc::new(store),
            Ok(None) => return Err(EmbeddedS3Error::InUse { dir: options.dir }),
            Err(source) => return Err(EmbeddedS3Error::Store { dir: options.dir, source }),
        };
        let refused = |source| EmbeddedS3Error::Listen { listen: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let secret_key = options.secret_key.expose_secret();
        let auth = s3s::auth::SimpleAuth::from_single(options.access_key, secret_key);
        let mut builder =
            S3ServiceBuilder::new(service::Service { store, region: options.region, created: options.created });
        builder.set_auth(auth);
        builder.set_access(access::SignedHeadersOnly);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, builder.build(), stopped));
        Ok(Self { address, stop: Some(stop), task: Some(task) })
    }

    /// `http://ADDRESS`, for path-style requests.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Accept nothing new, let requests end (at most ten seconds), free the directory.
    pub async fn stop(mut self) {
        if let (Some(stop), Some(task)) = (self.stop.take(), self.task.take()) {
            // The task may have ended by itself.
            let _ = stop.send(());
            let _ = task.await;
        }
    }
}

impl Drop for EmbeddedS3 {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Connections end with this future.
async fn serve(listener: TcpListener, service: S3Service, mut stopped: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            // The semaphore is never closed.
            let permit = free.clone().acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            next = next => next,
            _ = &mut stopped => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Out of file descriptors, usually: it passes.
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the object store could not accept a connection"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Small answers would wait for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .serve_connection(TokioIo::new(stream), service.clone());
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            // A client that hangs up is no fault.
            if let Err(error) = watched.await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a connection to the object store ended early"
                );
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests to the object store were cut off");
    }
    connections.shutdown().await;
}
