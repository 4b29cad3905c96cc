//! The `chartgate` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    chartgate::cli::run()
}
