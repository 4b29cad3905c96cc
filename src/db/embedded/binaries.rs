//! Finding the PostgreSQL programs of this machine.

use super::EmbeddedError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version that the migrations and the settings of this module work with.
pub const MAJOR_MIN: u32 = 15;

/// A directory that holds `postgres` and `initdb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub dir: PathBuf,
    /// Major version of its `postgres`.
    pub major: u32,
}

/// The programs to use: `configured` or nothing, else the first that fits of `pg_config --bindir`, `PATH`, and the
/// usual package directories with the newest first. `major` is that of an existing cluster, which no other one can read.
///
/// # Errors
/// [`EmbeddedError::UnusableBinaries`], [`EmbeddedError::NoBinaries`].
pub fn find(configured: Option<&Path>, major: Option<u32>) -> Result<Binaries, EmbeddedError> {
    if let Some(dir) = configured {
        return usable(dir, major).ok_or_else(|| EmbeddedError::UnusableBinaries { dir: dir.to_owned(), major });
    }
    candidates().into_iter().find_map(|dir| usable(&dir, major)).ok_or(EmbeddedError::NoBinaries)
}

fn usable(dir: &Path, major: Option<u32>) -> Option<Binaries> {
    if !dir.join("initdb").is_file() || !dir.join("postgres").is_file() {
        return None;
    }
    let output = Command::new(dir.join("postgres")).arg("-V").output().ok()?;
    let found = major_of(&String::from_utf8_lossy(&output.stdout))?;
    let fits = found >= MAJOR_MIN && major.is_none_or(|major| major == found);
    fits.then(|| Binaries { dir: dir.to_owned(), major: found })
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `postgres (PostgreSQL) 19beta1` → the major version.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut packaged: Vec<(u32, PathBuf)> =
        PACKAGES.iter().flat_map(|(parent, prefix, bin)| versions(parent, prefix, bin)).collect();
    packaged.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    dirs.extend(packaged.into_iter().map(|(_, dir)| dir));
    dirs
}

/// Where packages put the programs: parent directory, what stands before the version, what comes below it.
const PACKAGES: &[(&str, &str, &str)] = &[
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PGDG for Red Hat
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
];

fn versions(parent: &str, prefix: &str, bin: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let major = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((major, entry.path().join(bin)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn a_configured_directory_without_programs_is_an_error_and_not_a_reason_to_search_on() {
        let error = find(Some(Path::new("/nonexistent")), None).unwrap_err();
        assert!(matches!(error, EmbeddedError::UnusableBinaries { .. }), "{error}");
    }
}
