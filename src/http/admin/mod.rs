//! Administration over HTTP; roles admin (the own organization) and platform (all).

pub mod callbacks;
pub mod deliveries;
pub mod audit;
pub mod jobs;
pub mod links;
pub mod objects;
pub mod organizations;
pub mod reviews;
pub mod settings;
pub mod system;
