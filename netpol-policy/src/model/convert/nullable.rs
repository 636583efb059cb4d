//! Null is absence, as it is for the API's Go types.

use serde::{Deserialize, Deserializer};

/// Reads a field whose null means the same as its absence.
///
/// # Errors
/// Those of `T`.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a list, or null; an item that is null is the default of its type.
///
/// # Errors
/// Those of `T`.
pub(super) fn items<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    let items: Vec<Option<T>> = or_default(deserializer)?;
    Ok(items.into_iter().map(Option::unwrap_or_default).collect())
}
