//! The one place that writes to the terminal.
#![expect(clippy::print_stderr, reason = "commands print here, and only here")]

use std::io::{IsTerminal as _, Write as _};

/// Text as a terminal may show it: names come from many people, and control characters would move its cursor, set its title or
/// its clipboard. Line ends and tabs of our own stay.
fn shown(text: &str) -> String {
    let is_harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// A line of the answer. If it cannot be written (a full disk), the program ends with exit code 1: a key that is shown once
/// must not be lost without a word.
pub fn line(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{}", shown(text)) {
        // A closed pipe (`| head`) is not an error of ours.
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            self::error(&format!("the answer cannot be written: {error}"));
            std::process::exit(1);
        }
    }
}

/// A message to people, beside the answer.
pub fn note(text: &str) {
    eprintln!("{}", shown(text));
}

/// An error to people.
pub fn error(text: &str) {
    eprintln!("error: {}", shown(text));
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
        let body = lines.iter().fold(String::new(), |body, line| body + "\u{1b}[2K" + line + "\n");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_shown_and_does_not() {
        let name = "lab\u{1b}]52;c;aGk=\u{7} \u{9b}2J\r\u{0}M\u{fc}ller\tx";
        assert_eq!(shown(name), "lab\u{fffd}]52;c;aGk=\u{fffd} \u{fffd}2J\u{fffd}\u{fffd}M\u{fc}ller\tx");
    }
}
