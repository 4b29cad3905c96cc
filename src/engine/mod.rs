//! Durable execution.
pub mod handler;
