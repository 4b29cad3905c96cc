//! Names of FHIR's types that the rest of the house asks for. The definitions themselves are in `definitions`.

use super::definitions;

/// The resource type of that name, if R4 has it. What it returns is ours, so it may be logged and counted.
#[must_use]
pub fn resource_type(name: &str) -> Option<&'static str> {
    let table = definitions::r4();
    table.resource(name).map(|id| table.get(id).name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_have_instances_are_known() {
        assert_eq!(resource_type("Observation"), Some("Observation"));
        for name in ["Observatio", "DomainResource", "Quantity", "Observation.component"] {
            assert_eq!(resource_type(name), None, "{name}");
        }
        assert_eq!(definitions::r4().resources().count(), 146);
    }
}
