//! The real binary with its embedded servers, for what is seen of a process from outside.

use crate::support::directory::TestDirectory;
use reqwest::Method;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_mins(1);

/// `chartgate serve`, until it is dropped.
pub struct Served {
    process: Child,
    pub url: String,
    pub client: reqwest::Client,
    credentials: Value,
    environment: Vec<(String, String)>,
    directory: TestDirectory,
}

/// The binary with nothing of our environment but the way to programs.
pub fn command(environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chartgate"));
    command.env_clear();
    for name in ["PATH", "TMPDIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.envs(environment.iter().copied());
    command
}

impl Served {
    /// With JSON logs in a file.
    pub async fn start(environment: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = TestDirectory::new();
        let data = directory.path().join("data");
        let mut command = command(environment);
        command.env("CHARTGATE_TELEMETRY_LOG_FORMAT", "json");
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(directory.path().join("log")).unwrap());
        let mut process = command.spawn().unwrap();
        let said = process.stdout.take().unwrap();
        let url = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(said).lines().map_while(Result::ok);
            let line = lines.find(|line| line.contains("listens on ")).expect("it starts");
            // Whoever stops reading makes it fail to write.
            std::thread::spawn(move || lines.for_each(drop));
            line.split("listens on ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
        })
        .await
        .unwrap();
        let credentials = serde_json::from_slice(&fs::read(data.join("demo-credentials.json")).unwrap()).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { process, url, client, credentials, environment, directory }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn key(&self, role: &str) -> &str {
        self.credentials["keys"][role].as_str().unwrap()
    }

    /// What it logged so far: every line is a JSON object.
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        role: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(self.key(role));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    pub async fn get(&self, path: &str, role: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, path, role, &[], "").await;
        assert_eq!(status, 200, "{answer:#}");
        answer
    }

    /// The job, once the fact about it is true.
    pub async fn until(&self, job: &str, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.get(&format!("/v1/ingestion/jobs/{job}"), "sender").await;
            if fact(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "{job} is not {what}: {view:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn ended(&self, job: &str, status: &str) -> Value {
        self.until(job, status, |view| view["status"] == status).await
    }

    /// A command of the binary against it, to its end: exit code and what it said.
    pub async fn run(&self, role: &str, arguments: &[&str]) -> (i32, String) {
        let data = self.data();
        let environment = [
            ("CHARTGATE_URL", self.url.as_str()),
            ("CHARTGATE_API_KEY", self.key(role)),
            ("CHARTGATE_DATA_DIR", data.to_str().unwrap()),
        ];
        let mut command = command(&environment);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    /// Ask it to stop, and wait until it did.
    pub async fn stop(&mut self) {
        self.terminate();
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.terminate();
            let _ = self.process.wait();
        }
    }
}
