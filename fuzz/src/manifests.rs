//! Manifests, from text to maps.

use netpol_policy::lint::{Options, Scope, lint};
use netpol_policy::manifests::parse;
use netpol_policy::simulate::{Cluster, Engine, with_implicit_namespaces};
use netpol_policy::store::{ClusterState, Delta};

/// Reads manifests, lints them, and compiles the objects. Every finding and every object must have a position in the text.
///
/// # Panics
/// If that does not hold.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let manifests = parse("fuzzed.yaml", text);
    // As YAML counts them, where a lone carriage return ends a line too.
    let n_lines = text.matches(['\n', '\r']).count() + 1;
    for finding in &manifests.findings {
        assert!(finding.location.line <= n_lines, "{finding}");
    }
    let mut state = ClusterState::default();
    for read in &manifests.objects {
        assert!((1..=n_lines).contains(&read.location.line), "{:?}", read.location);
        assert!(manifests.location_of(&read.object.object_ref(), "spec").is_some());
        drop(state.apply(Delta::Upsert(read.object.clone())));
    }
    for finding in lint(&state, &Options::new(Scope::Partial)) {
        assert!(!finding.message.is_empty());
    }
    let objects = manifests.objects.into_iter().map(|read| read.object).collect();
    let (objects, _implicit) = with_implicit_namespaces(objects);
    Cluster::new(Engine::compiled()).set(objects).unwrap();
}
