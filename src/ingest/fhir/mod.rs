//! FHIR R4: the intake's cheap check, the bundle splitter, the validator, and the generator of synthetic bundles.
//! Everything here is pure: bytes in, facts out.

pub mod calendar;
pub mod checks;
pub mod decimal;
pub mod definitions;
pub mod envelope;
pub mod issue;
pub mod json;
pub mod node;
pub mod path;
pub mod sample;
pub mod split;
pub mod temporal;
pub mod types;
pub mod validate;
