//! Kinds of objects that create pods from a template, and the names of the pods that stand for them.
//!
//! Offline input seldom contains pods. Each workload is one pod with the labels and ports of its template. Its name is
//! `KIND/NAME`, such as `deploy/web`; no pod of an API server has a slash in its name.

use std::fmt;

use super::ObjectName;

/// A kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadKind {
    /// The API's name of the kind.
    pub kind: &'static str,
    /// The short name that `kubectl` uses: the first part of the name of the pod.
    pub short: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Path of the pod template in the object.
    pub(super) template: &'static str,
    /// The versions of the API that no API server has any more, with the group.
    pub(super) dead_versions: &'static [&'static str],
}

const fn workload(
    kind: &'static str,
    short: &'static str,
    group: &'static str,
    template: &'static str,
    dead_versions: &'static [&'static str],
) -> WorkloadKind {
    WorkloadKind { kind, short, group, template, dead_versions }
}

/// Versions of `Deployment` before apps/v1.
const BEFORE_APPS: &[&str] = &["extensions/v1beta1", "apps/v1beta1", "apps/v1beta2"];
/// Versions of `DaemonSet` and `ReplicaSet` before apps/v1.
const BEFORE_APPS_V1: &[&str] = &["extensions/v1beta1", "apps/v1beta2"];

/// Every kind of workload.
pub static WORKLOADS: [WorkloadKind; 9] = [
    workload("Deployment", "deploy", "apps", "spec.template", BEFORE_APPS),
    workload("StatefulSet", "sts", "apps", "spec.template", &["apps/v1beta1", "apps/v1beta2"]),
    workload("DaemonSet", "ds", "apps", "spec.template", BEFORE_APPS_V1),
    workload("ReplicaSet", "rs", "apps", "spec.template", BEFORE_APPS_V1),
    workload("ReplicationController", "rc", "", "spec.template", &[]),
    workload("Job", "job", "batch", "spec.template", &[]),
    workload(
        "CronJob",
        "cj",
        "batch",
        "spec.jobTemplate.spec.template",
        &["batch/v1beta1", "batch/v2alpha1"],
    ),
    workload("PodTemplate", "podtemplate", "", "template", &[]),
    workload("DeploymentConfig", "dc", "apps.openshift.io", "spec.template", &[]),
];

impl WorkloadKind {
    /// The kind with this API name.
    pub fn from_api(kind: &str) -> Option<&'static Self> {
        WORKLOADS.iter().find(|known| known.kind == kind)
    }

    /// The kind that a person means: the short name, or the API's name in any case, singular or plural.
    pub fn from_argument(text: &str) -> Option<&'static Self> {
        let text = text.to_ascii_lowercase();
        WORKLOADS.iter().find(|known| {
            let kind = known.kind.to_ascii_lowercase();
            text == known.short || text == kind || text.strip_suffix('s') == Some(&kind)
        })
    }

    /// The current version of the API.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// The name of the pod that stands for a workload.
    pub fn pod_name(&self, name: &str) -> String {
        format!("{}/{name}", self.short)
    }

    /// The kind and the name of the workload that a pod of this name stands for; `None` for other pods.
    pub fn of_pod(pod_name: &str) -> Option<(&'static Self, &str)> {
        let (short, name) = pod_name.split_once('/')?;
        Some((WORKLOADS.iter().find(|known| known.short == short)?, name))
    }
}

/// A pod in a sentence: `pod shop/web-0`, or `a pod of Deployment shop/web`.
#[derive(Clone, Copy, Debug)]
pub struct PodInWords<'a>(pub &'a ObjectName);

impl fmt::Display for PodInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(pod) = self;
        match WorkloadKind::of_pod(&pod.name) {
            Some((kind, name)) => write!(f, "a pod of {} {}/{name}", kind.kind, pod.namespace),
            None => write!(f, "pod {pod}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_the_names_that_kubectl_takes() {
        for (text, kind) in [
            ("deploy", Some("Deployment")),
            ("deployment", Some("Deployment")),
            ("Deployments", Some("Deployment")),
            ("cj", Some("CronJob")),
            ("cronjobs", Some("CronJob")),
            ("rc", Some("ReplicationController")),
            ("svc", None),
            ("", None),
        ] {
            assert_eq!(WorkloadKind::from_argument(text).map(|found| found.kind), kind, "{text}");
        }
    }

    #[test]
    fn a_pod_is_named_after_its_workload() {
        let words = |name: &str| PodInWords(&ObjectName::new("shop", name)).to_string();
        assert_eq!(words("web-0"), "pod shop/web-0");
        for kind in &WORKLOADS {
            let expected = format!("a pod of {} shop/web", kind.kind);
            assert_eq!(words(&kind.pod_name("web")), expected);
        }
    }
}
