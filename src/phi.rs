//! Protected health information in Rust values: [`Phi<T>`] travels, but does not print.

use std::fmt;

/// A clinical value. It has no `Display`, and its `Debug` says only that it is there, so that no log line, error or
/// panic message can carry it by accident. [`Phi::expose`] is the one way in, easy to search for.
#[derive(Clone, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct Phi<T>(T);

impl<T> Phi<T> {
    /// Wrap a clinical value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: for SQL binds, payload bodies and answers to authorized readers only.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value, unwrapped.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Phi<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phi(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::Phi;

    #[test]
    fn a_clinical_value_does_not_print() {
        let name = Phi::new("Shaw");
        assert_eq!(format!("{name:?}"), "Phi(redacted)");
        assert_eq!(*name.expose(), "Shaw");
    }
}
