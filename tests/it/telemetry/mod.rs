//! What operators see of the real binary: traces, metrics as Prometheus reads them, logs; and the files of `deploy/`.

pub mod collector;
mod deploy;
mod newcomer;
mod prometheus;
pub mod served;
mod traces;
