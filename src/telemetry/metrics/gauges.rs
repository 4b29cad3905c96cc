//! Gauges that are set when somebody asks: of the process, and of the database as it is then.

use super::list::{
    BUILD, DATABASE_UP, DISK_FREE, DISK_SIZE, ERASURES_LATE, LANES_HELD, LEASES_EXPIRED, MESSAGES, OLDEST_BLOCKED,
    OLDEST_MESSAGE, OLDEST_READY, OPERATIONS, POOL, RESIDENT, STARTED, TASKS, WORKERS,
};
use super::{METERS, gauge, set};
use prometheus::{GaugeVec, Registry};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// See `list.rs`.
pub(super) struct Gauges {
    build: Option<GaugeVec>,
    started: Option<GaugeVec>,
    resident: Option<GaugeVec>,
    disk_free: Option<GaugeVec>,
    disk_size: Option<GaugeVec>,
    pool: Option<GaugeVec>,
    database_up: Option<GaugeVec>,
    tasks: Option<GaugeVec>,
    oldest_ready: Option<GaugeVec>,
    oldest_blocked: Option<GaugeVec>,
    lanes_held: Option<GaugeVec>,
    leases_expired: Option<GaugeVec>,
    workers: Option<GaugeVec>,
    operations: Option<GaugeVec>,
    erasures_late: Option<GaugeVec>,
    messages: Option<GaugeVec>,
    oldest_message: Option<GaugeVec>,
}

impl Gauges {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            build: gauge(registry, BUILD),
            started: gauge(registry, STARTED),
            resident: gauge(registry, RESIDENT),
            disk_free: gauge(registry, DISK_FREE),
            disk_size: gauge(registry, DISK_SIZE),
            pool: gauge(registry, POOL),
            database_up: gauge(registry, DATABASE_UP),
            tasks: gauge(registry, TASKS),
            oldest_ready: gauge(registry, OLDEST_READY),
            oldest_blocked: gauge(registry, OLDEST_BLOCKED),
            lanes_held: gauge(registry, LANES_HELD),
            leases_expired: gauge(registry, LEASES_EXPIRED),
            workers: gauge(registry, WORKERS),
            operations: gauge(registry, OPERATIONS),
            erasures_late: gauge(registry, ERASURES_LATE),
            messages: gauge(registry, MESSAGES),
            oldest_message: gauge(registry, OLDEST_MESSAGE),
        }
    }
}

/// The pool of connections.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// In use.
    pub busy: u32,
    /// Open, not in use.
    pub idle: u32,
    /// As many as there may be.
    pub max: u32,
}

/// The queue, as it was read for a scrape.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Rows of the queue by state; a state that is not named has none.
    pub tasks: Vec<(&'static str, i64)>,
    /// 0 without any.
    pub oldest_ready_seconds: f64,
    /// 0 without any.
    pub oldest_blocked_seconds: f64,
    /// Lanes that wait for a retry.
    pub lanes_held: i64,
    /// Leases that nobody took back.
    pub leases_expired: i64,
}

/// What else was read from the database for a scrape.
#[derive(Debug, Clone)]
pub struct Around {
    /// Processes that reported.
    pub workers: i64,
    /// Bulk operations under way.
    pub operations: i64,
    /// Messages under way.
    pub callback_messages: i64,
    /// 0 without any.
    pub oldest_callback_message_seconds: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn number(count: i64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn bytes(count: u64) -> f64 {
    count as f64
}

/// The sweeper looked: so many erasures need somebody.
pub fn erasures_late(count: i64) {
    set(METERS.gauges.erasures_late.as_ref(), &[], number(count));
}

/// The database answers.
pub fn database_up() {
    set(METERS.gauges.database_up.as_ref(), &[], 1.0);
}

/// The queue was read.
pub fn queue_gauges(queue: &Queue) {
    let gauges = &METERS.gauges;
    for (state, count) in &queue.tasks {
        set(gauges.tasks.as_ref(), &[state], number(*count));
    }
    set(gauges.oldest_ready.as_ref(), &[], queue.oldest_ready_seconds);
    set(gauges.oldest_blocked.as_ref(), &[], queue.oldest_blocked_seconds);
    set(gauges.lanes_held.as_ref(), &[], number(queue.lanes_held));
    set(gauges.leases_expired.as_ref(), &[], number(queue.leases_expired));
}

/// The rest was read.
pub fn around_gauges(around: &Around) {
    let gauges = &METERS.gauges;
    set(gauges.workers.as_ref(), &[], number(around.workers));
    set(gauges.operations.as_ref(), &[], number(around.operations));
    set(gauges.messages.as_ref(), &[], number(around.callback_messages));
    set(gauges.oldest_message.as_ref(), &[], around.oldest_callback_message_seconds);
}

/// It does not: what it said before is not told as if it were so now.
pub fn database_away() {
    let gauges = &METERS.gauges;
    for gauge in [
        &gauges.tasks,
        &gauges.oldest_ready,
        &gauges.oldest_blocked,
        &gauges.lanes_held,
        &gauges.leases_expired,
        &gauges.workers,
        &gauges.operations,
        &gauges.messages,
        &gauges.oldest_message,
        &METERS.audit_unsealed_age,
        &METERS.audit_unsealed,
        &METERS.audit_unpublished,
        &METERS.audit_state,
    ]
    .into_iter()
    .flatten()
    {
        gauge.reset();
    }
    set(gauges.database_up.as_ref(), &[], 0.0);
}

/// When the process was started: when logging was.
static BEGUN: LazyLock<f64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs_f64()).unwrap_or_default());

/// The process starts now.
pub(in crate::telemetry) fn begin() {
    LazyLock::force(&BEGUN);
}

/// What the process has; of its data directory, if it keeps servers' data there.
pub fn process_gauges(pool: Pool, data_directory: Option<&Path>) {
    let gauges = &METERS.gauges;
    set(gauges.build.as_ref(), &[env!("CARGO_PKG_VERSION")], 1.0);
    set(gauges.started.as_ref(), &[], *BEGUN);
    for (state, connections) in [("busy", pool.busy), ("idle", pool.idle), ("max", pool.max)] {
        set(gauges.pool.as_ref(), &[state], f64::from(connections));
    }
    if let Some(resident) = resident_bytes() {
        set(gauges.resident.as_ref(), &[], bytes(resident));
    }
    if let Some(Ok(disk)) = data_directory.map(rustix::fs::statvfs) {
        set(gauges.disk_free.as_ref(), &[], bytes(disk.f_bavail * disk.f_frsize));
        set(gauges.disk_size.as_ref(), &[], bytes(disk.f_blocks * disk.f_frsize));
    }
}

/// Of `/proc/self/status`, which may be read although the process is not dumpable.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
