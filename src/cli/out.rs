//! The one place that writes to the terminal.
#![expect(clippy::print_stderr, reason = "commands print here, and only here")]

use std::io::{IsTerminal as _, Write as _};

/// A line of the answer.
pub fn line(text: &str) {
    // A closed pipe (`| head`) is not an error of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A message to people, beside the answer.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// An error to people.
pub fn error(text: &str) {
    eprintln!("error: {text}");
}

/// May colors and moving lines be used?
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A value as one JSON line.
pub fn json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?);
    Ok(())
}

/// Lines that are drawn anew in their place; for terminals only.
#[derive(Default)]
pub struct Screen {
    drawn: usize,
}

impl Screen {
    /// Replace what was drawn before.
    pub fn draw(&mut self, lines: &[String]) {
        // Up to the first of the old lines, and clear to the end of the screen; lines are cut, not wrapped, so that the count holds.
        let up = if self.drawn > 0 { format!("\u{1b}[{}A", self.drawn) } else { String::new() };
        let body: String = lines.iter().map(|line| format!("\u{1b}[2K{line}\n")).collect();
        let _ = write!(std::io::stdout(), "\u{1b}[?7l{up}\r{body}\u{1b}[J\u{1b}[?7h");
        let _ = std::io::stdout().flush();
        self.drawn = lines.len();
    }
}

/// Rows under a header, in columns as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width + 2 - cell.chars().count().min(*width)));
        }
        line(text.trim_end());
    };
    print(header.to_vec());
    for row in rows {
        print(row.iter().map(String::as_str).collect());
    }
}
