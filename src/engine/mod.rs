//! Durable execution: workflow files, states, retries, leases and fenced commits over the queue table.
//!
//! Knows nothing of clinical data, HTTP or apalis. The contract is in `docs/architecture.md`; the states are in
//! `docs/state-machine.md`.

pub mod catalog;
pub mod chunks_store;
mod commit;
pub mod committer;
pub mod definition;
pub mod executor;
mod failing;
pub mod handler;
pub mod jobs;
pub mod jobs_store;
pub mod operations;
mod region;
pub mod registry;
pub mod retry;
pub mod state;
pub mod store;
pub mod sweeper;
pub mod timeline;
pub mod wake;
pub mod workers_store;

pub use executor::{Engine, EngineOptions};
