//! Bulk files: gigabytes of resources that were uploaded in one object (docs/bulk.md).
//!
//! For: NDJSON, JSON arrays and single Bundles, plain or gzip. [`plan`] reads a file once, in bounded memory, and says
//! where it may be cut, so that its pieces can be worked on apart from each other.
//!
//! [`piece`] opens the text of a chunk, [`check`] validates it, [`source`] fetches it, [`store`] holds the SQL.
//!
//! Leaves to others: how an object becomes a job's, and the steps (`steps::bulk`).

pub mod check;
pub mod piece;
pub mod plan;
pub mod source;
pub mod store;
