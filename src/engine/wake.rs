//! Wake-ups: "there may be ready work". Local waiters are told at once; other processes by PostgreSQL's NOTIFY,
//! leading-edge debounced: the first signal after quiet goes out immediately, further ones within the window are folded
//! into one at its end. A lost notification costs at most one slow poll.

use crate::db::Db;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The channel's name in PostgreSQL.
pub const CHANNEL: &str = "chartgate_queue";

/// One round trip, one transaction.
const NOTIFY: &str = "set local synchronous_commit = off; select pg_notify('chartgate_queue', '')";
/// The same, if jobs were accepted.
const NOTIFY_ACCEPTED: &str = "set local synchronous_commit = off; select pg_notify('chartgate_queue', 'accepted')";

/// What a notification says if jobs were accepted: whoever works in the background makes room for them at once.
pub const ACCEPTED: &str = "accepted";

/// Window within which NOTIFYs are folded. NOTIFY takes an instance-wide lock at commit, so their rate is bounded.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// A cheap handle to signal and to wait.
#[derive(Clone, Default)]
pub struct Wake {
    local: Arc<Notify>,
    remote: Arc<Notify>,
    /// Since the last notification.
    accepted: Arc<AtomicBool>,
}

impl Wake {
    /// There may be ready work: tell this process and the others.
    pub fn signal(&self) {
        self.local.notify_one();
        self.remote.notify_one();
    }

    /// Jobs were accepted: tell this process and the others.
    pub fn signal_accepted(&self) {
        self.accepted.store(true, Ordering::Release);
        self.signal();
    }

    /// There may be ready work here (a slot came free, or a notification came in).
    pub fn signal_local(&self) {
        self.local.notify_one();
    }

    /// Until the next signal; one that came before is not missed.
    pub async fn wait(&self) {
        self.local.notified().await;
    }

    /// Send the NOTIFYs for [`Wake::signal`] until cancelled. A database that is away costs only latency.
    pub async fn notify_others(self, db: Db, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.remote.notified() => {}
            }
            // One transaction without tenant data. A failure is made good by the other side's slow poll, and so is a notification
            // that a crash takes back: it need not wait for the disk.
            let notify = if self.accepted.swap(false, Ordering::AcqRel) { NOTIFY_ACCEPTED } else { NOTIFY };
            let _ = sqlx::raw_sql(notify).execute(db.pool()).await;
            tokio::time::sleep(DEBOUNCE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ACCEPTED, CHANNEL, NOTIFY, NOTIFY_ACCEPTED};

    #[test]
    fn the_channel_that_is_notified_is_the_one_that_is_listened_to() {
        assert!(NOTIFY.ends_with(&format!("pg_notify('{CHANNEL}', '')")));
        assert!(NOTIFY_ACCEPTED.ends_with(&format!("pg_notify('{CHANNEL}', '{ACCEPTED}')")));
    }
}
