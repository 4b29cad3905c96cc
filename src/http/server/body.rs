//! Bodies of requests that nobody wants to the end, and answers that tell when they were sent.

use super::connections::Busy;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Of a body that nobody wants (its request was refused by its headers), so much is read and thrown away, so that a client
/// that sends all of it before it reads gets the refusal rather than a broken connection.
const UNWANTED_BYTES_MAX: usize = 64 << 20;
/// And until the request is so old.
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(10);
/// But for so long, so that whoever still sends can read the answer.
const UNWANTED_TIME_MIN: Duration = Duration::from_secs(1);

/// A request's body; what is left of it when it is dropped is read all the same.
pub struct Wanted(Option<Incoming>, Instant);

impl Wanted {
    /// That body.
    pub fn new(body: Incoming) -> Self {
        Self(Some(body), Instant::now())
    }
}

impl Body for Wanted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let time = UNWANTED_TIME_MAX.saturating_sub(self.1.elapsed()).max(UNWANTED_TIME_MIN);
            runtime.spawn(tokio::time::timeout(time, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > UNWANTED_BYTES_MAX {
            return;
        }
    }
}

/// An answer's body; its connection is busy until it was handed over.
pub struct Answer {
    body: axum::body::Body,
    _busy: Busy,
}

impl Answer {
    /// That body.
    pub fn new(body: axum::body::Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
