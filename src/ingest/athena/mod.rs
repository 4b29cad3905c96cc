//! Athena events: envelope and idempotency key at intake, parts and findings in the steps, and the reads of them.
//!
//! docs/athena.md is the contract.

pub mod canonical;
pub mod counts;
pub mod event;
pub mod parts;
pub mod read;
pub mod sample;
pub mod store;
pub mod submit;
