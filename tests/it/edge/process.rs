//! What the edge costs in memory: the real program in a process of its own, with its own database.

use crate::support::directory::TestDirectory;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

/// `chartgate serve`, until it is dropped.
struct Served {
    process: Child,
    url: String,
    sender: String,
    _directory: TestDirectory,
}

impl Served {
    fn start() -> Self {
        let directory = TestDirectory::new();
        let data = directory.path().join("data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_chartgate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).env_clear();
        for name in ["PATH", "TMPDIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listens on ")).expect("it starts");
        let url = line.split("listens on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let text = std::fs::read(data.join("demo-credentials.json")).unwrap();
        let credentials: Value = serde_json::from_slice(&text).unwrap();
        let sender = credentials["keys"]["sender"].as_str().unwrap().to_owned();
        Self { process, url, sender, _directory: directory }
    }

    /// A line of `/proc/PID/status`, in bytes.
    fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let value =
            status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok());
        value.unwrap() * 1024
    }

    /// Begin a new measurement of the peak.
    fn forget_peak(&self) {
        let mut file = std::fs::File::create(format!("/proc/{}/clear_refs", self.process.id())).unwrap();
        file.write_all(b"5").unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

/// Ten gigabytes of `byte` as a gzip of some ten megabytes: one member a hundred megabytes, as often as needed.
fn bomb(byte: u8) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let piece = vec![byte; 1 << 20];
    for _ in 0..100 {
        encoder.write_all(&piece).unwrap();
    }
    encoder.finish().unwrap().repeat(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_ten_gigabytes_costs_less_than_64_mib() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let served = tokio::task::spawn_blocking(Served::start).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = |path: &str, body: Vec<u8>| {
        let request = client.post(format!("{}{path}", served.url)).bearer_auth(&served.sender).body(body);
        let request = request.header("content-type", "application/json").header("content-encoding", "gzip");
        async move { request.send().await.unwrap().status().as_u16() }
    };
    // What an ordinary request costs first is not the bomb's.
    let ordinary = crate::http::gzip(&crate::http::small(1));
    assert_eq!(post("/v1/ingestion/fhir/Bundle", ordinary).await, 202);
    for path in ["/v1/ingestion/fhir/Bundle", "/ingest/athena", "/ingest/athena/batch", "/v1/ingestion/upload-url"] {
        for byte in [b'[', b' '] {
            let bomb = bomb(byte);
            let size = bomb.len();
            served.forget_peak();
            let before = served.memory("VmRSS:");
            let status = post(path, bomb).await;
            let grown = served.memory("VmHWM:").saturating_sub(before);
            println!("{path}: {size} bytes of gzip for 10 GB: {status}, peak RSS + {} KiB", grown >> 10);
            assert_eq!(status, 413, "{path}");
            assert!(grown < 64 << 20, "{path}: {grown} bytes");
        }
    }
}
