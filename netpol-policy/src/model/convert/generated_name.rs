//! The name of an object that asks the API server for one.

use serde_json::Value;

/// The letters of names that an API server makes.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Number of letters that it adds.
const N_LETTERS: usize = 5;

/// Gives an object with `generateName` and without a name the name that an API server could give it. The name depends on `seed`
/// only, so that the same text has the same name, and objects of different seeds have different ones.
///
/// Source: meta/v1 `ObjectMeta.generateName`.
pub fn name_generated(object: &mut Value, seed: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let has_name = metadata.get("name").is_some_and(|name| !name.is_null() && name != "");
    let prefix = metadata.get("generateName").and_then(Value::as_str);
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty() && !has_name) else { return };
    // FNV-1a, because the name must not change with the version of a hash function.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in seed.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut name = prefix.to_owned();
    let n_letters = LETTERS.len() as u64;
    for _ in 0..N_LETTERS {
        let at = usize::try_from(hash % n_letters).unwrap_or(0);
        name.extend(LETTERS.get(at).map(|letter| char::from(*letter)));
        hash /= n_letters;
    }
    metadata.insert("name".to_owned(), Value::String(name));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn name(metadata: &Value, seed: &str) -> Value {
        let mut object = json!({ "metadata": metadata });
        name_generated(&mut object, seed);
        object["metadata"]["name"].take()
    }

    #[test]
    fn only_objects_that_ask_for_a_name_get_one() {
        let asks = json!({ "generateName": "job-" });
        let found = name(&asks, "a.yaml:1");
        let letters = found.as_str().unwrap().strip_prefix("job-").unwrap();
        assert!(letters.len() == N_LETTERS && letters.bytes().all(|b| LETTERS.contains(&b)));
        assert_eq!(name(&asks, "a.yaml:1"), found);
        assert_ne!(name(&asks, "a.yaml:2"), found);
        assert_ne!(name(&asks, "b.yaml:1"), found);
        assert_eq!(name(&json!({ "name": "x", "generateName": "job-" }), ""), "x");
        assert_eq!(name(&json!({}), ""), Value::Null);
        assert_eq!(name(&json!({ "generateName": 1 }), ""), Value::Null);
    }
}
