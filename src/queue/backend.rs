//! Our apalis `Backend`: it hands on what the feeder leased, and nothing else, so that a database error can never end
//! a worker.

use crate::engine::store::Lease;
use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{Mutex, mpsc};

/// The leases of the feeder, shared so that a restarted worker goes on with the same channel.
pub struct LeaseBackend {
    leases: Arc<Mutex<mpsc::UnboundedReceiver<Lease>>>,
}

impl LeaseBackend {
    /// A backend over the feeder's channel.
    pub fn new(leases: Arc<Mutex<mpsc::UnboundedReceiver<Lease>>>) -> Self {
        Self { leases }
    }
}

impl Backend for LeaseBackend {
    type Task = Task<Lease>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        let Ok(mut leases) = self.leases.try_lock() else {
            // The worker before us is just being dropped.
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        leases.poll_recv(context).map(|lease| {
            lease.map(|lease| {
                let id = TaskId::from_int(u64::try_from(lease.seq).unwrap_or_default());
                Ok(TaskBuilder::new(lease).task_id(id).build())
            })
        })
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for LeaseBackend {
    type Args = Lease;
    type Id = ();
    type Kind = Ephemeral;
    type Config = ();
    type Layer = tower::layer::util::Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        tower::layer::util::Identity::new()
    }
}
