//! Administration over HTTP; roles admin (the own organization) and platform (all).

pub mod audit;
pub mod callbacks;
pub mod deliveries;
pub mod holds;
pub mod jobs;
pub mod keys;
pub mod lanes;
pub mod links;
pub mod objects;
pub mod operations;
pub mod organizations;
pub mod pages;
pub mod purge;
pub mod reviews;
pub mod settings;
pub mod system;
pub mod webhook_secrets;
