//! The clinical domain: FHIR, patients, findings, the steps' handlers, and the clinical view.

pub mod fhir;
pub mod submit;
