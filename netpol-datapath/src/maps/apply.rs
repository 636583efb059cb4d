//! Map operations, performed in the kernel in their order.

use std::collections::BTreeSet;

use netpol_common::ids::IfIndex;
use netpol_common::keys::{Endpoint, EndpointEntry, EndpointSlot, NodeBackendEntry};
use netpol_policy::dataplane::{EndpointMapState, MapOp};

use crate::error::Error;
use crate::object::layout::ContainerId;
use crate::tables::MapSet;

impl MapSet {
    /// See [`Maps::apply`](netpol_policy::dataplane::port::Maps::apply).
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`], [`Error::ContainerIdTooLong`].
    pub(crate) fn apply(&mut self, ops: &[MapOp]) -> Result<(), Error> {
        let applied = ops
            .chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b))
            .try_for_each(|alike| self.apply_alike(alike));
        if applied.is_err() {
            self.allow.read(&self.endpoints.entries()?)?;
        }
        applied
    }

    fn apply_alike(&mut self, ops: &[MapOp]) -> Result<(), Error> {
        match ops {
            [MapOp::SetIdentity(..), ..] => self.identities.set_all(ops.iter().filter_map(|op| {
                if let MapOp::SetIdentity(addr, identity) = op {
                    Some((*addr, *identity))
                } else {
                    None
                }
            })),
            [MapOp::RemoveIdentity(_), ..] => {
                self.identities.remove_all(ops.iter().filter_map(|op| {
                    if let MapOp::RemoveIdentity(addr) = op { Some(*addr) } else { None }
                }));
                Ok(())
            }
            [MapOp::SetPrefix(..), ..] => self.prefixes.set_all(ops.iter().filter_map(|op| {
                if let MapOp::SetPrefix(key, identity) = op {
                    Some((*key, *identity))
                } else {
                    None
                }
            })),
            [MapOp::SetAllow(..), ..] => {
                self.allow.set_all(ops.iter().filter_map(|op| {
                    if let MapOp::SetAllow(key, content) = op {
                        Some((*key, content))
                    } else {
                        None
                    }
                }))?;
                self.point_endpoints(ops)
            }
            [MapOp::RemoveAllow(_), ..] => {
                self.allow.remove_all(ops.iter().filter_map(|op| {
                    if let MapOp::RemoveAllow(key) = op { Some(*key) } else { None }
                }));
                self.point_endpoints(ops)
            }
            [MapOp::AddDefer(_), ..] => self.defer.set_all(ops.iter().filter_map(|op| {
                if let MapOp::AddDefer(addr) = op { Some((*addr, 0)) } else { None }
            })),
            [MapOp::AddNode(_), ..] => self.own_node.set_all(ops.iter().filter_map(|op| {
                if let MapOp::AddNode(key) = op { Some((*key, 0)) } else { None }
            })),
            [MapOp::AddAddress(_), ..] => {
                self.addresses.add_all(ops.iter().filter_map(|op| {
                    if let MapOp::AddAddress(key) = op { Some(*key) } else { None }
                }))
            }
            [MapOp::RemoveEndpoint(_), ..] => self.remove_endpoints(ops.iter().filter_map(|op| {
                if let MapOp::RemoveEndpoint(ifindex) = op { Some(*ifindex) } else { None }
            })),
            _ => ops.iter().try_for_each(|op| self.apply_one(op)),
        }
    }

    fn apply_one(&mut self, op: &MapOp) -> Result<(), Error> {
        match op {
            MapOp::SetEndpoint(ifindex, endpoint) => self.set_endpoint(*ifindex, endpoint),
            MapOp::RemoveAddress(key) => self.addresses.remove(*key),
            MapOp::RemovePrefix(key) => self.prefixes.remove(*key),
            MapOp::RemoveDefer(addr) => self.defer.remove(*addr),
            MapOp::RemoveNode(key) => self.own_node.remove(*key),
            MapOp::SetNodeBackend(key, backend) => {
                self.node_backends.set(*key, NodeBackendEntry::new(key, *backend))
            }
            MapOp::RemoveNodeBackend(key) => self.node_backends.remove(*key),
            MapOp::SetEgressMark(egress_mark, owner) => self.set_egress_mark(*egress_mark, *owner),
            MapOp::RemoveEgressMark(egress_mark) => self.set_egress_mark(*egress_mark, IfIndex(0)),
            MapOp::BumpEpoch => self.bump_epoch(),
            MapOp::RemoveEndpoint(_)
            | MapOp::AddAddress(_)
            | MapOp::SetIdentity(..)
            | MapOp::RemoveIdentity(_)
            | MapOp::SetPrefix(..)
            | MapOp::SetAllow(..)
            | MapOp::RemoveAllow(_)
            | MapOp::AddNode(_)
            | MapOp::AddDefer(_) => self.apply_alike(std::slice::from_ref(op)),
        }
    }

    /// Writes the current slots of the allow maps into the endpoints of these operations, one write for each endpoint.
    fn point_endpoints(&mut self, ops: &[MapOp]) -> Result<(), Error> {
        let ifindex = |op: &MapOp| {
            if let MapOp::SetAllow(key, _) | MapOp::RemoveAllow(key) = op {
                Some(key.ifindex)
            } else {
                None
            }
        };
        let ifindexes: BTreeSet<IfIndex> = ops.iter().filter_map(ifindex).collect();
        let mut changed = Vec::new();
        for ifindex in ifindexes {
            let allow_maps = self.allow.slots(ifindex);
            // An endpoint that does not exist yet gets its slots when it is written.
            if let Some(entry) = self.endpoints.get(ifindex)?
                && entry.value.allow_maps != allow_maps
            {
                let endpoint = Endpoint { allow_maps, ..entry.value };
                changed.push((ifindex, EndpointEntry::new(&ifindex, endpoint)));
            }
        }
        self.write_endpoints(&changed)
    }

    /// Writes endpoints and then their copies. The copies are freed first, so that the programs read ENDPOINTS meanwhile, and after a
    /// crash too, until the endpoint is written again.
    fn write_endpoints(&mut self, entries: &[(IfIndex, EndpointEntry)]) -> Result<(), Error> {
        for (ifindex, _) in entries {
            self.free_endpoint_slot(*ifindex)?;
        }
        self.endpoints.set_all(entries.iter().copied())?;
        entries.iter().try_for_each(|(ifindex, entry)| {
            self.set_endpoint_slot(*ifindex, EndpointSlot::new(*ifindex, *entry))
        })
    }

    fn set_endpoint(&mut self, ifindex: IfIndex, endpoint: &EndpointMapState) -> Result<(), Error> {
        let EndpointMapState { value, container_id, mac } = endpoint;
        let mut padded: ContainerId = [0; 128];
        let Some(target) = padded.get_mut(..container_id.len()) else {
            let id = container_id.to_string();
            return Err(Error::ContainerIdTooLong { id, max_len_bytes: padded.len() });
        };
        target.copy_from_slice(container_id.as_bytes());
        self.claim(std::iter::once(ifindex))?;
        // The container id first, so that every endpoint that passes packets has one.
        self.containers.set(ifindex, padded)?;
        let allow_maps = self.allow.slots(ifindex);
        let endpoint = Endpoint::new(*value, allow_maps, *mac);
        self.write_endpoints(&[(ifindex, EndpointEntry::new(&ifindex, endpoint))])
    }

    fn remove_endpoints(&mut self, ifindexes: impl Iterator<Item = IfIndex>) -> Result<(), Error> {
        for ifindex in ifindexes {
            self.leftovers.extend([ifindex]);
            self.free_endpoint_slot(ifindex)?;
            self.endpoints.remove(ifindex)?;
            self.containers.remove(ifindex)?;
            // Packets of established flows skip ENDPOINTS until the epoch changes.
            self.bump_epoch()?;
        }
        Ok(())
    }
}
