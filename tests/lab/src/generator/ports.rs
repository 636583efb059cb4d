//! Items of `ports`.

use serde_json::{Value, json};

use super::{Draw as _, Rng, set};
use crate::case::Protocol;

/// Port names; pods assign them to different numbers and protocols, or not at all.
pub(super) const PORT_NAMES: [&str; 5] = ["http", "metrics", "dns", "admin-1", "p"];

/// A port number, from a small set that includes edge values.
pub(super) fn number(rng: &mut Rng) -> u16 {
    rng.one_of([1, 22, 53, 79, 80, 80, 81, 443, 1023, 8080, 8080, 8081, 32767, 32768, 65534, 65535])
}

/// One item of a rule's `ports`.
pub(super) fn item(rng: &mut Rng) -> Value {
    // Null is the empty item, which means all TCP ports.
    if rng.chance(2) {
        return Value::Null;
    }
    let mut item = json!({});
    match rng.usize(..5) {
        0 => {}
        1 => set(&mut item, "protocol", Value::Null),
        _ => set(&mut item, "protocol", json!(rng.one_of(Protocol::ALL).as_str())),
    }
    match rng.usize(..10) {
        0 => {}
        1 => set(&mut item, "port", Value::Null),
        2..=4 => set(&mut item, "port", json!(rng.one_of(PORT_NAMES))),
        5..=7 => {
            set(&mut item, "port", json!(number(rng)));
            if rng.chance(10) {
                set(&mut item, "endPort", Value::Null);
            }
        }
        _ => {
            let (first, last) = range(rng);
            set(&mut item, "port", json!(first));
            set(&mut item, "endPort", json!(last));
        }
    }
    item
}

/// A port range: one port, between known ports, or all.
fn range(rng: &mut Rng) -> (u16, u16) {
    let (one, other) = (number(rng), number(rng));
    match rng.usize(..6) {
        0 => (one, one),
        1 => (1, 65535),
        2 => (one, one.saturating_add(1)),
        _ => (one.min(other), one.max(other)),
    }
}
