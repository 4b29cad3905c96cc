//! Shared set-up of the integration tests.

pub mod app;
pub mod browser;
pub mod cluster;
pub mod directory;
pub mod faulty_s3;
pub mod forwarder;
pub mod lossy_postgres;
pub mod objects;
pub mod program;
pub mod slow_postgres;
pub mod submit;
