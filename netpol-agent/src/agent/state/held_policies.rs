//! Policies that were deleted before the pods that they isolate, because their namespace is being deleted.
//!
//! The deletion of a namespace deletes its objects in any order, so policies can be gone while pods still run. In: the deltas of
//! a source. Out: the deltas for the store, without the deletions that have to wait: the store keeps these policies until the
//! namespace is gone. A source reports each kind by itself, so a policy can be reported as deleted before its namespace is
//! reported as terminating. If a pod of this node depends on the policy, the deletion waits until the source has been asked for
//! the namespace ([`NamespaceQuestion`]). Must not: hold a deletion in any other namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::Direction;
use netpol_common::keys::EndpointValue;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{
    Kind, Namespace, Object, ObjectName, ObjectRef, Pod, Policy, PolicyMode, PolicyTypes,
    Requirement, Revision, Selector,
};
use netpol_policy::resolve::{DefaultVerdict, isolating};
use netpol_policy::store::{ClusterState, Delta, List};
use tracing::info;

use super::Agent;

/// Name of the policy that isolates a pod as an earlier run of the agent had, with the pod's name appended. No object has a
/// name with a colon.
const OF_EARLIER_RUN: &str = "isolated-by-earlier-run:";

/// The policies that are in force although the source has reported them as deleted.
#[derive(Debug, Default)]
pub(in crate::agent) struct HeldPolicies {
    by_name: BTreeMap<ObjectName, Hold>,
    /// Whether the source answers [`NamespaceQuestion`]s.
    pub(in crate::agent) asking: Asking,
    /// The isolation of the earlier run has been compared with the listed policies.
    is_compared: bool,
}

/// Whether the source can be asked for a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) enum Asking {
    /// It reports all kinds together, so what is known of a namespace is as new as the deletion of a policy.
    #[default]
    Needless,
    /// It reports each kind by itself.
    Possible,
}

/// Why a deletion waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The source has to be asked for the namespace.
    Unconfirmed,
    /// The source has been asked.
    Asked,
    /// The namespace is being deleted.
    Terminating,
}

/// Asks whether a namespace is being deleted, because these policies in it are reported as deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct NamespaceQuestion {
    /// The namespace.
    pub(in crate::agent) namespace: Arc<str>,
    /// The policies.
    policies: Vec<ObjectName>,
}

/// The answer of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum NamespaceAnswer {
    /// It exists.
    Exists(Namespace),
    /// It does not exist.
    Gone,
    /// The source does not answer; it is asked again.
    Unknown,
}

impl HeldPolicies {
    /// Whether a policy is in force although it was deleted.
    pub(in crate::agent) fn contains(&self, policy: &ObjectName) -> bool {
        self.by_name.contains_key(policy)
    }

    /// Removes the policies of a namespace whose deletion waits for one of these reasons.
    fn release(&mut self, namespace: &str, reasons: &[Hold]) -> Vec<Delta> {
        let of_namespace = |name: &ObjectName, hold: &mut Hold| {
            *name.namespace == *namespace && reasons.contains(hold)
        };
        self.by_name.extract_if(.., of_namespace).map(|(name, _)| removal(name)).collect()
    }

    /// Records that a namespace is being deleted.
    fn confirm(&mut self, namespace: &str) {
        for (name, hold) in &mut self.by_name {
            if *name.namespace == *namespace && *hold != Hold::Terminating {
                *hold = Hold::Terminating;
                info!(policy = %name, "deleted policy stays in force until its namespace is gone");
            }
        }
    }

    /// The namespaces with held policies.
    fn namespaces(&self) -> BTreeSet<Arc<str>> {
        self.by_name.keys().map(|name| Arc::clone(&name.namespace)).collect()
    }
}

fn removal(name: ObjectName) -> Delta {
    Delta::Remove { object: ObjectRef { kind: Kind::NetworkPolicy, name }, uid: None }
}

impl<K: Kernel> Agent<K> {
    /// Sets whether the source can be asked for a namespace.
    #[must_use]
    pub(in crate::agent) fn asking(mut self, asking: Asking) -> Self {
        self.held.asking = asking;
        self
    }

    /// Holds back the deletions of policies that have to wait. Returns the deltas for the store.
    pub(super) fn hold_back(&mut self, delta: Delta) -> Vec<Delta> {
        match delta {
            Delta::Upsert(Object::Policy(policy)) => {
                self.held.by_name.remove(&policy.name);
                vec![Delta::Upsert(Object::Policy(policy))]
            }
            Delta::Upsert(Object::Namespace(namespace)) => {
                if namespace.terminating {
                    self.held.confirm(&namespace.name);
                }
                vec![Delta::Upsert(Object::Namespace(namespace))]
            }
            Delta::Remove { object, uid } => match object.kind {
                Kind::NetworkPolicy if self.holds(&object.name, uid.as_deref()) => Vec::new(),
                Kind::Namespace => {
                    let all = [Hold::Unconfirmed, Hold::Asked, Hold::Terminating];
                    let released = self.held.release(&object.name.name, &all);
                    [Delta::Remove { object, uid }].into_iter().chain(released).collect()
                }
                Kind::NetworkPolicy
                | Kind::ClusterNetworkPolicy
                | Kind::Pod
                | Kind::Service
                | Kind::Node => {
                    vec![Delta::Remove { object, uid }]
                }
            },
            Delta::Replace(list) => match list.kind() {
                Kind::NetworkPolicy => vec![Delta::Replace(self.hold_missing(list))],
                Kind::Namespace => {
                    let released = self.release_replaced(&list);
                    [Delta::Replace(list)].into_iter().chain(released).collect()
                }
                Kind::ClusterNetworkPolicy | Kind::Pod | Kind::Service | Kind::Node => {
                    vec![Delta::Replace(list)]
                }
            },
            delta @ (Delta::Upsert(
                Object::ClusterPolicy(_) | Object::Pod(_) | Object::Service(_) | Object::Node(_),
            )
            | Delta::UpsertEndpoint(_)
            | Delta::RemoveEndpoint(_)
            | Delta::OwnAddresses(_)
            | Delta::ListedBackends(_)
            | Delta::ShortCuts(_)
            | Delta::PublishedAddresses { .. }) => vec![delta],
        }
    }

    /// Whether the deletion of a policy waits. If so, records it.
    fn holds(&mut self, name: &ObjectName, uid: Option<&str>) -> bool {
        let Some(policy) = self.state.policy(name) else { return false };
        if uid.is_some_and(|uid| !policy.uid.is_empty() && *policy.uid != *uid) {
            return false;
        }
        if self.held.contains(name) {
            return true;
        }
        let namespace = &name.namespace;
        let hold = if self.is_terminating(namespace) {
            info!(policy = %name, "deleted policy stays in force until its namespace is gone");
            Hold::Terminating
        } else if self.held.asking == Asking::Possible && self.has_local_pods(namespace) {
            Hold::Unconfirmed
        } else {
            return false;
        };
        self.held.by_name.insert(name.clone(), hold);
        true
    }

    fn is_terminating(&self, namespace: &str) -> bool {
        self.state.namespace(namespace).is_some_and(|namespace| namespace.terminating)
    }

    fn has_local_pods(&self, namespace: &str) -> bool {
        let first = ObjectName::new(namespace, "");
        let local = self.adoption.local.range(first..).next();
        local.is_some_and(|name| *name.namespace == *namespace)
            || self.state.endpoints_in(namespace).next().is_some()
    }

    /// Adds the policies that a new list lacks and whose deletion waits.
    fn hold_missing(&mut self, list: List) -> List {
        if self.state.n_policies() == 0 {
            return list;
        }
        let listed: BTreeSet<ObjectName> = {
            let objects = list.objects().iter().map(|object| object.object_ref().name);
            objects.chain(list.unreadable().iter().cloned()).collect()
        };
        self.held.by_name.retain(|name, _| !listed.contains(name));
        let missing = self.state.policies().map(|policy| policy.name.clone());
        let missing: Vec<_> = missing.filter(|name| !listed.contains(name)).collect();
        let kept: Vec<_> = missing.into_iter().filter(|name| self.holds(name, None)).collect();
        list.keeping(kept)
    }

    /// Releases the policies of namespaces that a new list lacks, or has as another namespace of the same name.
    fn release_replaced(&mut self, list: &List) -> Vec<Delta> {
        let mut released = Vec::new();
        for namespace in self.held.namespaces() {
            let listed = list.objects().iter().find_map(|object| match object {
                Object::Namespace(listed) => (listed.name == namespace).then_some(listed),
                Object::Policy(_)
                | Object::ClusterPolicy(_)
                | Object::Pod(_)
                | Object::Service(_)
                | Object::Node(_) => None,
            });
            let is_unreadable = list.unreadable().iter().any(|name| name.name == namespace);
            match listed {
                Some(listed) if listed.terminating => self.held.confirm(&namespace),
                // The list may be older than the deletion of a policy that is not confirmed yet.
                Some(_) => released.extend(self.held.release(&namespace, &[Hold::Terminating])),
                None if is_unreadable => {}
                None => {
                    let all = [Hold::Unconfirmed, Hold::Asked, Hold::Terminating];
                    released.extend(self.held.release(&namespace, &all));
                }
            }
        }
        released
    }

    /// Isolates the pods that an earlier run had isolated and that no listed policy isolates, as long as their policies may have
    /// been deleted with their namespace. Of a policy that was deleted while no agent ran, only the isolation is in the maps.
    pub(in crate::agent) fn hold_isolation_of_earlier_run(&mut self) {
        if std::mem::replace(&mut self.held.is_compared, true) || !self.is_primed {
            return;
        }
        let weakened: Vec<(Policy, Hold)> = self
            .state
            .endpoints()
            .filter_map(|endpoint| {
                let pod = self.state.pod_of(endpoint)?;
                let value = self.map_state.endpoints.get(&endpoint.ifindex)?.value;
                let policy_types = lost_isolation(&self.state, pod, value)?;
                let hold = match self.held.asking {
                    _ if self.is_terminating(&pod.name.namespace) => Hold::Terminating,
                    Asking::Possible => Hold::Unconfirmed,
                    Asking::Needless => return None,
                };
                Some((isolation(pod, policy_types), hold))
            })
            .collect();
        for (policy, hold) in weakened {
            info!(policy = %policy.name, "isolated as before the restart until the namespace is known or gone");
            self.held.by_name.insert(policy.name.clone(), hold);
            self.apply_to_store(Delta::Upsert(Object::Policy(policy)));
        }
    }

    /// The namespaces to ask the source for.
    pub(in crate::agent) fn namespace_questions(&mut self) -> Vec<NamespaceQuestion> {
        let mut questions: BTreeMap<Arc<str>, Vec<ObjectName>> = BTreeMap::new();
        for (name, hold) in &mut self.held.by_name {
            if *hold == Hold::Unconfirmed {
                *hold = Hold::Asked;
                questions.entry(Arc::clone(&name.namespace)).or_default().push(name.clone());
            }
        }
        let questions = questions.into_iter();
        questions.map(|(namespace, policies)| NamespaceQuestion { namespace, policies }).collect()
    }

    /// Applies the answer to a question: deletes its policies, unless the namespace is being deleted.
    pub(in crate::agent) fn answer_namespace(
        &mut self,
        question: NamespaceQuestion,
        answer: NamespaceAnswer,
    ) {
        let NamespaceQuestion { namespace, policies } = question;
        match answer {
            NamespaceAnswer::Exists(found) if found.terminating => {
                self.apply_delta(Delta::Upsert(Object::Namespace(found)));
            }
            NamespaceAnswer::Exists(_) | NamespaceAnswer::Gone => {
                // A policy that was created again meanwhile is not held any more.
                for name in policies {
                    if self.held.by_name.get(&name) == Some(&Hold::Asked) {
                        self.held.by_name.remove(&name);
                        self.apply_to_store(removal(name));
                    }
                }
            }
            NamespaceAnswer::Unknown => {
                for (name, hold) in &mut self.held.by_name {
                    if *name.namespace == *namespace && *hold == Hold::Asked {
                        *hold = Hold::Unconfirmed;
                    }
                }
            }
        }
    }
}

/// The directions in which the maps isolate a pod and no policy does; `None` if there is no such direction.
fn lost_isolation(state: &ClusterState, pod: &Pod, value: EndpointValue) -> Option<PolicyTypes> {
    let is_lost = |direction| {
        value.state == EndpointValue::READY
            && value.is_isolated(direction)
            && !value.is_audited(direction)
            && isolating(state, pod, direction).0 != DefaultVerdict::Deny
    };
    let lost =
        PolicyTypes { ingress: is_lost(Direction::Ingress), egress: is_lost(Direction::Egress) };
    (lost.ingress || lost.egress).then_some(lost)
}

/// A policy that isolates a pod, and those with the same labels, and allows nothing.
fn isolation(pod: &Pod, policy_types: PolicyTypes) -> Policy {
    let is_its = |(key, value): (&Arc<str>, &Arc<str>)| {
        Requirement::In(Arc::clone(key), [Arc::clone(value)].into())
    };
    Policy {
        name: ObjectName::new(&pod.name.namespace, &format!("{OF_EARLIER_RUN}{}", pod.name.name)),
        uid: Arc::from(""),
        revision: Revision::default(),
        pod_selector: Selector::new(pod.labels.iter().map(is_its)),
        policy_types,
        ingress: Arc::default(),
        egress: Arc::default(),
        mode: PolicyMode::Enforce,
        keeps_connections: false,
    }
}

#[cfg(test)]
mod tests {
    use netpol_policy::model::Labels;
    use netpol_policy::source::SourceUpdate;

    use super::*;
    use crate::agent::state::registry::Registry;
    use crate::agent::tests::{FakeKernel, Fixture, fixture, full_lists, pod, update};

    fn deny() -> Delta {
        Delta::Upsert(Object::Policy(Policy {
            name: ObjectName::new("x", "deny"),
            uid: Arc::from("p"),
            revision: Revision::default(),
            pod_selector: Selector::everything(),
            policy_types: PolicyTypes { ingress: true, egress: false },
            ingress: Arc::default(),
            egress: Arc::default(),
            mode: PolicyMode::Enforce,
            keeps_connections: false,
        }))
    }

    fn without_deny() -> Delta {
        let object = ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("x", "deny") };
        Delta::Remove { object, uid: Some(Arc::from("p")) }
    }

    fn active() -> Namespace {
        Namespace {
            name: Arc::from("x"),
            labels: Labels::new(),
            terminating: false,
            allows_forwarding: false,
        }
    }

    fn terminating() -> Namespace {
        Namespace { terminating: true, ..active() }
    }

    fn without_namespace() -> Delta {
        let object = ObjectRef { kind: Kind::Namespace, name: ObjectName::cluster_scoped("x") };
        Delta::Remove { object, uid: None }
    }

    fn list(kind: Kind, objects: Vec<Object>) -> Delta {
        Delta::Replace(List::new(kind, objects, Vec::new()))
    }

    /// An agent with a pod that the policy isolates.
    fn isolated(asking: Asking) -> Fixture {
        let mut fixture = fixture();
        fixture.agent = fixture.agent.asking(asking);
        drop(fixture.agent.update(full_lists()));
        let deltas = vec![Delta::Upsert(Object::Namespace(active())), pod("a"), deny()];
        drop(fixture.agent.update(SourceUpdate { deltas, ..SourceUpdate::default() }));
        drop(fixture.add());
        check(&mut fixture, Direction::Ingress);
        fixture
    }

    #[track_caller]
    fn check(fixture: &mut Fixture, isolated: impl Into<Option<Direction>>) {
        fixture.agent.sync();
        let [endpoint] = &fixture.agent.describe().endpoints[..] else { panic!("one endpoint") };
        let isolated: Vec<_> = isolated.into().into_iter().collect();
        assert_eq!(endpoint.isolated, isolated);
    }

    fn apply(fixture: &mut Fixture, delta: Delta) {
        drop(fixture.agent.update(update(delta)));
    }

    #[test]
    fn a_policy_of_a_terminating_namespace_stays_until_the_namespace_is_gone() {
        for gone in [without_namespace(), list(Kind::Namespace, Vec::new())] {
            let mut fixture = isolated(Asking::Needless);
            apply(&mut fixture, Delta::Upsert(Object::Namespace(terminating())));
            apply(&mut fixture, without_deny());
            check(&mut fixture, Direction::Ingress);
            assert!(fixture.agent.describe().policies[0].is_held);
            apply(&mut fixture, list(Kind::NetworkPolicy, Vec::new()));
            apply(&mut fixture, list(Kind::Namespace, vec![Object::Namespace(terminating())]));
            check(&mut fixture, Direction::Ingress);
            apply(&mut fixture, gone);
            check(&mut fixture, None);
        }
    }

    #[test]
    fn a_policy_that_a_new_list_lacks_stays_like_a_deleted_one() {
        let mut fixture = isolated(Asking::Needless);
        apply(&mut fixture, Delta::Upsert(Object::Namespace(terminating())));
        apply(&mut fixture, list(Kind::NetworkPolicy, Vec::new()));
        check(&mut fixture, Direction::Ingress);
        // Another namespace of the same name.
        apply(&mut fixture, list(Kind::Namespace, vec![Object::Namespace(active())]));
        check(&mut fixture, None);
    }

    #[test]
    fn a_policy_deleted_by_its_author_is_gone_at_once() {
        let mut fixture = isolated(Asking::Needless);
        apply(&mut fixture, without_deny());
        check(&mut fixture, None);
    }

    #[test]
    fn a_deletion_that_is_reported_before_its_namespace_terminates_waits_for_an_answer() {
        let answers = [
            (NamespaceAnswer::Exists(terminating()), Some(Direction::Ingress)),
            (NamespaceAnswer::Exists(active()), None),
            (NamespaceAnswer::Gone, None),
        ];
        for (answer, expected) in answers {
            let mut fixture = isolated(Asking::Possible);
            apply(&mut fixture, without_deny());
            check(&mut fixture, Direction::Ingress);
            let questions = fixture.agent.namespace_questions();
            let [question] = &questions[..] else { panic!("{questions:?}") };
            assert_eq!(fixture.agent.namespace_questions(), []);
            fixture.agent.answer_namespace(question.clone(), NamespaceAnswer::Unknown);
            check(&mut fixture, Direction::Ingress);
            assert_eq!(fixture.agent.namespace_questions(), questions, "asked again");
            fixture.agent.answer_namespace(question.clone(), answer);
            check(&mut fixture, expected);
        }
    }

    #[test]
    fn a_policy_that_is_created_again_survives_the_answer_about_its_predecessor() {
        let mut fixture = isolated(Asking::Possible);
        apply(&mut fixture, without_deny());
        let question = fixture.agent.namespace_questions().remove(0);
        apply(&mut fixture, deny());
        fixture.agent.answer_namespace(question, NamespaceAnswer::Exists(active()));
        check(&mut fixture, Direction::Ingress);
    }

    #[test]
    fn a_pod_stays_isolated_when_its_policy_is_deleted_with_the_namespace_while_no_agent_runs() {
        for asking in [Asking::Needless, Asking::Possible] {
            for namespace in [terminating(), active()] {
                let before = isolated(asking);
                let mut fixture = before.restarted();
                fixture.agent = fixture.agent.asking(asking);
                drop(fixture.agent.update(full_lists()));
                let is_terminating = namespace.terminating;
                apply(&mut fixture, Delta::Upsert(Object::Namespace(namespace)));
                apply(&mut fixture, pod("a"));
                let is_asked = asking == Asking::Possible && !is_terminating;
                let expected = (is_terminating || is_asked).then_some(Direction::Ingress);
                check(&mut fixture, expected);
                let questions = fixture.agent.namespace_questions();
                assert_eq!(questions.len(), usize::from(is_asked));
                for question in questions {
                    let answer = NamespaceAnswer::Exists(active());
                    fixture.agent.answer_namespace(question, answer);
                    check(&mut fixture, None);
                }
            }
        }
    }

    impl Fixture {
        /// The next agent on the same maps and records.
        fn restarted(mut self) -> Self {
            let mut kernel = FakeKernel::default();
            kernel.maps = self.agent.kernel.maps.clone();
            let map_state = kernel.maps.clone();
            let records = self.dir.path().join("endpoints.json");
            let registry = Registry::open(&records, |_| Some("veth7".to_owned())).unwrap();
            self.agent = Agent::new(kernel, map_state, registry);
            self
        }
    }
}
