//! Where something stands, in the two notations that people and programs use.

/// A place as FHIRPath and as JSON Pointer (RFC 6901).
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// `Bundle.entry[3].resource.birthDate`
    pub expression: String,
    /// `/entry/3/resource/birthDate`
    pub pointer: String,
}

impl Place {
    /// The Bundle itself.
    #[must_use]
    pub fn bundle() -> Self {
        Self { expression: "Bundle".to_owned(), pointer: String::new() }
    }

    /// An entry of the Bundle.
    #[must_use]
    pub fn entry(index: u32) -> Self {
        Self::bundle().member("entry").item(index as usize)
    }

    /// The resource of an entry.
    #[must_use]
    pub fn resource(entry: u32) -> Self {
        Self::entry(entry).member("resource")
    }

    /// A member of this place. Names with characters of RFC 6901's escapes do not occur in FHIR; they are escaped all
    /// the same.
    #[must_use]
    pub fn member(&self, name: &str) -> Self {
        let pointer_name = name.replace('~', "~0").replace('/', "~1");
        Self { expression: format!("{}.{name}", self.expression), pointer: format!("{}/{pointer_name}", self.pointer) }
    }

    /// An item of this place.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        Self { expression: format!("{}[{index}]", self.expression), pointer: format!("{}/{index}", self.pointer) }
    }

    /// The FHIRPath of a choice element: `value` for the member `valueQuantity`.
    #[must_use]
    pub fn choice(&self, element: &str, member: &str) -> Self {
        Self { expression: format!("{}.{element}", self.expression), ..self.member(member) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_agree() {
        let place = Place::resource(3).member("component").item(1).choice("value", "valueQuantity");
        assert_eq!(place.expression, "Bundle.entry[3].resource.component[1].value");
        assert_eq!(place.pointer, "/entry/3/resource/component/1/valueQuantity");
        assert_eq!(Place::bundle().member("a/b~c").pointer, "/a~1b~0c");
    }
}
