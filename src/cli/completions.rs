//! `completions bash|elvish|fish|powershell|zsh`: what a shell needs to complete commands and options.

use super::out;
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::process::ExitCode;

/// Print the completion script of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate completions bash > ~/.local/share/bash-completion/completions/chartgate\n  chartgate completions zsh > \"${fpath[1]}/_chartgate\"\n  chartgate completions fish > ~/.config/fish/completions/chartgate.fish"
)]
pub struct Arguments {
    /// For which shell.
    shell: Shell,
}

/// Print it.
///
/// # Errors
/// The script is no UTF-8 (which must not happen).
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "chartgate", &mut script);
    out::line(String::from_utf8(script)?.trim_end());
    Ok(ExitCode::SUCCESS)
}
