//! The clinical domain: FHIR, patients, findings, the steps' handlers, and the clinical view.

pub mod fhir;
pub mod submit;

pub mod demographics;
pub mod events;
pub mod linking;
pub mod patients;
pub mod resource;
pub mod subject;
pub mod findings;
