//! What anybody may ask for, and what answers cost: dependencies are looked at once a second, however many ask.

use super::App;
use crate::audit::store::{SealerStatus, sealer_status};
use crate::db::{DbError, Scope};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// What was found is believed for so long.
const FRESH: Duration = Duration::from_secs(1);
/// A dependency that does not answer within this time counts as away.
pub const CHECK_MAX: Duration = Duration::from_secs(3);

/// Something that is found out by one caller at a time, and told to all others until it is old.
#[derive(Debug)]
struct Recent<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Recent<T> {
    async fn get(&self, find: impl Future<Output = T>) -> T {
        let mut found = self.0.lock().await;
        if let Some((at, value)) = &*found
            && at.elapsed() < FRESH
        {
            return value.clone();
        }
        let value = find.await;
        *found = Some((Instant::now(), value.clone()));
        value
    }
}

/// What was found lately.
#[derive(Debug, Default)]
pub struct Health {
    dependencies: Recent<[Option<String>; 2]>,
    sealer: Recent<Option<SealerStatus>>,
}

impl App {
    /// Database and object store: what is wrong with each.
    pub async fn faults(&self) -> [Option<String>; 2] {
        self.health.dependencies.get(check(self)).await
    }

    /// What the sealer of the audit log last said, if it can be read now.
    pub async fn sealer(&self) -> Option<SealerStatus> {
        let read = self.db.unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move { sealer_status(connection).await })
        });
        let read = async { tokio::time::timeout(CHECK_MAX, read).await.ok()?.ok()? };
        self.health.sealer.get(read).await
    }
}

async fn check(app: &App) -> [Option<String>; 2] {
    let database = tokio::time::timeout(CHECK_MAX, app.db.ping());
    let objects = tokio::time::timeout(CHECK_MAX, app.objects.ready());
    let (database, objects) = tokio::join!(database, objects);
    let late = || Some("no answer in time".to_owned());
    [
        database.map_or_else(|_| late(), |answer| answer.err().map(|error| error.to_string())),
        objects.map_or_else(|_| late(), |answer| answer.err().map(|error| error.to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn however_many_ask_it_is_found_out_once_until_it_is_old() {
        let (recent, asked) = (Recent::<usize>::default(), AtomicUsize::new(0));
        let find = || async {
            tokio::task::yield_now().await;
            asked.fetch_add(1, Ordering::Relaxed) + 1
        };
        let told = join_all((0..100).map(|_| recent.get(find()))).await;
        assert_eq!((told, asked.load(Ordering::Relaxed)), (vec![1; 100], 1));
        if let Some((at, _)) = &mut *recent.0.lock().await {
            *at -= FRESH;
        }
        assert_eq!(recent.get(find()).await, 2);
    }
}
