//! What an earlier life of the program left in a cluster: a postmaster, its backends, or only a pid file.
//!
//! PostgreSQL refuses to start while `postmaster.pid` names a process that exists. That is wrong for ever when the
//! number was reused, or when the old postmaster is a zombie whose parent never reaps it (a container whose first
//! process is not an init). We hold the lock on the directory, so nobody else starts this cluster, and decide by the
//! evidence that PostgreSQL itself trusts: the System V shared memory segment in the pid file's line 7, to which the
//! postmaster and every backend stay attached until they are gone. Unlike `/proc/PID/cwd` it can be read without
//! `CAP_SYS_PTRACE`, which root lacks in most containers.

use super::EmbeddedError;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// An orphaned postmaster gets this long for its fast shutdown, and backends of a killed one to notice and leave.
const GONE_WITHIN: Duration = Duration::from_mins(1);
/// All System V shared memory segments (`man 5 proc_sysvipc`).
const SEGMENTS: &str = "/proc/sysvipc/shm";

/// Stop an orphaned server in `cluster`, wait until nothing uses it, and take the pid file away.
///
/// # Errors
/// [`EmbeddedError::Busy`] when processes stay, [`EmbeddedError::Io`].
pub fn clear(cluster: &Path) -> Result<(), EmbeddedError> {
    if !Path::new(SEGMENTS).exists() {
        // Not Linux. PostgreSQL's own check guards the cluster then, with the faults above.
        return Ok(());
    }
    let path = cluster.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let pid_file = PidFile::parse(&text);
    let deadline = Instant::now() + GONE_WITHIN;
    let mut asked = false;
    while pid_file.in_use(cluster) {
        if let Some(pid) = pid_file.postmaster(cluster).filter(|_| !asked) {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), "stopping a PostgreSQL that an earlier start left behind");
            // Fast shutdown; that it is gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            asked = true;
        }
        if Instant::now() > deadline {
            return Err(EmbeddedError::Busy { cluster: cluster.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(EmbeddedError::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Is the server that this text of `postmaster.pid` describes ours and ready? (Lines 1 and 8; what `pg_ctl -w` reads.)
pub fn is_ready(text: &str, pid: u32) -> bool {
    let mut lines = text.lines();
    lines.next().is_some_and(|line| line.trim() == pid.to_string())
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

#[derive(Debug, PartialEq, Eq)]
struct PidFile {
    /// Line 1.
    pid: Option<i32>,
    /// Line 7: key and id; not there yet in the first instants of a start.
    segment: Option<(String, String)>,
}

impl PidFile {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse().ok()).filter(|pid| *pid > 0);
        let segment = lines.nth(5).and_then(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        });
        Self { pid, segment }
    }

    fn in_use(&self, cluster: &Path) -> bool {
        self.attached() > 0 || self.postmaster(cluster).is_some()
    }

    /// Processes attached to the cluster's shared memory.
    fn attached(&self) -> u64 {
        let Some((key, id)) = &self.segment else { return 0 };
        // Unreadable: in use, until shown otherwise.
        fs::read_to_string(SEGMENTS).map_or(1, |table| attached_to(&table, key, id))
    }

    /// The process of line 1, if it lives and works in this cluster. A zombie has neither a working directory nor
    /// attached memory.
    fn postmaster(&self, cluster: &Path) -> Option<rustix::process::Pid> {
        let pid = self.pid?;
        let works_here = match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(dir) => dir == cluster,
            // Not ours to inspect: then its name and the memory have to do.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.trim() == "postgres" && self.attached() > 0
            }
            Err(_) => false,
        };
        works_here.then(|| rustix::process::Pid::from_raw(pid)).flatten()
    }
}

/// Columns of [`SEGMENTS`]: key, shmid, perms, size, cpid, lpid, nattch, …. The key is signed
/// there and unsigned in the pid file.
fn attached_to(table: &str, key: &str, id: &str) -> u64 {
    let bits = |text: &str| text.parse::<i64>().ok().map(|value| value & 0xffff_ffff);
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|columns| {
            columns.len() > 6 && bits(columns[0]).is_some() && bits(columns[0]) == bits(key) && columns[1] == id
        })
        .and_then(|columns| columns[6].parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "4711\n/data/cluster\n1763760000\n5432\n/data/run\n\n   917620       3\nready   \n";

    #[test]
    fn a_pid_file_names_its_postmaster_and_its_memory() {
        assert_eq!(PidFile::parse(READY), PidFile { pid: Some(4711), segment: Some(("917620".into(), "3".into())) });
        assert_eq!(PidFile::parse("-4711\n"), PidFile { pid: None, segment: None });
        assert_eq!(PidFile::parse(""), PidFile { pid: None, segment: None });
    }

    #[test]
    fn ready_is_line_eight_of_our_own_child() {
        assert!(is_ready(READY, 4711));
        assert!(!is_ready(READY, 4712));
        assert!(!is_ready(&READY.replace("ready", "starting"), 4711));
        assert!(!is_ready("4711\n", 4711));
    }

    #[test]
    fn attachments_are_counted_for_the_very_segment() {
        let table = "       key      shmid perms                  size  cpid  lpid nattch   uid\n    917620          3   600                    56  4711  4712      6   101\n        -1          4   600                    56  4711  4712      2   101\n";
        assert_eq!(attached_to(table, "917620", "3"), 6);
        assert_eq!(attached_to(table, "917620", "4"), 0);
        assert_eq!(attached_to(table, "4294967295", "4"), 2);
        assert_eq!(attached_to(table, "1", "9"), 0);
    }
}
