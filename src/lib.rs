//! Chartgate: a durable ingestion gateway for clinical data.
//!
//! The map of the house, one line a module. Dependencies point downwards only (`tests/it/house.rs` reads `src/`
//! and checks it); modules of one row never name each other, except where the row says so.
//!
//! | row | modules | for |
//! |---|---|---|
//! | 1 | `cli` | the commands of the binary |
//! | 2 | `http`, `console`, `queue` | the thin HTTP edge; the administrators' web pages; apalis workers over the queue table |
//! | 3 | `app` | builds everything once, for `serve`, workers and tests alike |
//! | 4 | `ingest` | the clinical domain: FHIR, patients, findings, submitting, the steps' handlers |
//! | 5 | `uploads`, `callbacks` | presigned uploads and their watcher; signed outbound webhooks |
//! | 6 | `engine` | durable execution: workflow files, states, retries, leases, fenced commits |
//! | 7 | `audit`, `auth`, `limits` | the audit log: append, seal, verify; API keys and roles (`auth` names `audit`: a caller is the actor of a record); what callers may take |
//! | 8 | `db`, `objects` | PostgreSQL and S3, real or embedded |
//! | 9 | `config`, `telemetry`, `clock`, `ids`, `phi`, `secrets` | plain facts that everything may use (`config` names `secrets`: whether its keys are keys) |

pub mod app;
pub mod audit;
pub mod auth;
pub mod callbacks;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod db;
pub mod engine;
#[expect(clippy::missing_errors_doc, reason = "the `responses` of each route list its errors")]
pub mod http;
pub mod ids;
pub mod ingest;
pub mod limits;
pub mod objects;
pub mod phi;
pub mod queue;
pub mod secrets;
pub mod telemetry;
pub mod uploads;
