//! The settings of our own PostgreSQL.

use super::account::{self, Account};
use super::binaries::Binaries;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const MEGABYTE: u64 = 1 << 20;
/// `shared_buffers` are this part of the memory: others live here, too, and PostgreSQL reads through the system's cache.
const BUFFERS_PART: u64 = 8;
/// In megabytes: PostgreSQL's own default, and what a bulk file of a gigabyte makes use of.
const BUFFERS_MIN: u64 = 128;
const BUFFERS_MAX: u64 = 1_024;

/// Durability is PostgreSQL's own default; repeated here because it is our promise.
const DURABLE: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("max_wal_size", "4GB"),
    // Files of the log that are used again: making one holds up every commit for as long as it takes to be written.
    ("min_wal_size", "1GB"),
    // Written pages go to the disk soon: else a checkpoint flushes gigabytes at once, and commits wait for seconds.
    ("backend_flush_after", "2MB"),
];

/// As fast as it gets, for clusters that are thrown away.
const THROW_AWAY: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("shared_buffers", "64MB"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("autovacuum", "off"),
];

/// For both. A statement's text, its parameters, and the messages of failed statements may hold clinical values: the
/// log keeps what concerns the server (LOG, FATAL, PANIC), and statements that fail are reported by who sent them.
const ALWAYS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("max_connections", "200"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("log_checkpoints", "off"),
    ("log_min_messages", "log"),
    ("log_statement", "none"),
    ("log_duration", "off"),
    ("log_min_duration_statement", "-1"),
    // Before auto_explain and the like.
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("log_min_error_statement", "panic"),
    ("log_error_verbosity", "terse"),
    ("log_parameter_max_length", "0"),
    ("log_parameter_max_length_on_error", "0"),
];

type Settings = Vec<(String, String)>;

fn owned((name, value): &(&str, &str)) -> (String, String) {
    ((*name).to_owned(), (*value).to_owned())
}

/// For a cluster that is kept, by what the machine has and the server was built with.
pub(super) fn durable(binaries: &Binaries, account: Option<Account>, data: &Path) -> Settings {
    let compression = if knows_lz4(binaries, account, data) { "lz4" } else { "on" };
    let mut settings: Settings = ALWAYS.iter().chain(DURABLE).map(owned).collect();
    settings.push(("shared_buffers".to_owned(), format!("{}MB", buffers(memory()))));
    settings.push(("wal_compression".to_owned(), compression.to_owned()));
    settings
}

/// For a cluster that is thrown away.
pub(super) fn throw_away() -> Settings {
    ALWAYS.iter().chain(THROW_AWAY).map(owned).collect()
}

/// In megabytes, for a machine of so many bytes.
fn buffers(memory: u64) -> u64 {
    (memory / BUFFERS_PART / MEGABYTE).clamp(BUFFERS_MIN, BUFFERS_MAX)
}

/// Does the server compress with lz4? Pages that are written for the first time after a checkpoint go into the log whole, and
/// PostgreSQL's own compression of them was a seventh of what a bulk file cost it.
fn knows_lz4(binaries: &Binaries, account: Option<Account>, data: &Path) -> bool {
    let mut command = account::command(&binaries.dir.join("postgres"), account);
    command.arg("-D").arg(data).args(["-c", "wal_compression=lz4", "-C", "wal_compression"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The memory of the machine, or of the container or service that we are, in bytes.
fn memory() -> u64 {
    let machine = machine_memory();
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits =
        limit_files(&cgroups).into_iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.fold(machine, u64::min)
}

#[cfg(target_os = "linux")]
fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // `unsigned long` has 32 bits on some machines.
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
    u64::try_from(info.totalram).unwrap_or(0).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn machine_memory() -> u64 {
    BUFFERS_MIN * MEGABYTE * BUFFERS_PART
}

/// Where limits of memory stand for the groups of cgroups(7) that a `/proc/self/cgroup` names, and for those above them. A
/// container sees its own group at the top.
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (top, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(top).join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_buffers_are_an_eighth_of_the_memory_within_bounds() {
        const GIGABYTE: u64 = 1 << 30;
        assert_eq!([0, GIGABYTE, 4 * GIGABYTE, 64 * GIGABYTE].map(buffers), [128, 128, 512, 1_024]);
        assert!(memory() > 0);
    }

    #[test]
    fn limits_of_memory_are_looked_for_in_each_group_and_those_above_it() {
        let paths = |text: &str| -> Vec<String> {
            limit_files(text).iter().map(|path| path.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            paths("0::/system.slice/chartgate.service\n"),
            [
                "/sys/fs/cgroup/system.slice/chartgate.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            paths("5:cpu,memory:/docker/1\n4:devices:/\n"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(paths("what\n"), [""; 0]);
    }
}
