//! A connection's stream between hyper and the socket: what comes in passes the [gate](super::gate), and a write that
//! makes no progress, or too little, ends it. Others see whether an answer is still being written.

use super::connections::Connection;
use super::gate::Gate;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream under guard.
pub struct Guarded<S> {
    stream: S,
    gate: Gate,
    write_max: Duration,
    bytes_per_second: u64,
    /// Whose stream it is; none in tests of the stream alone.
    connection: Option<Arc<Connection>>,
    /// Since a write has been waiting, and when that is too long.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
    /// How long writes have waited, and what was written, since the speed was looked at.
    waited: Duration,
    written: u64,
}

impl<S> Guarded<S> {
    /// That stream; a write may wait so long, and whoever is waited for must take so many bytes a second.
    pub fn new(stream: S, write_max: Duration, bytes_per_second: u64) -> Self {
        let (gate, waited) = (Gate::new(), Duration::ZERO);
        Self { stream, gate, write_max, bytes_per_second, connection: None, stalled: None, waited, written: 0 }
    }

    /// The stream of that connection.
    pub fn of(mut self, connection: Arc<Connection>) -> Self {
        self.connection = Some(connection);
        self
    }

    /// A write's answer; an error when it has waited too long, or waits again and again for too little.
    fn watched<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let write_max = self.write_max;
        if written.is_ready() {
            if let Some((since, _)) = self.stalled.take() {
                self.waited += since.elapsed();
            }
            if self.waited >= write_max {
                let is_slow = self.written < self.bytes_per_second.saturating_mul(millis(write_max)) / 1000;
                (self.waited, self.written) = (Duration::ZERO, 0);
                if is_slow {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            return written;
        }
        if let Some(connection) = &self.connection {
            connection.set_writing(true);
        }
        let (_, stalled) =
            self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(write_max))));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The same of bytes, which are counted.
    fn counted(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written += *bytes as u64;
        }
        self.watched(context, written)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(ending) = self.gate.ending(buffer.remaining()) {
            buffer.put_slice(ending);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let passed = self.gate.pass(&mut buffer.filled_mut()[before..]);
        buffer.set_filled(before + passed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.counted(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.counted(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper flushes when it has written all that it has.
        if flushed.is_ready()
            && let Some(connection) = &self.connection
        {
            connection.set_writing(false);
        }
        self.watched(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails_and_one_that_is_taken_does_not() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut guarded = Guarded::new(near, Duration::from_millis(200), 1);
        let mut read = [0; 24];
        let (written, taken) = tokio::join!(guarded.write_all(&[7; 24]), far.read_exact(&mut read));
        assert!(written.is_ok() && taken.is_ok() && read == [7; 24]);
        let error = guarded.write_all(&[7; 24]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_write_that_is_taken_byte_by_byte_fails_too() {
        let (near, mut far) = tokio::io::duplex(8);
        // A byte each 5 ms never lets it wait for 200 ms, but is less than a byte a millisecond.
        let mut guarded = Guarded::new(near, Duration::from_millis(200), 1000);
        let reading = tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let error = guarded.write_all(&[7; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        reading.abort();
    }

    #[tokio::test]
    async fn what_offends_is_ended_and_nothing_behind_it_is_read() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut guarded = Guarded::new(near, Duration::from_secs(10), 1);
        far.write_all(b"GET / HTTP/1.1\r\na: b\nGET /smuggled HTTP/1.1\r\n\r\n").await.unwrap();
        let mut read = Vec::new();
        guarded.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"GET / HTTP/1.1\r\na: b\0\r\n\r\n");
    }
}
