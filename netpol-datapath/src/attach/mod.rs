//! The trait `Attachments` of the port: programs on devices, attached so that they stay in force when the agent ends.
//!
//! On kernels with TCX a program is attached by a link. The link is pinned, and the next agent replaces its program in place.
//! While a new link is made, the kernel waits for packets in flight with the RTNL lock held. So the programs of a new pod are
//! attached by clsact filters first, as all programs are on older kernels, and migrate to links later (`migration`).

mod attacher;
mod filter;
mod link;
mod look;
mod migration;
mod role;
mod site;
mod uninstall;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::panic::resume_unwind;

use netpol_common::ids::IfIndex;
use netpol_common::mac::Mac;
use netpol_netlink::{Ensured, ExitGuard, Netlink, Others};
use netpol_policy::dataplane::MapOp;
use netpol_policy::dataplane::port::{
    Attachments, DeviceRole, ExitTable, FailedAttachments, Framing, Migrated, NewInterface,
    Presence,
};
use netpol_policy::store::PodEnd;

use self::attacher::Attacher;
use self::look::{Look, role_of_uplink};
use self::migration::needs_migration;
use self::site::{Device, Site, detach, remove_own_clsact};
use crate::config::Attaching;
use crate::datapath::Datapath;
use crate::error::Error;
use crate::program::Program;

pub use self::migration::Migration;
pub use self::role::Role;
pub use self::uninstall::{Removed, uninstall};

impl Attachments for Datapath {
    type Migration = Migration;

    /// # Errors
    /// Those of [`Datapath::attach`].
    fn attach_pod(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.attach(ifindex, Role::Pod)
    }

    /// Attaches on a second thread, because the kernel makes both wait for packets in flight.
    ///
    /// # Errors
    /// Those of [`Maps::apply`](netpol_policy::dataplane::port::Maps::apply).
    fn attach_and_apply(
        &mut self,
        interfaces: &[NewInterface],
        ops: &[MapOp],
    ) -> (FailedAttachments<Error>, Result<(), Error>) {
        let Self { ebpf, maps, pins, config, geometry: _, last: _, uplinks: _, exit_guard: _ } =
            self;
        let mut attacher = Attacher { ebpf, pins: pins.as_ref(), attaching: config.attaching };
        std::thread::scope(|scope| {
            let attaching = scope.spawn(move || {
                let failure =
                    |new: &NewInterface| Some((new.ifindex, attacher.attach_new(*new).err()?));
                interfaces.iter().filter_map(failure).collect()
            });
            let applied = maps.apply(ops);
            (attaching.join().unwrap_or_else(|panic| resume_unwind(panic)), applied)
        })
    }

    /// The counters of the packets that have dropped meanwhile are removed by the next
    /// [garbage collection](netpol_policy::dataplane::port::Flows::begin_gc).
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::Pin`], [`Error::Filter`].
    fn detach_pod(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        remove_own_clsact(pins, ifindex)?;
        self.detach(ifindex)?;
        self.maps.leftovers.extend([ifindex]);
        Ok(())
    }

    /// A pin can outlast the attachment, so the kernel is asked.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::Missing`], [`Error::Attach`], [`Error::Filter`].
    fn presence(
        &self,
        devices: &BTreeMap<IfIndex, DeviceRole>,
    ) -> Result<BTreeMap<IfIndex, Presence>, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let mut look = Look::new(&self.ebpf, pins);
        devices
            .iter()
            .map(|(ifindex, role)| Ok((*ifindex, look.at(*ifindex, Role::from(*role))?)))
            .collect()
    }

    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::NoDevice`], [`Error::Attach`], [`Error::Filter`].
    fn foreign_programs(&self, ifindex: IfIndex, role: DeviceRole) -> Result<Vec<String>, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let device = Device::find(ifindex)?;
        let mut found = Vec::new();
        for program in Role::from(role).programs() {
            found.extend((Site { pins, device: &device, program: *program }).foreign()?);
        }
        Ok(found)
    }

    fn pod_end(&self, ifindex: IfIndex) -> io::Result<PodEnd> {
        let peer = Netlink::open()?.peer_of(ifindex)?;
        let (link, addresses) = peer.ok_or(io::ErrorKind::NotFound)?;
        let mac = <[u8; 6]>::try_from(link.mac).map_err(|_other| io::ErrorKind::InvalidData)?;
        let is_link_local = |address: &Ipv6Addr| address.is_unicast_link_local();
        let link_local = addresses.into_iter().filter(is_link_local).collect();
        Ok(PodEnd { mac: Mac::new(mac), link_local })
    }

    fn is_mac_of_node(&self, mac: Mac) -> io::Result<bool> {
        let links = Netlink::open()?.links()?;
        Ok(links.iter().any(|link| link.mac == mac.octets()))
    }

    fn set_uplinks(&mut self, uplinks: &BTreeMap<IfIndex, Framing>) -> Result<(), Error> {
        let attached = self.attached()?;
        self.uplinks.retain(|ifindex, _| uplinks.contains_key(ifindex));
        let mut result = Ok(());
        for (ifindex, framing) in uplinks {
            let role = Role::from(DeviceRole::Uplink(*framing));
            // The interface of a removed pod keeps its programs: without an endpoint they drop everything.
            let is_pod = attached.get(ifindex) == Some(&Role::Pod);
            // The program that an earlier agent attached is replaced by that of this one.
            let is_own =
                attached.get(ifindex) == Some(&role) && self.uplinks.get(ifindex) == Some(&role);
            if !is_pod && !is_own {
                result = match self.attach(*ifindex, role) {
                    Ok(()) => {
                        self.uplinks.insert(*ifindex, role);
                        result
                    }
                    // The device was removed after the devices had been listed.
                    Err(Error::NoDevice { .. }) => result,
                    Err(error) => result.and(Err(error)),
                };
            }
        }
        result
    }

    /// # Errors
    /// Those of [`Datapath::attach`].
    fn attach_uplink(&mut self, ifindex: IfIndex, framing: Framing) -> Result<(), Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        self.attach(ifindex, role_of_uplink(pins, ifindex, Role::from(DeviceRole::Uplink(framing))))
    }

    fn awaiting_migration(&self) -> Result<BTreeSet<IfIndex>, Error> {
        let (Some(pins), Attaching::Links) = (&self.pins, self.config.attaching) else {
            return Ok(BTreeSet::new());
        };
        let attachments = pins.attachments()?.into_iter();
        let waiting =
            attachments.filter(|(ifindex, program)| needs_migration(pins, *ifindex, *program));
        Ok(waiting.map(|(ifindex, _)| ifindex).collect())
    }

    /// # Errors
    /// [`Error::NotPinned`] for a private copy.
    fn begin_migration(&mut self, ifindex: IfIndex) -> Result<Option<Migration>, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let program = match self.config.attaching {
            Attaching::Links => [Program::PodIngress, Program::PodEgress]
                .into_iter()
                .find(|program| needs_migration(pins, ifindex, *program)),
            Attaching::Filters => None,
        };
        Ok(program.map(|program| Migration {
            config: self.config.clone(),
            pins: pins.clone(),
            geometry: self.geometry,
            ifindex,
            program,
            last: self.last.take(),
            outcome: Ok(Migrated::Yes),
        }))
    }

    fn run_migration(migration: Migration) -> (IfIndex, Migration) {
        (migration.ifindex(), migration.run())
    }

    fn end_migration(&mut self, migration: Migration) -> Result<Migrated, Error> {
        let (last, outcome) = migration.finish(&mut self.ebpf);
        let is_more = self.awaiting_migration().is_ok_and(|left| !left.is_empty());
        self.last = last.filter(|_| is_more);
        outcome
    }

    fn bridge_of(&self, ifindex: IfIndex) -> Option<IfIndex> {
        Netlink::open().ok()?.link_by_index(ifindex).ok()??.bridge
    }

    /// # Errors
    /// [`Error::ExitGuard`].
    fn set_exits(&mut self, exits: &BTreeSet<IfIndex>) -> Result<ExitTable, Error> {
        let others = if self.has_predecessor() { Others::Stay } else { Others::Go };
        let guard = match &mut self.exit_guard {
            Some(guard) => guard,
            none => none.insert(ExitGuard::open(self.config.mark_mask).map_err(Error::ExitGuard)?),
        };
        match guard.ensure(exits, others).map_err(Error::ExitGuard)? {
            Ensured::Intact => Ok(ExitTable::Intact),
            Ensured::Created => Ok(ExitTable::Created),
        }
    }

    fn has_predecessor(&self) -> bool {
        self.pins.as_ref().is_some_and(|pins| !pins.predecessors().is_empty())
    }

    /// The maps of this version must be complete: from now on a pod's interface that is no endpoint in them drops everything.
    ///
    /// # Errors
    /// Those of [`Datapath::attach`] and [`Datapath::detach`]; the devices before the one that failed are done.
    fn retire_predecessor(&mut self) -> Result<(), Error> {
        let pins = self.pins.clone().ok_or(Error::NotPinned)?;
        for predecessor in pins.predecessors() {
            for (ifindex, program) in predecessor.attachments()? {
                let is_pod = pins.link(ifindex, Program::PodIngress).exists();
                // A program that several roles need is replaced together with that of the device's role.
                if let Some(role) = Role::of(program)
                    && (role == Role::Pod || !is_pod)
                {
                    match self.attach(ifindex, role) {
                        Ok(()) | Err(Error::NoDevice { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                detach(predecessor, ifindex, program)?;
            }
            predecessor.remove()?;
        }
        if let Some(pins) = &mut self.pins {
            pins.forget_predecessors();
        }
        // Endpoints that were removed while no agent ran, and those that the other version had not collected yet.
        self.collect_unknown().map(drop)
    }
}

impl Datapath {
    /// Attaches the programs of a role to a device, or replaces in place the programs that an earlier agent attached.
    ///
    /// A replaced program is in force until the new one is. A new TCX link takes some milliseconds.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::NoDevice`], [`Error::Attach`], [`Error::Filter`],
    /// [`Error::Occupied`], [`Error::Link`], [`Error::Pin`].
    pub fn attach(&mut self, ifindex: IfIndex, role: Role) -> Result<(), Error> {
        self.attacher().attach(ifindex, role)
    }

    /// [`Datapath::attach`] for the interface of a pod that does not run yet, by the fastest means: clsact filters, unless
    /// the device has filters of others, or a later plugin will claim clsact. The device may lose packets meanwhile.
    /// [`Attachments::begin_migration`] replaces the filters by links.
    ///
    /// # Errors
    /// Those of [`Datapath::attach`].
    pub fn attach_new(&mut self, new: NewInterface) -> Result<(), Error> {
        self.attacher().attach_new(new)
    }

    fn attacher(&mut self) -> Attacher<'_> {
        Attacher {
            ebpf: &mut self.ebpf,
            pins: self.pins.as_ref(),
            attaching: self.config.attaching,
        }
    }

    /// Detaches our programs from a device. Succeeds also after the device is gone, and if nothing is attached.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::Pin`], [`Error::Filter`].
    pub fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        for (found, program) in pins.attachments()? {
            if found == ifindex {
                detach(pins, ifindex, program)?;
            }
        }
        Ok(())
    }

    /// The devices that have our programs, according to their pins.
    ///
    /// A role counts if all its programs are attached. The pins of devices that are gone are removed here, and the counters of
    /// their last packets by the next [garbage collection](netpol_policy::dataplane::port::Flows::begin_gc), because an
    /// interface without an endpoint still counts drops.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::Pin`].
    pub fn attached(&mut self) -> Result<BTreeMap<IfIndex, Role>, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let mut programs: BTreeMap<IfIndex, BTreeSet<Program>> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (ifindex, program) in pins.attachments()? {
            if Device::find(ifindex).is_ok() {
                programs.entry(ifindex).or_default().insert(program);
            } else {
                pins.remove_link(ifindex, program)?;
                gone.insert(ifindex);
            }
        }
        self.maps.leftovers.extend(gone);
        let roles = programs.into_iter().filter_map(|(ifindex, programs)| {
            let role = programs.iter().find_map(|program| Role::of(*program))?;
            let is_complete = role.programs().iter().all(|program| programs.contains(program));
            is_complete.then_some((ifindex, role))
        });
        Ok(roles.collect())
    }
}
