//! One integration binary on a real PostgreSQL and the embedded S3, which the tests start themselves.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on panics, reads its own sizes from the environment, and says what it measured"
)]

mod athena;
mod audit;
mod auth;
mod bulk;
mod callbacks;
mod canaries;
mod cli;
mod clinical;
mod console;
mod crash;
mod edge;
mod embedded_postgres;
mod engine;
mod erasure;
mod house;
mod http;
mod objects;
mod support;
mod telemetry;
mod tenancy;
mod units_of_work;
mod uploads;
mod watcher;
