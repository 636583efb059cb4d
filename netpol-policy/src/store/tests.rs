//! Deltas in, ownership of addresses out.

use super::*;
use crate::model::{Labels, PodPhase};

fn pod(name: &str, uid: &str, created_s: i64, addresses: &[&str]) -> Pod {
    Pod {
        name: ObjectName::new("x", name),
        uid: Arc::from(uid),
        static_uid: Arc::from(""),
        created_s,
        labels: Labels::new(),
        node: Arc::from(""),
        reported_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        ports: Arc::default(),
        allows_forwarding: false,
        declines_short_cut: false,
    }
}

fn upsert(state: &mut ClusterState, pod: Pod) -> Changes {
    state.apply(Delta::Upsert(Object::Pod(pod)))
}

fn remove(state: &mut ClusterState, name: &str, uid: Option<&str>) -> Changes {
    let object = ObjectRef { kind: Kind::Pod, name: ObjectName::new("x", name) };
    state.apply(Delta::Remove { object, uid: uid.map(Arc::from) })
}

#[track_caller]
fn check_owner(state: &ClusterState, address: &str, expected: Option<&str>) {
    let owner = state.owner(address.parse().unwrap()).map(|pod| pod.name.name.as_ref());
    assert_eq!(owner, expected, "{address}");
}

#[test]
fn the_same_delta_twice_changes_nothing_more() {
    let mut state = ClusterState::default();
    assert!(!upsert(&mut state, pod("a", "1", 1, &["10.0.0.1"])).is_empty());
    assert!(upsert(&mut state, pod("a", "1", 1, &["10.0.0.1"])).is_empty());
    assert!(!remove(&mut state, "a", None).is_empty());
    assert!(remove(&mut state, "a", None).is_empty());
    check_owner(&state, "10.0.0.1", None);
}

#[test]
fn the_newest_pod_owns_an_address_whatever_the_order_of_events() {
    let old = pod("old", "1", 1, &["10.0.0.1"]);
    let mut new = pod("new", "2", 2, &["10.0.0.1"]);
    new.name.namespace = Arc::from("y");
    // Through the label classes: how many addresses those in the two namespaces really hold.
    let check_label_classes = |state: &ClusterState, expected: [usize; 2]| {
        let held = ["x", "y"].map(|namespace| {
            let label_classes = state.label_classes_in(namespace).iter();
            label_classes
                .flat_map(|label_class| state.addresses_of_label_class(*label_class))
                .count()
        });
        assert_eq!(held, expected);
    };
    for order in [[&old, &new], [&new, &old]] {
        let mut state = ClusterState::default();
        for pod in order {
            drop(upsert(&mut state, pod.clone()));
        }
        check_owner(&state, "10.0.0.1", Some("new"));
        assert_eq!(state.held_addresses(&old).count(), 0);
        check_label_classes(&state, [0, 1]);
        let object = ObjectRef { kind: Kind::Pod, name: new.name.clone() };
        drop(state.apply(Delta::Remove { object, uid: None }));
        check_owner(&state, "10.0.0.1", Some("old"));
        check_label_classes(&state, [1, 0]);
    }
}

#[test]
fn finished_and_host_network_pods_hold_no_address() {
    let mut state = ClusterState::default();
    let finished = Pod { phase: PodPhase::Succeeded, ..pod("a", "1", 1, &["10.0.0.1"]) };
    let host = Pod { host_network: true, ..pod("b", "2", 1, &["10.0.0.2"]) };
    drop(upsert(&mut state, finished));
    drop(upsert(&mut state, host));
    check_owner(&state, "10.0.0.1", None);
    check_owner(&state, "10.0.0.2", None);
}

#[test]
fn a_late_deletion_does_not_remove_the_successor_of_the_same_name() {
    let mut state = ClusterState::default();
    drop(upsert(&mut state, pod("a", "2", 2, &["10.0.0.2"])));
    assert!(remove(&mut state, "a", Some("1")).is_empty());
    check_owner(&state, "10.0.0.2", Some("a"));
    assert!(!remove(&mut state, "a", Some("2")).is_empty());
}

#[test]
fn a_full_list_removes_what_it_lacks() {
    let mut state = ClusterState::default();
    drop(upsert(&mut state, pod("a", "1", 1, &["10.0.0.1"])));
    drop(upsert(&mut state, pod("b", "2", 1, &["10.0.0.2"])));
    let objects = vec![Object::Pod(pod("b", "2", 1, &["10.0.0.2"]))];
    let changes = state.apply(Delta::Replace(List::new(Kind::Pod, objects, Vec::new())));
    assert_eq!(changes.n_objects, 1);
    check_owner(&state, "10.0.0.1", None);
    check_owner(&state, "10.0.0.2", Some("b"));
}

#[test]
fn of_several_pods_of_one_name_in_a_list_the_last_counts() {
    let mut state = ClusterState::default();
    let pods =
        [pod("b", "1", 1, &["10.0.0.1"]), pod("a", "2", 1, &[]), pod("b", "3", 1, &["10.0.0.2"])];
    let objects = pods.map(Object::Pod).into();
    let changes = state.apply(Delta::Replace(List::new(Kind::Pod, objects, Vec::new())));
    assert_eq!(changes.n_objects, 2);
    check_owner(&state, "10.0.0.1", None);
    check_owner(&state, "10.0.0.2", Some("b"));
    let names: Vec<_> = state.pods().map(|pod| &*pod.name.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn until_the_api_reports_an_address_the_interface_tells_it() {
    let mut state = ClusterState::default();
    let endpoint = Endpoint {
        ifindex: IfIndex(7),
        container_id: Arc::from("c"),
        pod: ObjectName::new("x", "a"),
        pod_uid: Arc::from("1"),
        egress_mark: 1,
        addresses: vec!["10.0.0.1".parse().unwrap()],
        pod_end: PodEnd::default(),
    };
    drop(state.apply(Delta::UpsertEndpoint(endpoint)));
    check_owner(&state, "10.0.0.1", None);
    drop(upsert(&mut state, pod("a", "1", 1, &[])));
    check_owner(&state, "10.0.0.1", Some("a"));
    // Peers are looked up the other way round.
    let held: Vec<_> = state.pods().flat_map(|pod| state.held_addresses(pod)).collect();
    assert_eq!(held, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    drop(upsert(&mut state, pod("a", "1", 1, &["10.0.0.9"])));
    check_owner(&state, "10.0.0.1", None);
    check_owner(&state, "10.0.0.9", Some("a"));
    drop(upsert(&mut state, pod("a", "2", 2, &[])));
    check_owner(&state, "10.0.0.1", None);
    drop(upsert(&mut state, pod("a", "1", 1, &[])));
    drop(state.apply(Delta::RemoveEndpoint(IfIndex(7))));
    check_owner(&state, "10.0.0.1", None);
}

#[test]
fn a_static_pod_is_known_to_the_runtime_by_its_hash() {
    let mut state = ClusterState::default();
    let mirror = Pod { static_uid: Arc::from("hash"), ..pod("a", "1", 1, &["10.0.0.1"]) };
    drop(upsert(&mut state, mirror));
    let endpoint = |pod_uid: &str| Endpoint {
        ifindex: IfIndex(7),
        container_id: Arc::from("c"),
        pod: ObjectName::new("x", "a"),
        pod_uid: Arc::from(pod_uid),
        egress_mark: 1,
        addresses: Vec::new(),
        pod_end: PodEnd::default(),
    };
    for (pod_uid, is_known) in [("1", true), ("hash", true), ("", true), ("2", false)] {
        assert_eq!(state.pod_of(&endpoint(pod_uid)).is_some(), is_known, "{pod_uid}");
    }
}

#[test]
fn pods_leave_their_label_class_in_any_order_and_the_others_stay_in_it() {
    let pods = ["a", "b", "c"].map(|name| pod(name, name, 1, &[]));
    let listed =
        || Delta::Replace(List::new(Kind::Pod, pods.clone().map(Object::Pod).into(), vec![]));
    let members = |state: &ClusterState| {
        let ids =
            state.label_classes().filter(|(_, label_class)| label_class.labels == Labels::new());
        // No more than there can be: a ring that is not closed has no end.
        let members = ids.flat_map(|(id, label_class)| {
            let found: BTreeSet<_> = state.pods.label_classes.pods(id).take(9).collect();
            assert_eq!(found.len(), label_class.n_pods());
            found
        });
        members
            .filter_map(|id| state.pods.at(id))
            .map(|pod| pod.name.clone())
            .collect::<BTreeSet<_>>()
    };
    for first in &pods {
        for second in pods.iter().filter(|pod| *pod != first) {
            let mut state = ClusterState::default();
            drop(state.apply(listed()));
            let mut expected: BTreeSet<_> = pods.iter().map(|pod| pod.name.clone()).collect();
            assert_eq!(members(&state), expected);
            // One goes, the next one gets other labels and gets them back.
            drop(remove(&mut state, &first.name.name, None));
            expected.remove(&first.name);
            assert_eq!(members(&state), expected);
            let labels = [("k", "v")].map(|(key, value)| (Arc::from(key), Arc::from(value)));
            drop(upsert(
                &mut state,
                Pod { labels: labels.into_iter().collect(), ..second.clone() },
            ));
            expected.remove(&second.name);
            assert_eq!(members(&state), expected);
            for pod in [second, first] {
                drop(upsert(&mut state, pod.clone()));
                expected.insert(pod.name.clone());
                assert_eq!(members(&state), expected);
            }
            assert_eq!(state.label_classes().count(), 1);
        }
    }
}
