//! The addresses in DEFER, and the Services that exceed its capacity.
//!
//! In: the Services and the node's own addresses. Out: the addresses that fit, and the Services that do not. If any address
//! does not fit, every egress verdict of isolated pods is deferred ([`EndpointValue::DEFERS_ALL`]), so that no Service that is
//! missing here leads around a policy. Must not: depend on what was in force before.
//!
//! [`EndpointValue::DEFERS_ALL`]: netpol_common::keys::EndpointValue::DEFERS_ALL

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::addr::Addr;

use super::shares::{Division, Item, Shared, divide};
use crate::model::{ObjectName, Service};
use crate::store::ClusterState;

/// The Services whose addresses exceed the capacity, with the number of their addresses.
pub type RefusedServices = BTreeMap<ObjectName, usize>;

/// The content of DEFER, without addresses that it should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::compile) struct Deferred {
    /// The addresses.
    pub(in crate::compile) addresses: BTreeSet<Addr>,
    /// The Services whose addresses are not all in it.
    pub(in crate::compile) refused: RefusedServices,
}

/// All addresses whose egress verdict should be deferred.
pub(in crate::compile) fn wanted(state: &ClusterState) -> BTreeSet<Addr> {
    let services = state.services().flat_map(|service| &service.addresses);
    services.chain(state.own_addresses()).map(|address| Addr::from(*address)).collect()
}

/// The content of DEFER if it can have all addresses.
pub(in crate::compile) fn whole(state: &ClusterState) -> Deferred {
    Deferred { addresses: wanted(state), refused: RefusedServices::new() }
}

/// The content of DEFER if it cannot have all addresses that it should have. The node's own addresses come first, up to one
/// half, because no namespace chooses them.
pub(in crate::compile) fn reduced(state: &ClusterState, shared: Shared) -> Option<Deferred> {
    let n_own = state.own_addresses().len();
    let n_wanted = state.n_service_addresses().saturating_add(n_own);
    if shared.fits(n_wanted) {
        return None;
    }
    let mut by_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for service in state.services() {
        let n_addresses = by_namespace.entry(&service.name.namespace).or_default();
        *n_addresses = n_addresses.saturating_add(service.addresses.len());
    }
    let is_modest = |n_addresses: &usize| *n_addresses <= shared.of_namespace;
    if n_wanted <= shared.total && n_own <= shared.total / 2 && by_namespace.values().all(is_modest)
    {
        return None;
    }
    let is_own = |addr: &Addr| !state.is_service_address(*addr);
    let mut own = state.own_addresses().iter().map(|ip| Addr::from(*ip)).filter(is_own);
    let mut addresses: BTreeSet<Addr> = own.by_ref().take(shared.total / 2).collect();
    let is_own_complete = own.next().is_none();
    let shared = Shared { total: shared.total.saturating_sub(addresses.len()), ..shared };
    let mut services: Vec<&Service> = state.services().collect();
    services.sort_by_key(|service| service.addresses.len());
    let items = services.into_iter().filter(|service| !service.addresses.is_empty());
    let items = items.map(|service| Item {
        namespace: &service.name.namespace,
        key: service,
        n_wanted: service.addresses.len(),
    });
    let Division { refused, taken } = divide(shared, items, |service| {
        service.addresses.iter().map(|address| (Addr::from(*address), 1))
    });
    addresses.extend(taken);
    let refused = refused.into_iter().map(|of| (of.name.clone(), of.addresses.len()));
    let refused: RefusedServices = refused.collect();
    let is_complete = refused.is_empty() && is_own_complete;
    (!is_complete).then_some(Deferred { addresses, refused })
}
