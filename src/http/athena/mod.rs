//! The Athena gateway's routes: events in, and what is known of them out. docs/athena.md.

pub mod intake;
pub mod reads;
