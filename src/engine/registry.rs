//! Handlers by name. The names stand in workflow files and in the database of running jobs: they are a contract.

use super::definition::KnownHandlers;
use super::handler::StepHandler;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All handlers that this program has.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: BTreeMap<&'static str, Arc<dyn StepHandler>>,
}

impl Registry {
    /// Add handlers; a later one of the same name replaces an earlier.
    #[must_use]
    pub fn with(mut self, handlers: Vec<(&'static str, Arc<dyn StepHandler>)>) -> Self {
        self.handlers.extend(handlers);
        self
    }

    /// The handler of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn StepHandler>> {
        self.handlers.get(name).cloned()
    }
}

impl KnownHandlers for Registry {
    fn params_of(&self, handler: &str) -> Option<&'static [&'static str]> {
        self.handlers.get(handler).map(|handler| handler.params())
    }

    fn names(&self) -> Vec<&str> {
        self.handlers.keys().copied().collect()
    }
}
