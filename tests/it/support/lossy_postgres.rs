//! A PostgreSQL one of whose answers is lost: a socket in front of the real one that, once armed, lets a message through to the
//! server, waits until the server has answered, and then cuts the connection instead of passing the answer on.

use super::directory::TestDirectory;
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Which answer is lost: to the next message that holds `to`, on a connection that has sent `after` before.
#[derive(Clone, Copy)]
struct Armed {
    after: &'static str,
    to: &'static str,
}

/// The proxy; it ends with the test's runtime.
pub struct LossyPostgres {
    directory: TestDirectory,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl LossyPostgres {
    /// In front of the server that these options name by its socket.
    pub fn start(server: &PgConnectOptions) -> Self {
        let directory = TestDirectory::new();
        let target: PathBuf = server.get_socket().unwrap().join(".s.PGSQL.5432");
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let armed: Arc<Mutex<Option<Armed>>> = Arc::default();
        let shared = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target.clone(), Arc::clone(&shared)));
            }
        });
        Self { directory, armed }
    }

    /// The same database through the proxy.
    pub fn options(&self, server: &PgConnectOptions) -> PgConnectOptions {
        server.clone().socket(self.directory.path())
    }

    /// Lose one answer: see [`Armed`]. An empty `to` is any message.
    pub fn lose_answer(&self, after: &'static str, to: &'static str) {
        *self.armed.lock().unwrap() = Some(Armed { after, to });
    }

    /// Was it lost?
    pub fn has_lost(&self) -> bool {
        self.armed.lock().unwrap().is_none()
    }
}

fn holds(message: &[u8], text: &str) -> bool {
    text.is_empty() || message.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn forward(mut client: UnixStream, target: PathBuf, armed: Arc<Mutex<Option<Armed>>>) {
    let Ok(mut server) = UnixStream::connect(target).await else { return };
    let (mut said, mut asked) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut sent: Vec<u8> = Vec::new();
    loop {
        tokio::select! {
            length = client.read(&mut asked) => {
                let Ok(length @ 1..) = length else { return };
                let message = &asked[..length];
                let lost = armed.lock().unwrap().take_if(|armed| holds(&sent, armed.after) && holds(message, armed.to));
                sent.extend_from_slice(message);
                if server.write_all(message).await.is_err() {
                    return;
                }
                if lost.is_some() {
                    let _ = server.read(&mut said).await;
                    return;
                }
            }
            length = server.read(&mut said) => {
                let Ok(length @ 1..) = length else { return };
                if client.write_all(&said[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
