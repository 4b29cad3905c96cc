//! A PostgreSQL whose answers take their time: a socket in front of the real one that delays what the server says, so that
//! a caller can be dropped between a statement and its answer.

use super::directory::TestDirectory;
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{UnixListener, UnixStream};

/// The proxy; it ends with the test's runtime.
pub struct SlowPostgres {
    directory: TestDirectory,
}

impl SlowPostgres {
    /// In front of the server that these options name by its socket.
    pub fn start(server: &PgConnectOptions, delay: Duration) -> Self {
        let directory = TestDirectory::new();
        let target: PathBuf = server.get_socket().unwrap().join(".s.PGSQL.5432");
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target.clone(), delay));
            }
        });
        Self { directory }
    }

    /// The same database through the proxy.
    pub fn options(&self, server: &PgConnectOptions) -> PgConnectOptions {
        server.clone().socket(self.directory.path())
    }
}

async fn forward(client: UnixStream, target: PathBuf, delay: Duration) {
    let Ok(server) = UnixStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_server.read(&mut buffer).await.unwrap_or(0);
            tokio::time::sleep(delay).await;
            if length == 0 || to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // Whichever side ends, both do, so that the server sees that its client has gone.
    tokio::select! {
        () = answers => {}
        _ = copy(&mut from_client, &mut to_server) => {}
    }
}
