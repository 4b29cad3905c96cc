//! Durable execution: workflow files, states, retries, leases and fenced commits over the queue table.
//!
//! Knows nothing of clinical data, HTTP or apalis. The contract is in `docs/architecture.md`; the states are in
//! `docs/state-machine.md`.

pub mod catalog;
pub mod chunks_store;
mod commit;
pub mod committer;
pub mod definition;
pub mod events_store;
pub mod executor;
pub mod explain;
mod failing;
pub mod failures_store;
pub mod figures;
pub mod figures_list_store;
pub mod figures_store;
pub mod filter;
pub mod gauges_store;
pub mod handler;
pub mod job_events;
pub mod jobs;
pub mod jobs_store;
pub mod lanes;
pub mod lanes_store;
pub mod operations;
pub mod reading;
mod region;
pub mod registry;
pub mod retry;
pub mod search_store;
mod spans;
pub mod state;
pub mod store;
pub mod sweeper;
pub mod timeline;
pub mod traces_store;
pub mod wake;
pub mod workers_store;
pub mod workflows_store;

pub use executor::{Engine, EngineOptions};
