//! Which pod holds an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{ObjectName, Pod};

/// Pods by address. Addresses are given again after a pod ends, and the news of that can come late: of
/// several holders the newest is right.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressOwners {
    by_address: BTreeMap<IpAddr, BTreeSet<Holder>>,
}

/// Ordered by age, the newest last; equal ages by uid and name, so that the order of events has no say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    created_s: i64,
    uid: Arc<str>,
    name: ObjectName,
}

impl Holder {
    fn new(pod: &Pod) -> Self {
        Self { created_s: pod.created_s, uid: Arc::clone(&pod.uid), name: pod.name.clone() }
    }
}

impl AddressOwners {
    pub(super) fn insert(&mut self, pod: &Pod, addresses: &[IpAddr]) {
        for address in addresses {
            self.by_address.entry(*address).or_default().insert(Holder::new(pod));
        }
    }

    /// `pod` and `addresses` as they were inserted.
    pub(super) fn remove(&mut self, pod: &Pod, addresses: &[IpAddr]) {
        for address in addresses {
            if let Some(holders) = self.by_address.get_mut(address) {
                holders.remove(&Holder::new(pod));
                if holders.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<&ObjectName> {
        self.by_address.get(&address)?.last().map(|holder| &holder.name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &ObjectName)> {
        self.by_address
            .iter()
            .filter_map(|(address, holders)| Some((*address, &holders.last()?.name)))
    }
}
