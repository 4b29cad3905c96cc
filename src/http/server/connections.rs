//! Who is connected: how many, from where, and who has waited longest without a request.

use crate::limits::address_key;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// In [`Connection::waiting_since`]: a request is under way.
const BUSY: u64 = u64::MAX;

/// While all are busy and there is no room, somebody who has become idle is found after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One connection, as others see it.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    address: IpAddr,
    /// Milliseconds on the table's clock, or [`BUSY`].
    waiting_since: AtomicU64,
    /// Its client has not taken all of an answer yet.
    is_writing: AtomicBool,
    /// It should go, to make room.
    pub leave: Notify,
}

impl Connection {
    /// A request is under way, or its answer is.
    pub fn is_busy(&self) -> bool {
        self.waiting_since.load(Ordering::Acquire) == BUSY || self.is_writing.load(Ordering::Acquire)
    }

    /// Bytes of an answer wait for the client, or do not any more.
    pub fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Ordering::Release);
    }
}

/// What is there to do before the next connection is accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// Nothing.
    Free,
    /// Somebody should go soon.
    Little,
    /// Somebody must go first.
    None,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Connection>>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
}

/// All connections of a listener.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    max_per_address: usize,
    started: Instant,
    table: Mutex<Table>,
    freed: Notify,
}

impl Connections {
    /// At most so many.
    pub fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_address, started: Instant::now(), table: Mutex::default(), freed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(BUSY - 1)
    }

    /// Is there room for one more? The last sixteenth is kept for those that come while others are sent away.
    pub fn room(&self) -> Room {
        let open = self.table().open.len();
        if open >= self.max {
            Room::None
        } else if open >= self.max - (self.max / 16).max(1) {
            Room::Little
        } else {
            Room::Free
        }
    }

    /// Send away whoever has waited longest without a request. False: all are busy.
    pub fn send_one_away(&self) -> bool {
        let oldest = {
            let table = self.table();
            let waiting = table.open.values().filter(|connection| !connection.is_busy());
            waiting.min_by_key(|connection| (connection.waiting_since.load(Ordering::Acquire), connection.id)).cloned()
        };
        match oldest {
            Some(connection) => {
                // Not to be chosen again while it goes.
                connection.waiting_since.store(BUSY - 1, Ordering::Release);
                connection.leave.notify_one();
                true
            }
            None => false,
        }
    }

    /// Until a connection has gone, or it is time to look whether one has become idle meanwhile.
    pub async fn freed(&self) {
        let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
    }

    /// A new connection of that address; none if it has as many as it may.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address_key(address);
        let now = self.now();
        let mut table = self.table();
        let of_address = table.by_address.entry(address).or_default();
        if *of_address >= self.max_per_address {
            return None;
        }
        *of_address += 1;
        let id = table.next;
        table.next += 1;
        let (waiting_since, leave) = (AtomicU64::new(now), Notify::new());
        let is_writing = AtomicBool::new(false);
        let connection = Arc::new(Connection { id, address, waiting_since, is_writing, leave });
        table.open.insert(id, Arc::clone(&connection));
        Some(Place { connection, connections: Arc::clone(self) })
    }

    /// Open connections.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.table().open.len()
    }
}

/// A connection's place; dropping it makes room.
#[derive(Debug)]
pub struct Place {
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Place {
    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// A request has come.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.connection.waiting_since.store(BUSY, Ordering::Release);
        Busy(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.open.remove(&self.connection.id);
        if let Some(number) = table.by_address.get_mut(&self.connection.address) {
            *number -= 1;
            if *number == 0 {
                table.by_address.remove(&self.connection.address);
            }
        }
        drop(table);
        self.connections.freed.notify_one();
    }
}

/// A request is under way until this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        let now = self.0.connections.now();
        self.0.connection.waiting_since.store(now, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_its_number_and_the_longest_waiting_goes_first() {
        let connections = Connections::new(16, 3);
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let places: Vec<_> = (0..3).map(|_| Arc::new(connections.enter(one).unwrap())).collect();
        assert!(connections.enter(one).is_none() && connections.enter("192.0.2.2".parse().unwrap()).is_some());
        assert_eq!((connections.open(), connections.room()), (3, Room::Free));
        // The first has a request, so the second has waited longest; then the third; then nobody.
        let busy = places[0].begin();
        assert!(connections.send_one_away());
        places[1].connection().leave.notified().await;
        assert!(!places[1].connection().is_busy());
        let others: Vec<_> = (3..15).map(|last| connections.enter([192, 0, 2, last].into()).unwrap()).collect();
        assert_eq!(connections.room(), Room::Little);
        drop(busy);
        drop(places);
        connections.freed().await;
        assert_eq!((connections.open(), connections.enter(one).is_some()), (others.len(), true));
    }

    #[test]
    fn when_all_are_busy_nobody_is_sent_away() {
        let connections = Connections::new(8, 8);
        let places: Vec<_> = (0..8).map(|_| Arc::new(connections.enter([192, 0, 2, 1].into()).unwrap())).collect();
        assert_eq!(connections.room(), Room::None);
        let busy: Vec<_> = places.iter().map(Place::begin).collect();
        assert!(!connections.send_one_away());
        drop(busy);
        places[0].connection().set_writing(true);
        assert!(connections.send_one_away());
        assert!(places[0].connection().is_busy(), "whose answer is still being taken has not waited longest");
        assert_eq!(places[1].connection().waiting_since.load(Ordering::Acquire), BUSY - 1);
    }

    #[tokio::test]
    async fn while_there_is_no_room_one_that_has_become_idle_is_found() {
        let connections = Connections::new(8, 8);
        let places: Vec<_> = (0..8).map(|_| Arc::new(connections.enter([192, 0, 2, 1].into()).unwrap())).collect();
        let mut busy: Vec<_> = places.iter().map(Place::begin).collect();
        assert!(!connections.send_one_away());
        busy.pop();
        // Nobody has gone, yet this ends.
        connections.freed().await;
        assert!(connections.send_one_away());
    }
}
