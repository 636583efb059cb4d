//! Workloads beside the pods that they have created.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Labels, Object, Pod, PodPhase, WorkloadKind};

/// The kinds of workloads that create other workloads, each with the kind that it creates.
const CREATES: [(&str, &str); 3] = [("deploy", "rs"), ("cj", "job"), ("dc", "rc")];

/// Removes each workload whose pods are among the objects, and each workload that another workload has created, so that a
/// dump of a cluster contains every pod once.
///
/// A pod or workload belongs to a workload if its name begins with the name of that workload and a hyphen, and it has all
/// labels of that workload's template.
pub fn without_represented(mut objects: Vec<Object>) -> Vec<Object> {
    let names = Names::of(&objects);
    let mut is_kept: Vec<bool> = Vec::with_capacity(objects.len());
    is_kept.extend(objects.iter().map(|object| match object {
        Object::Pod(pod) => !names.represent(pod),
        Object::Policy(_)
        | Object::ClusterPolicy(_)
        | Object::Namespace(_)
        | Object::Service(_)
        | Object::Node(_) => true,
    }));
    let mut is_kept = is_kept.into_iter();
    objects.retain(|_| is_kept.next().unwrap_or(true));
    objects
}

/// The pods and workloads by namespace and name, each with the short name of its kind (empty for a pod) and its labels.
struct Names(BTreeMap<(Arc<str>, Arc<str>), Vec<Named>>);

/// The short name of a kind, and labels.
type Named = (&'static str, Labels);

impl Names {
    fn of(objects: &[Object]) -> Self {
        let mut names = Self(BTreeMap::new());
        for object in objects {
            let Object::Pod(pod) = object else { continue };
            if matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed) {
                continue;
            }
            let (short, name) = split(pod);
            let key = (Arc::clone(&pod.name.namespace), Arc::from(name));
            names.0.entry(key).or_default().push((short, pod.labels.clone()));
        }
        names
    }

    /// Whether other objects stand for the workload that this pod stands for.
    fn represent(&self, workload: &Pod) -> bool {
        let (short, name) = split(workload);
        if short.is_empty() {
            return false;
        }
        let namespace = &workload.name.namespace;
        let prefix = format!("{name}-");
        let mut parts = self
            .0
            .range((Arc::clone(namespace), Arc::from(prefix.as_str()))..)
            .take_while(|((of, name), _)| of == namespace && name.starts_with(&prefix))
            .flat_map(|(_, found)| found);
        let is_its_pod = |(short, labels): &(&str, Labels)| {
            short.is_empty() && contains(labels, &workload.labels)
        };
        if parts.any(is_its_pod) {
            return true;
        }
        let Some((creator, _)) = name.rsplit_once('-') else { return false };
        let creators = self.0.get(&(Arc::clone(namespace), Arc::from(creator)));
        creators.into_iter().flatten().any(|(other, labels)| {
            CREATES.contains(&(other, short)) && contains(&workload.labels, labels)
        })
    }
}

/// The short name of the kind of a workload, and the name of the workload; an empty short name and the name of another pod.
fn split(pod: &Pod) -> (&'static str, &str) {
    let of_pod = WorkloadKind::of_pod(&pod.name.name);
    of_pod.map_or(("", &*pod.name.name), |(kind, name)| (kind.short, name))
}

/// Whether labels contain all of others.
fn contains(labels: &Labels, others: &Labels) -> bool {
    others.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::parse;

    #[track_caller]
    fn check(objects: &[(&str, &str, &str)], expected: &[&str]) {
        let text: Vec<String> = objects
            .iter()
            .map(|(kind, name, labels)| {
                let template = format!("{{ metadata: {{ labels: {{ {labels} }} }} }}");
                match *kind {
                    "Pod" => format!(
                        "{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, labels: {{ {labels} }} }} }}"
                    ),
                    "CronJob" => format!(
                        "{{ kind: CronJob, apiVersion: batch/v1, metadata: {{ name: {name} }}, spec: {{ jobTemplate: {{ spec: {{ template: {template} }} }} }} }}"
                    ),
                    kind => format!(
                        "{{ kind: {kind}, metadata: {{ name: {name} }}, spec: {{ template: {template} }} }}"
                    ),
                }
            })
            .collect();
        let objects = parse("x", &text.join("\n---\n")).objects;
        let kept = without_represented(objects.into_iter().map(|read| read.object).collect());
        let names: Vec<String> =
            kept.iter().map(|object| object.object_ref().name.name.to_string()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_workload_with_pods_is_not_a_pod_of_its_own() {
        check(
            &[("Deployment", "web", "app: web"), ("Pod", "web-5d-x", "app: web, hash: 5d")],
            &["web-5d-x"],
        );
        check(
            &[("StatefulSet", "db", "app: db"), ("Pod", "db-0", "app: other")],
            &["sts/db", "db-0"],
        );
        check(
            &[("Deployment", "web", "app: web"), ("Pod", "webs-1", "app: web")],
            &["deploy/web", "webs-1"],
        );
    }

    #[test]
    fn a_workload_that_another_one_has_created_is_the_same_pod() {
        check(
            &[("Deployment", "web", "app: web"), ("ReplicaSet", "web-5d", "app: web, hash: 5d")],
            &["deploy/web"],
        );
        check(
            &[("CronJob", "dump", "app: dump"), ("Job", "dump-1", "app: dump, job: dump-1")],
            &["cj/dump"],
        );
        check(
            &[("ReplicaSet", "web-5d", "app: web"), ("Job", "web-1", "app: web")],
            &["rs/web-5d", "job/web-1"],
        );
    }
}
