//! Typed decoding that loses only what is wrong.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path as ErrorPath, Segment};

use super::walk::{Fields, Findings, Path};
use crate::model::Code;

/// Decodes a section of an object (`spec`, `status`). Every value of the wrong type counts as missing
/// and is reported; a missing section is the default.
pub(super) fn section<T: DeserializeOwned + Default>(
    object: Fields<'_>,
    name: &str,
    findings: &mut Findings,
) -> T {
    let path = Path::Root.field(name);
    let Some(value) = object.get(name) else { return T::default() };
    if findings.mapping(&path, value, "it is ignored").is_none() {
        return T::default();
    }
    let error = match serde_path_to_error::deserialize(value) {
        Ok(decoded) => return decoded,
        Err(error) => error,
    };
    // Each round removes one wrong value, so that it ends.
    let mut repaired = value.clone();
    let mut error = error;
    loop {
        let message = format!("cannot be read ({}): it is ignored", error.inner());
        let wrong = find(&mut repaired, error.path()).filter(|wrong| !wrong.is_null());
        let Some(wrong) = wrong else {
            findings.report(Code::Malformed, &path, message);
            return T::default();
        };
        *wrong = Value::Null;
        let place = error.path().to_string();
        findings.report(Code::Malformed, &path.field(&place), message);
        match serde_path_to_error::deserialize(&repaired) {
            Ok(decoded) => return decoded,
            Err(next) => error = next,
        }
    }
}

/// The value at the place of a decoding error.
fn find<'v>(root: &'v mut Value, path: &ErrorPath) -> Option<&'v mut Value> {
    let mut place = root;
    for segment in path {
        place = match segment {
            Segment::Map { key } => place.get_mut(key)?,
            Segment::Seq { index } => place.get_mut(*index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    Some(place)
}
