//! One copy of each value that many objects share.

use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{
    ClusterPolicy, ContainerPort, Labels, Namespace, Object, Peer, Peers, Pod, Policy, Ports,
    Requirement, Rule, Selector,
};

/// Values that objects share. Values that no object has any more are removed once they may take more memory than the others.
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
        self.ports.intern(&mut pod.ports);
        if pod.static_uid.is_empty() {
            self.text(&mut pod.static_uid);
        }
    }

    /// As [`Self::share`].
    pub fn share_policy(&mut self, policy: &mut Policy) {
        self.text(&mut policy.name.namespace);
        self.selectors.intern(&mut policy.pod_selector);
        for rules in [&mut policy.ingress, &mut policy.egress] {
            let Err(hash) = self.rules.find(rules) else { continue };
            for rule in Arc::make_mut(rules) {
                rule.shrink();
                for selector in rule.selectors_mut() {
                    self.selectors.intern(selector);
                }
            }
            self.rules.add(hash, rules);
        }
    }

    /// As [`Self::share`].
    pub fn share_cluster_policy(&mut self, policy: &mut ClusterPolicy) {
        self.selectors.intern(&mut policy.subject.namespaces);
        self.selectors.intern(&mut policy.subject.pods);
    }

    /// As [`Self::share`].
    pub fn share_namespace(&mut self, namespace: &mut Namespace) {
        self.text(&mut namespace.name);
        self.labels(&mut namespace.labels);
    }

    fn text(&mut self, text: &mut Arc<str>) {
        self.texts.intern(text);
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
                self.texts.intern(&mut text);
                text
            };
            *labels = labels.iter().map(|(key, value)| (shared(key), shared(value))).collect();
        }
        self.labels.add(hash, labels);
    }
}

/// A value that objects share.
trait Shared: Clone + Eq + Hash {
    /// Number of clones that share the content.
    fn n_sharing(&self) -> usize;

    /// Number of parts of the content, each of a few dozen bytes: one at least.
    fn n_parts(&self) -> usize;
}

/// Number of parts of a text.
fn n_parts_of(text: &str) -> usize {
    1 + text.len() / 32
}

impl Shared for Arc<str> {
    fn n_sharing(&self) -> usize {
        Arc::strong_count(self)
    }

    fn n_parts(&self) -> usize {
        n_parts_of(self)
    }
}

impl Shared for Labels {
    fn n_sharing(&self) -> usize {
        Self::n_sharing(self)
    }

    fn n_parts(&self) -> usize {
        // The texts have their own pool.
        1 + self.iter().count()
    }
}

impl Shared for Arc<[ContainerPort]> {
    fn n_sharing(&self) -> usize {
        Arc::strong_count(self)
    }

    fn n_parts(&self) -> usize {
        1 + self.len()
    }
}

impl Shared for Selector {
    fn n_sharing(&self) -> usize {
        Self::n_sharing(self)
    }

    fn n_parts(&self) -> usize {
        let of_requirement = |requirement: &Requirement| {
            let values = match requirement {
                Requirement::In(_, values) | Requirement::NotIn(_, values) => Some(values),
                Requirement::Exists(_) | Requirement::DoesNotExist(_) => None,
            };
            let values = values.into_iter().flatten();
            n_parts_of(requirement.key()) + values.map(|value| n_parts_of(value)).sum::<usize>()
        };
        1 + self.requirements().map(of_requirement).sum::<usize>()
    }
}

impl Shared for Arc<[Rule]> {
    fn n_sharing(&self) -> usize {
        Arc::strong_count(self)
    }

    fn n_parts(&self) -> usize {
        let of_peer = |peer: &Peer| match peer {
            Peer::IpBlock(block) => 1 + block.except.len(),
            // The selectors have their own pool.
            Peer::Pods { .. } | Peer::Nodes(_) => 1,
        };
        let of_rule = |rule: &Rule| {
            let n_of_peers = match &rule.peers {
                Peers::All => 0,
                Peers::AnyOf(peers) => peers.iter().map(of_peer).sum(),
            };
            let n_ports = match &rule.ports {
                Ports::All => 0,
                Ports::AnyOf(ports) => ports.len(),
            };
            1 + n_of_peers + n_ports
        };
        1 + self.iter().map(of_rule).sum::<usize>()
    }
}

/// Parts that unused values may take however few are in use.
const FEW_PARTS: usize = 4096;

#[derive(Clone, Debug)]
struct Pool<T> {
    hasher: DefaultHashBuilder,
    known: HashTable<T>,
    /// Parts of all values.
    n_parts: usize,
    /// The number of parts at which unused values are removed.
    gc_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            known: HashTable::new(),
            n_parts: 0,
            gc_at: FEW_PARTS,
        }
    }
}

impl<T: Shared> Pool<T> {
    fn intern(&mut self, value: &mut T) {
        if let Err(hash) = self.find(value) {
            self.add(hash, value);
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
    fn add(&mut self, hash: u64, value: &T) {
        if self.n_parts >= self.gc_at {
            let n_parts = &mut self.n_parts;
            self.known.retain(|value| {
                let is_used = value.n_sharing() > 1;
                if !is_used {
                    *n_parts = n_parts.saturating_sub(value.n_parts());
                }
                is_used
            });
            self.gc_at = self.n_parts * 2 + FEW_PARTS;
        }
        self.n_parts += value.n_parts();
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
            self.add(hash, text);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of rules, each for pods without a label that is called after the version.
    fn rules(n_rules: usize, version: usize) -> Arc<[Rule]> {
        let selector =
            |n| Selector::new([Requirement::DoesNotExist(Arc::from(format!("k{n}-{version}")))]);
        let peer =
            |n| Peer::Pods { namespaces: super::super::NamespaceMatch::Own, pods: selector(n) };
        let rule = |n| Rule { index: n, peers: Peers::AnyOf(vec![peer(n)]), ports: Ports::All };
        (0..n_rules).map(rule).collect()
    }

    /// A policy that was changed a thousand times kept a thousand lists of rules, 2 MB each, as one list counted as one value.
    #[test]
    fn the_lists_of_rules_of_earlier_versions_are_removed_by_their_size() {
        let mut pool = Pool::default();
        let mut in_use = rules(5_000, 0);
        pool.intern(&mut in_use);
        for version in 1..20 {
            in_use = rules(5_000, version);
            pool.intern(&mut in_use);
            assert!(pool.known.len() <= 4, "{} lists", pool.known.len());
            assert_eq!(pool.n_parts, pool.known.iter().map(Shared::n_parts).sum::<usize>());
        }
        let mut same = rules(5_000, 19);
        pool.intern(&mut same);
        assert!(Arc::ptr_eq(&same, &in_use));
    }

    #[test]
    fn values_in_use_stay_however_many_they_are() {
        let mut pool: Pool<Arc<str>> = Pool::default();
        let texts: Vec<Arc<str>> = (0..20_000).map(|n| Arc::from(n.to_string())).collect();
        for text in &texts {
            pool.intern(&mut Arc::clone(text));
            pool.intern(&mut Arc::from(format!("unused {text}")));
        }
        for text in &texts {
            let mut copy: Arc<str> = Arc::from(&**text);
            pool.intern(&mut copy);
            assert!(Arc::ptr_eq(&copy, text));
        }
        assert!(pool.known.len() < 70_000, "{}", pool.known.len());
    }
}
