//! The watcher: every object below `incoming/` becomes bytes of exactly one job, or is refused (docs/bulk.md).

pub mod store;
