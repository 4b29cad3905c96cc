//! A real headless Chromium, driven over `WebDriver` (W3C `WebDriver` 2; `chromedriver` speaks it).
//!
//! It reaches this machine only, and tells what it logged, what it asked for and what the content security policy refused.

use super::directory::TestDirectory;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for something to show, at most.
const PATIENCE: Duration = Duration::from_mins(2);

/// Set by `.ci/run` where it has installed the browser: then a test that cannot start it fails.
const PROMISED: &str = "CHARTGATE_TEST_BROWSER";

/// One browser with a profile of its own. It ends with the value.
pub struct Browser {
    client: reqwest::Client,
    session: String,
    driver: Child,
    _profile: TestDirectory,
}

fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|dir| names.iter().map(move |name| dir.join(name)))
        .find(|file| file.is_file())
}

impl Browser {
    /// A browser, or nothing (said on standard error) on a machine that has none.
    pub async fn start() -> Option<Self> {
        let found = (program(&["chromium", "chromium-browser", "google-chrome"]), program(&["chromedriver"]));
        let (Some(chromium), Some(chromedriver)) = found else {
            assert!(std::env::var_os(PROMISED).is_none(), "chromium and chromedriver were promised and are not here");
            eprintln!(
                "SKIPPED: no chromium and chromedriver in PATH (Debian: apt-get install chromium chromium-driver)"
            );
            return None;
        };
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let profile = TestDirectory::new();
        let mut driver = Command::new(chromedriver)
            .arg("--port=0")
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok());
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(2)).build().unwrap();
        let user_data = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-sync",
            "--disable-crash-reporter",
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
            "--window-size=1280,900",
            user_data.as_str(),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "unhandledPromptBehavior": "ignore",
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let mut browser = Self {
            client,
            session: format!("http://127.0.0.1:{}/session", port.unwrap_or(0)),
            driver,
            _profile: profile,
        };
        let answer = browser.command("", Some(&capabilities)).await;
        let id = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    async fn try_command(&self, path: &str, body: Option<&Value>) -> Result<Value, Value> {
        let url = format!("{}{path}", self.session);
        let request = match body {
            Some(body) => self.client.post(url).json(body),
            None => self.client.get(url),
        };
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let is_good = response.status().is_success();
        let mut answer: Value = response.json().await.unwrap();
        let value = answer["value"].take();
        if is_good { Ok(value) } else { Err(value) }
    }

    async fn command(&self, path: &str, body: Option<&Value>) -> Value {
        let answer = self.try_command(path, body).await;
        answer.unwrap_or_else(|error| panic!("{path}: {} {}", error["error"], error["message"]))
    }

    /// A command of the browser's own protocol.
    pub async fn devtools(&self, command: &str, params: Value) -> Value {
        self.command("/goog/cdp/execute", Some(&json!({ "cmd": command, "params": params }))).await
    }

    /// Go there, and wait until it is loaded.
    pub async fn goto(&self, url: &str) {
        self.command("/url", Some(&json!({ "url": url }))).await;
    }

    /// Where it is.
    pub async fn url(&self) -> String {
        self.command("/url", None).await.as_str().unwrap().to_owned()
    }

    /// Run a script's body; `arguments` are its `arguments`. A promise is awaited.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        self.command("/execute/sync", Some(&json!({ "script": script, "args": arguments }))).await
    }

    async fn element(&self, css: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": css });
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_command("/element", Some(&wanted)).await {
                Ok(element) => {
                    return element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
                }
                Err(error) => {
                    assert!(Instant::now() < deadline, "no {css} at {}: {}", self.url().await, error["error"]);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Click on the first such element, and wait until what it loads is there.
    pub async fn click(&self, css: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let element = self.element(css).await;
            let Err(error) = self.try_command(&format!("/element/{element}/click"), Some(&json!({}))).await else {
                return;
            };
            // A live part was replaced between finding and clicking: its successor is as good.
            let is_replaced = error["error"] == "stale element reference";
            assert!(is_replaced && Instant::now() < deadline, "{css}: {} {}", error["error"], error["message"]);
        }
    }

    /// Replace what stands in a field.
    pub async fn fill(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.command(&format!("/element/{element}/clear"), Some(&json!({}))).await;
        self.command(&format!("/element/{element}/value"), Some(&json!({ "text": text }))).await;
    }

    /// What stands in the first such element, as it is shown.
    pub async fn text(&self, css: &str) -> String {
        let element = self.element(css).await;
        self.command(&format!("/element/{element}/text"), None).await.as_str().unwrap().to_owned()
    }

    /// Wait until the element shows that text; nothing is loaded again by this.
    pub async fn wait_for_text(&self, css: &str, wanted: &str) {
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : ''";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.run(script, json!([css])).await;
            if shown.as_str().is_some_and(|shown| shown.contains(wanted)) {
                return;
            }
            if Instant::now() >= deadline {
                let all = self.run("return document.body.innerText", json!([])).await;
                panic!("{css} never showed {wanted:?} at {}; now {shown} in {all}", self.url().await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Wait until it is at a path that begins so.
    pub async fn wait_for_path(&self, start: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let url = self.url().await;
            if url.splitn(4, '/').nth(3).is_some_and(|path| format!("/{path}").starts_with(start)) {
                return;
            }
            assert!(Instant::now() < deadline, "never at {start}, but at {url}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Log in to the console.
    pub async fn log_in(&self, base: &str, key: &str) {
        self.goto(&format!("{base}/admin/login")).await;
        self.fill("input[name=key]", key).await;
        self.click("main button").await;
        self.wait_for_path("/admin/overview").await;
    }

    /// As on a screen of that width, and dark or light.
    pub async fn look_as(&self, width: u32, dark: bool) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// A picture of the whole page, below the build's directory for temporary files.
    pub async fn screenshot(&self, name: &str) {
        use base64::Engine as _;
        let answer = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        let picture = base64::prelude::BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), picture).unwrap();
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        self.command("/se/log", Some(&json!({ "type": kind }))).await.as_array().cloned().unwrap_or_default()
    }

    /// What the pages said on the console since the last look: errors, warnings, refusals by the content security policy.
    pub async fn complaints(&self) -> Vec<String> {
        let said = self.log("browser").await;
        said.iter().filter(|entry| entry["level"] != json!("DEBUG")).map(|entry| entry["message"].to_string()).collect()
    }

    /// Every address that the pages asked for since the last look.
    pub async fn requests(&self) -> Vec<String> {
        let events = self.log("performance").await;
        let events = events.iter().filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok());
        events
            .filter(|event| event["message"]["method"] == json!("Network.requestWillBeSent"))
            .filter_map(|event| Some(event["message"]["params"]["request"]["url"].as_str()?.to_owned()))
            .collect()
    }

    /// Is a dialog open?
    pub async fn has_dialog(&self) -> bool {
        self.try_command("/alert/text", None).await.is_ok()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process_group};
        // The driver leads the group in which it starts the browser.
        if let Some(group) = i32::try_from(self.driver.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.driver.wait();
    }
}
