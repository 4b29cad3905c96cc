//! The engine through real workers: retries, failures, lanes, fairness, cancel, and the generated tests that run every
//! workflow file's steps twice, stop after each write and fail in each class.

mod chunked;
mod failures;
mod fanout;
mod gauges;
mod generated;
mod lanes;
mod leases;
mod lost_answers;
mod operations;
pub mod scripted;
