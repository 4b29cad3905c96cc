//! Under which account PostgreSQL runs: it refuses root, so root hands it to somebody else; anybody else runs it as
//! oneself.

use super::EmbeddedError;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// A user that we switch to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// The account for a cluster; `None` means our own. For root: the owner of an existing cluster, else `run_as`, else
/// `postgres`, else `nobody`.
///
/// # Errors
/// [`EmbeddedError::Account`].
pub fn choose(cluster: &Path, run_as: Option<&str>) -> Result<Option<Account>, EmbeddedError> {
    let owner = fs::metadata(cluster.join("PG_VERSION")).ok();
    let uid = rustix::process::geteuid().as_raw();
    if uid != 0 {
        return match owner {
            Some(owner) if owner.uid() != uid => Err(EmbeddedError::Account(format!(
                "{} belongs to uid {}, and we are uid {uid}: start as its owner, or choose another data directory",
                cluster.display(),
                owner.uid()
            ))),
            _ => Ok(None),
        };
    }
    if let Some(owner) = owner.filter(|owner| owner.uid() != 0) {
        return Ok(Some(Account { uid: owner.uid(), gid: owner.gid() }));
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(EmbeddedError::io("read", Path::new("/etc/passwd")))?;
    let names = run_as.map_or_else(|| vec!["postgres", "nobody"], |name| vec![name]);
    match names.iter().find_map(|name| lookup(&passwd, name)) {
        Some(account) if account.uid != 0 => Ok(Some(account)),
        Some(_) => Err(EmbeddedError::Account(format!(
            "PostgreSQL refuses to run as `{}`: name an ordinary account",
            names[0]
        ))),
        None => Err(EmbeddedError::Account(format!(
            "we are root, which PostgreSQL refuses, and there is no account `{}` to run it as: create it, or set DATABASE_URL",
            names.join("` or `")
        ))),
    }
}

/// Fields 3 and 4 of a line of passwd(5).
fn lookup(passwd: &str, name: &str) -> Option<Account> {
    let mut fields = passwd
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { uid, gid })
}

/// A PostgreSQL program under `account`, in a directory and an environment that do not depend on ours.
#[must_use]
pub fn command(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
    if let Some(account) = account {
        // std also clears the supplementary groups when root gives a uid.
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Every parent of `path` must let `account` through: root's home is 0700, the classic trap.
///
/// # Errors
/// [`EmbeddedError::Unreachable`] with the first directory that is closed.
pub fn check_reachable(path: &Path, account: Option<Account>) -> Result<(), EmbeddedError> {
    let Some(account) = account else { return Ok(()) };
    for dir in path.ancestors().skip(1) {
        let Ok(metadata) = fs::metadata(dir) else { continue };
        let bit = match metadata {
            ref owned if owned.uid() == account.uid => 0o100,
            ref grouped if grouped.gid() == account.gid => 0o010,
            _ => 0o001,
        };
        if metadata.permissions().mode() & bit == 0 {
            return Err(EmbeddedError::Unreachable { dir: dir.to_owned(), uid: account.uid });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\nnot-postgres:x:7:8::/:\n";

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        assert_eq!(lookup(PASSWD, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(lookup(PASSWD, "postgre"), None);
    }
}
