//! Processor time from /proc (Linux): steadier than rates on a shared machine. Zero where there is no /proc.

use std::fs;

/// Clock ticks a second: 100 on every Linux that matters (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Parent process and ticks of user and system time; fields 4, 14 and 15 of proc(5) stat.
fn stat(process: &str) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold blanks.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((u32::try_from(number(1)?).ok()?, number(11)? + number(12)?))
}

/// Seconds that this process has used.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "ticks of one run")]
pub fn own_seconds() -> f64 {
    stat("self").map_or(0.0, |(_, ticks)| ticks as f64 / TICKS_PER_SECOND)
}

/// Seconds that the living children of a process have used (the backends of a postmaster).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "ticks of one run")]
pub fn children_seconds(parent: u32) -> f64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0.0 };
    let ticks: u64 = entries
        .filter_map(Result::ok)
        .filter_map(|entry| stat(entry.file_name().to_str()?))
        .filter(|(of, _)| *of == parent)
        .map(|(_, ticks)| ticks)
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}
