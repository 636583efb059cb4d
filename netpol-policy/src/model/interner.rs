//! One copy of each value that many objects share.

use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{ClusterPolicy, ContainerPort, Labels, Namespace, Object, Pod, Policy, Rule, Selector};

/// Values that objects share. Values that no object has any more are removed when there are many of them.
///
/// A source interns the objects of a list and passes its interner on with the list; the store continues with it.
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
    /// Replaces the values of an object by shared copies.
    pub fn share(&mut self, object: &mut Object) {
        match object {
            Object::Pod(pod) => self.share_pod(pod),
            Object::Policy(policy) => self.share_policy(policy),
            Object::ClusterPolicy(policy) => self.share_cluster_policy(policy),
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
            let Err(hash) = self.rules.find(rules) else { continue };
            for rule in Arc::make_mut(rules) {
                rule.shrink();
                for selector in rule.selectors_mut() {
                    self.selectors.intern(selector, Selector::n_sharing);
                }
            }
            self.rules.add(hash, rules, Arc::strong_count);
        }
    }

    /// As [`Self::share`].
    pub fn share_cluster_policy(&mut self, policy: &mut ClusterPolicy) {
        self.selectors.intern(&mut policy.subject.namespaces, Selector::n_sharing);
        self.selectors.intern(&mut policy.subject.pods, Selector::n_sharing);
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
        let Err(hash) = self.labels.find(labels) else { return };
        let mut is_shared = true;
        for text in labels.iter().flat_map(<[_; 2]>::from) {
            is_shared &= self.texts.is_known_here(text);
        }
        if !is_shared {
            let mut shared = |text: &Arc<str>| {
                let mut text = Arc::clone(text);
                self.texts.intern(&mut text, Arc::strong_count);
                text
            };
            *labels = labels.iter().map(|(key, value)| (shared(key), shared(value))).collect();
        }
        self.labels.add(hash, labels, Labels::n_sharing);
    }
}

#[derive(Clone, Debug)]
struct Pool<T> {
    hasher: DefaultHashBuilder,
    known: HashTable<T>,
    /// Size at which unused values are removed.
    gc_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { hasher: DefaultHashBuilder::default(), known: HashTable::new(), gc_at: 1024 }
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    fn intern(&mut self, value: &mut T, n_sharing: impl Fn(&T) -> usize) {
        if let Err(hash) = self.find(value) {
            self.add(hash, value, n_sharing);
        }
    }

    /// Replaces the value by its known copy.
    ///
    /// # Errors
    /// There is no copy of the value; its hash is returned.
    fn find(&self, value: &mut T) -> Result<(), u64> {
        let hash = self.hasher.hash_one(&*value);
        let known = self.known.find(hash, |known| known == value).ok_or(hash)?;
        *value = known.clone();
        Ok(())
    }

    /// Adds a new value with this hash.
    fn add(&mut self, hash: u64, value: &T, n_sharing: impl Fn(&T) -> usize) {
        if self.known.len() >= self.gc_at {
            self.known.retain(|value| n_sharing(value) > 1);
            self.gc_at = self.known.len() * 2 + 1024;
        }
        self.known.insert_unique(hash, value.clone(), |known| self.hasher.hash_one(known));
    }
}

impl Pool<Arc<str>> {
    /// Whether the shared copy of a text is this one; stores it as such if there is none.
    fn is_known_here(&mut self, text: &Arc<str>) -> bool {
        let hash = self.hasher.hash_one(text);
        let known =
            self.known.find(hash, |known| known == text).map(|known| Arc::ptr_eq(known, text));
        known.unwrap_or_else(|| {
            self.add(hash, text, Arc::strong_count);
            true
        })
    }
}
