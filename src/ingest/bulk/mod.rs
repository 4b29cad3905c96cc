//! Bulk files: gigabytes of resources that were uploaded in one object (docs/bulk.md).
//!
//! For: NDJSON, JSON arrays and single Bundles, plain or gzip. [`plan`] reads a file once, in bounded memory, and says
//! where it may be cut, so that its pieces can be worked on apart from each other.
//!
//! Leaves to others: where the bytes come from, and what is done with the pieces.

pub mod plan;
