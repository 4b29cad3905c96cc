//! One integration binary on a real PostgreSQL and the embedded S3, which the tests start themselves.

mod clinical;
mod crash;
mod embedded_postgres;
mod engine;
mod house;
mod objects;
mod support;
mod tenancy;
