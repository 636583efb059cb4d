//! One copy of what many objects say.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashSet;

use super::{ContainerPort, Labels, Namespace, Object, Pod, Policy, Rule, Selector};

/// Values that objects share. What no object says any more is swept out when there is much of it.
///
/// Sources share what they read as a list, the store all that it holds.
#[derive(Clone, Debug, Default)]
pub struct Interner {
    texts: Pool<Arc<str>>,
    labels: Pool<Labels>,
    ports: Pool<Arc<[ContainerPort]>>,
    selectors: Pool<Selector>,
    /// Policies that are made from one template have equal lists of rules.
    rules: Pool<Arc<[Rule]>>,
}

impl Interner {
    /// Makes an object share what others say too.
    pub fn share(&mut self, object: &mut Object) {
        match object {
            Object::Pod(pod) => self.share_pod(pod),
            Object::Policy(policy) => self.share_policy(policy),
            Object::Namespace(namespace) => self.share_namespace(namespace),
            Object::Service(service) => self.text(&mut service.name.namespace),
            Object::Node(_) => {}
        }
    }

    /// As [`Self::share`].
    pub fn share_pod(&mut self, pod: &mut Pod) {
        self.text(&mut pod.name.namespace);
        self.text(&mut pod.node);
        self.labels(&mut pod.labels);
        self.ports.intern(&mut pod.ports, Arc::strong_count);
        if pod.static_uid.is_empty() {
            self.text(&mut pod.static_uid);
        }
    }

    /// As [`Self::share`].
    pub fn share_policy(&mut self, policy: &mut Policy) {
        self.text(&mut policy.name.namespace);
        self.selectors.intern(&mut policy.pod_selector, Selector::n_sharing);
        for rules in [&mut policy.ingress, &mut policy.egress] {
            if self.rules.find(rules) {
                continue;
            }
            for rule in Arc::make_mut(rules) {
                rule.shrink();
                for selector in rule.selectors_mut() {
                    self.selectors.intern(selector, Selector::n_sharing);
                }
            }
            self.rules.add(rules, Arc::strong_count);
        }
    }

    /// As [`Self::share`].
    pub fn share_namespace(&mut self, namespace: &mut Namespace) {
        self.text(&mut namespace.name);
        self.labels(&mut namespace.labels);
    }

    fn text(&mut self, text: &mut Arc<str>) {
        self.texts.intern(text, Arc::strong_count);
    }

    fn labels(&mut self, labels: &mut Labels) {
        if self.labels.find(labels) {
            return;
        }
        let texts = &mut self.texts;
        let mut shared = |text: &Arc<str>| {
            let mut text = Arc::clone(text);
            texts.intern(&mut text, Arc::strong_count);
            text
        };
        let pairs = labels.iter().map(|(key, value)| (shared(key), shared(value)));
        *labels = labels.with_shared(pairs.collect());
        self.labels.add(labels, Labels::n_sharing);
    }
}

#[derive(Clone, Debug)]
struct Pool<T> {
    known: HashSet<T>,
    /// At this size unused values are looked for.
    sweep_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: 1024 }
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    fn intern(&mut self, value: &mut T, n_sharing: impl Fn(&T) -> usize) {
        if !self.find(value) {
            self.add(value, n_sharing);
        }
    }

    /// Replaces the value by its known copy.
    fn find(&self, value: &mut T) -> bool {
        let Some(known) = self.known.get(value) else { return false };
        *value = known.clone();
        true
    }

    fn add(&mut self, value: &T, n_sharing: impl Fn(&T) -> usize) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|value| n_sharing(value) > 1);
            self.sweep_at = self.known.len() * 2 + 1024;
        }
        self.known.insert(value.clone());
    }
}
