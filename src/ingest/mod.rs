//! The clinical domain: FHIR, patients, findings, the steps' handlers, and the clinical view.

pub mod athena;
pub mod bulk;
pub mod demographics;
pub mod erasure;
pub mod events;
pub mod fhir;
pub mod findings;
pub mod issues;
pub mod linking;
pub mod patients;
pub mod payloads;
pub mod resource;
pub mod settings;
pub mod steps;
pub mod subject;
pub mod submit;
pub mod view;
