//! Protected health information in Rust values: [`Phi<T>`] travels, but does not print.
//!
//! Two ways keep clinical text out of logs, errors and panics, and `tests/it/house.rs` asks for one of them wherever a
//! type of `ingest`, `http`, `uploads` or `objects` holds text: a field is a [`Phi`], or the type has no `Debug`.

use serde::Deserialize;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use std::fmt;

/// A clinical value. It has no `Display`, and its `Debug` says only that it is there, so that no log line, error or
/// panic message can carry it by accident. [`Phi::expose`] is the one way in, easy to search for. In SQL and in JSON that
/// is read it is what it wraps; into JSON it goes exposed, or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Deserialize)]
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

impl<T: Type<Postgres>> Type<Postgres> for Phi<T> {
    fn type_info() -> PgTypeInfo {
        T::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        T::compatible(ty)
    }
}

impl<T: PgHasArrayType> PgHasArrayType for Phi<T> {
    fn array_type_info() -> PgTypeInfo {
        T::array_type_info()
    }

    fn array_compatible(ty: &PgTypeInfo) -> bool {
        T::array_compatible(ty)
    }
}

impl<'q, T: Encode<'q, Postgres>> Encode<'q, Postgres> for Phi<T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.encode_by_ref(buffer)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        self.0.produces()
    }

    fn size_hint(&self) -> usize {
        self.0.size_hint()
    }
}

impl<'r, T: Decode<'r, Postgres>> Decode<'r, Postgres> for Phi<T> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        T::decode(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::Phi;

    #[test]
    fn a_clinical_value_does_not_print() {
        let name = Phi::new("Shaw");
        assert_eq!(
            format!("{name:?} {:?} {:?}", Some(&name), [&name]),
            "Phi(redacted) Some(Phi(redacted)) [Phi(redacted)]"
        );
        assert_eq!(*name.expose(), "Shaw");
    }
}
