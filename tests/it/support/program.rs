//! Another process that a test can kill: this binary again, running one function that is marked as a test.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

const DIRECTORY: &str = "CHARTGATE_TEST_PROGRAM_DIRECTORY";

/// Says what it does in lines `WORD NUMBER` on its standard output.
pub struct Program {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// In the function that is the program: where to work. `None` when it runs as an ordinary test, and has nothing to do.
pub fn directory() -> Option<OsString> {
    std::env::var_os(DIRECTORY)
}

impl Program {
    /// Run `function` (`module::name`) in `directory`.
    pub fn spawn(function: &str, directory: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", function, "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next number behind `word`; `None` when it has ended.
    pub fn next(&mut self, word: &str) -> Option<u32> {
        // The test harness prints before the program does, on the same line too.
        self.lines.by_ref().map_while(Result::ok).find_map(|line| line.split(word).nth(1)?.trim().parse().ok())
    }

    /// `kill -9`; returns the last number behind `word` that it had said.
    pub fn kill(mut self, word: &str) -> Option<u32> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::iter::from_fn(|| self.next(word)).last()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
