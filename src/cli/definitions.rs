//! `chartgate definitions generate`: a command for this project's developers, when a release of FHIR is taken in.

use super::out;
use crate::ingest::fhir::definitions::Table;
use crate::ingest::fhir::definitions::generate::generate;
use anyhow::Context as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to do with the tables of FHIR's definitions.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a table from the specification's definitions.
    Generate(GenerateArguments),
}

/// Make a table from the specification's definitions.
#[derive(Debug, clap::Args)]
pub struct GenerateArguments {
    /// Directory with StructureDefinitions, ValueSets and CodeSystems (`.json` or `.json.gz`, single or in Bundles).
    #[arg(long)]
    from: PathBuf,
    /// The release's name: R4, R4B, R5.
    #[arg(long)]
    release: String,
    /// Where to write the table.
    #[arg(long)]
    out: PathBuf,
}

/// Run the command.
///
/// # Errors
/// What cannot be read or written.
pub fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Generate(arguments) = command;
    let generated = generate(&arguments.from, &arguments.release)?;
    // What cannot be opened is not written. The table lives as long as the process: it is leaked once.
    let table = Table::open(generated.table.clone().leak())?;
    std::fs::write(&arguments.out, &generated.table)
        .with_context(|| format!("cannot write {}", arguments.out.display()))?;
    let (file, release, version) = (arguments.out.display(), table.release, table.version);
    let (lines, resources) = (generated.table.lines().count(), table.resources().count());
    out::line(&format!("{file}: {release} ({version}), {resources} resource types, {lines} lines"));
    for set in &generated.unlisted {
        out::line(&format!("codes not listed by the specification: {set}"));
    }
    for invariant in &generated.untranslated {
        out::line(&format!("invariant not translated: {invariant}"));
    }
    Ok(ExitCode::SUCCESS)
}
