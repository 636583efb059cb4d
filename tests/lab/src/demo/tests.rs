//! The hand-written matrices compared with the reference semantics.

use std::net::IpAddr;
use std::path::PathBuf;

use super::acts::{ACTS, DELEGATE, DELEGATED, OPEN, REDIS, RELABELLED};
use super::cast::{CLIENT, CLIENT_OF_REDIS_LABELS, NAMESPACES, SELF_MANAGED_LABELS, SHOP, pods};
use super::matrix::Matrix;
use super::{PODS, examples, name_of, verdicts};
use crate::node::{Manifests, labels, objects};

/// The demo's cluster with invented addresses, some policies, and the client with or without its label.
struct Cluster {
    directory: tempfile::TempDir,
}

impl Cluster {
    fn new(client_labels: Option<&[(&str, &str)]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Self { directory };
        let manifests = cluster.manifests();
        manifests.write_object("node.yaml", &objects::node()).unwrap();
        for (name, pairs) in NAMESPACES {
            let namespace = objects::namespace(name, &labels(pairs));
            manifests.write_object(&format!("namespace-{name}.yaml"), &namespace).unwrap();
        }
        for (number, mut pod) in (2..).zip(pods()) {
            if let Some(pairs) = client_labels.filter(|_| pod.full_name() == CLIENT) {
                pod.labels = labels(pairs);
            }
            let addresses: [IpAddr; 2] = [
                format!("10.244.1.{number}").parse().unwrap(),
                format!("fd00:10:244:1::{number}").parse().unwrap(),
            ];
            manifests.write_object(&pod.file(), &pod.object("uid", &addresses)).unwrap();
        }
        cluster
    }

    fn manifests(&self) -> Manifests {
        Manifests::create(self.directory.path()).unwrap()
    }

    fn check(&self, policies: &[&str], expected: &str) {
        let manifests = self.manifests();
        for file in policies {
            let text = std::fs::read_to_string(examples().join(file)).unwrap();
            manifests.write(name_of(file).unwrap(), &text).unwrap();
        }
        let reference = verdicts::reference(manifests.folder()).unwrap();
        let expected = Matrix::parse(expected).unwrap();
        let differences: Vec<_> =
            reference.differences(&expected).iter().map(ToString::to_string).collect();
        assert!(differences.is_empty(), "{policies:?}: {differences:?}");
        for file in policies {
            manifests.remove(name_of(file).unwrap()).unwrap();
        }
    }
}

#[test]
fn the_reference_agrees_with_the_hand_written_matrix_of_every_act() {
    let cluster = Cluster::new(None);
    cluster.check(&[], OPEN);
    for act in &ACTS {
        cluster.check(act.files, act.expected);
    }
}

#[test]
fn a_label_gives_the_client_access_to_redis() {
    Cluster::new(Some(&CLIENT_OF_REDIS_LABELS)).check(REDIS.files, RELABELLED);
}

#[test]
fn a_label_of_the_namespace_leaves_the_verdict_to_its_network_policies() {
    let cluster = Cluster::new(None);
    cluster.check(DELEGATE.files, DELEGATE.expected);
    let shop = objects::namespace(SHOP, &labels(&SELF_MANAGED_LABELS));
    cluster.manifests().write_object("namespace-shop.yaml", &shop).unwrap();
    cluster.check(DELEGATE.files, DELEGATED);
}

#[test]
fn every_example_of_a_network_policy_is_an_act() {
    let entries = std::fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.retain(|file| !file.ends_with(PODS));
    files.sort();
    let alone = ACTS.iter().filter_map(|act| match act.files {
        [file] => Some(examples().join(file)),
        _ => None,
    });
    let mut acts: Vec<_> = alone.collect();
    acts.sort();
    assert_eq!(files, acts);
}
