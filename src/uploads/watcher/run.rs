//! What a process with the role `watcher` does: sweeps, tidies up, and listens to the sources of hints that it has.

use super::events::{self, NotNotified};
use super::{AT_ONCE, Hint, WatchError, Watcher};
use crate::objects::ObjectError;
use crate::objects::embedded::CreatedObject;
use crate::objects::notifications::{Notification, NotificationQueue};
use crate::telemetry;
use futures::StreamExt as _;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

/// Between two attempts to reach a queue that is away: from, to.
const QUEUE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// A notification that could not be worked on comes back after so long, doubled each time: from, to.
const POSTPONED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(15));
/// Tidying up needs no haste.
const TIDY_EVERY: Duration = Duration::from_mins(1);

/// Sources of hints beside the sweep.
#[derive(Default)]
pub struct Sources {
    /// Of an embedded store in this process.
    pub store: Option<UnboundedReceiver<CreatedObject>>,
    /// Of a real one.
    pub queue: Option<NotificationQueue>,
}

impl WatchError {
    /// It passes by itself: S3 or PostgreSQL is away.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Objects(error) => error.is_transient(),
            Self::Db(error) => error.may_pass(),
            Self::Catalog(_) => false,
        }
    }
}

impl Watcher {
    /// Watch until cancelled. Any number of processes may.
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let all = async {
            tokio::join!(
                self.sweep_for_ever(),
                async {
                    if let Some(created) = sources.store {
                        self.follow_store(created).await;
                    }
                },
                async {
                    if let Some(queue) = sources.queue {
                        self.follow_queue(&queue).await;
                    }
                },
            )
        };
        // Whatever is cut off is done again: units of work run to their end by themselves.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = all => {}
        }
    }

    async fn sweep_for_ever(&self) {
        let mut tidied: Option<Instant> = None;
        loop {
            let started = Instant::now();
            let outcome = match self.sweep().await {
                Ok(swept) => {
                    if swept.taken_up + swept.refused > 0 {
                        tracing::info!(
                            taken_up = swept.taken_up,
                            refused = swept.refused,
                            listed = swept.listed,
                            "the sweep found {} object(s) that no hint had told of",
                            swept.taken_up + swept.refused
                        );
                    }
                    if swept.failed == 0 { "complete" } else { "partial" }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a sweep of incoming/ ended early");
                    "failed"
                }
            };
            telemetry::watcher_swept(outcome, started.elapsed());
            if tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
                if let Err(error) = self.tidy().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "incoming/ could not be tidied up");
                }
                tidied = Some(Instant::now());
            }
            tokio::time::sleep(self.options.sweep_every).await;
        }
    }

    /// Hints of the store in this process. One that fails is left to the sweep.
    async fn follow_store(&self, created: UnboundedReceiver<CreatedObject>) {
        let objects = futures::stream::unfold(created, |mut created| async move {
            created.recv().await.map(|object| (object, created))
        });
        objects
            .for_each_concurrent(AT_ONCE, |object| async move {
                if let Err(error) = self.take_up_named(Hint::Store, &object.bucket, &object.key).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a new object is left to the sweep");
                }
            })
            .await;
    }

    async fn follow_queue(&self, queue: &NotificationQueue) {
        let mut pause = QUEUE_PAUSE.0;
        loop {
            match self.drain(queue).await {
                Ok(_) => pause = QUEUE_PAUSE.0,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the queue of notifications cannot be read"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(QUEUE_PAUSE.1);
                }
            }
        }
    }

    /// Wait for notifications and work on what comes, once; how many came. One is deleted only when all that it names was
    /// taken up or is known to be of no use; the others come back later.
    ///
    /// # Errors
    /// The queue's.
    pub async fn drain(&self, queue: &NotificationQueue) -> Result<usize, ObjectError> {
        let notifications = queue.receive().await?;
        for notification in &notifications {
            if self.follow(notification).await {
                queue.delete(notification).await?;
            } else {
                let doubled = POSTPONED.0 * 2u32.saturating_pow(notification.received.saturating_sub(1).min(16));
                queue.postpone(notification, doubled.min(POSTPONED.1)).await?;
            }
        }
        Ok(notifications.len())
    }

    /// Is the notification done with?
    async fn follow(&self, notification: &Notification) -> bool {
        let named = match events::parse(notification.body.as_bytes()) {
            Ok(named) => named,
            Err(NotNotified::NotJson | NotNotified::TooMany) => {
                tracing::warn!("a message in the queue of notifications is none; it is dropped");
                telemetry::watcher_hint(Hint::Queue.as_str(), "unreadable");
                return true;
            }
        };
        let mut done = true;
        for (bucket, key) in named.objects {
            if let Err(error) = self.take_up_named(Hint::Queue, &bucket, &key).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a notification is postponed");
                done = false;
            }
        }
        done
    }
}
