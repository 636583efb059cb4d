//! Devices for simulations: a network namespace of their own, and pairs of devices with wanted numbers in it.

use std::io;

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use netpol_common::ids::IfIndex;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, new_connection};
use rustix::thread::UnshareFlags;
use tokio::runtime::{Builder, Runtime};

/// Why there are no devices to pretend with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root, most often.
    #[error("cannot make a network namespace")]
    Namespace(#[source] io::Error),
    /// No netlink socket, or no event loop for it.
    #[error("cannot open a netlink socket")]
    Connect(#[source] io::Error),
    /// The kernel refuses a device.
    #[error("cannot make the network device {ifindex}")]
    Add {
        /// Its number.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
}

/// Devices in a network namespace that ends with the thread that made it.
pub struct PretendDevices {
    runtime: Runtime,
    handle: Handle,
    /// All numbers below this one have their device, from where it began.
    next: u32,
}

impl PretendDevices {
    /// Moves **this thread** into a network namespace of its own, for good. Devices will have numbers from `first` on;
    /// there is also one pair in front of all, [`Self::UPLINK`].
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Connect`], [`Error::Add`].
    pub fn in_new_namespace(first: IfIndex) -> Result<Self, Error> {
        #[expect(
            deprecated,
            reason = "the successor is unsafe for the sake of UnshareFlags::FILES, which is not used here"
        )]
        rustix::thread::unshare(UnshareFlags::NEWNET)
            .map_err(|error| Error::Namespace(error.into()))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Connect)?;
        let (connection, handle, _news) = {
            let _in_runtime = runtime.enter();
            new_connection().map_err(Error::Connect)?
        };
        // It ends with the runtime.
        drop(runtime.spawn(connection));
        let mut devices = Self { runtime, handle, next: first.0 };
        devices.add_pair(Self::UPLINK.0)?;
        Ok(devices)
    }

    /// A device that is there from the beginning.
    pub const UPLINK: IfIndex = IfIndex(2);

    /// Makes all devices up to this one.
    ///
    /// # Errors
    /// [`Error::Add`].
    pub fn ensure(&mut self, last: IfIndex) -> Result<(), Error> {
        while self.next <= last.0 {
            self.add_pair(self.next)?;
            self.next += 2;
        }
        Ok(())
    }

    /// Makes two devices with this number and the next one. They stay down: nothing is ever sent through them.
    fn add_pair(&mut self, ifindex: u32) -> Result<(), Error> {
        let name = |ifindex: u32| format!("pretend{ifindex}");
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name(ifindex + 1))
            .index(ifindex + 1)
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name(ifindex))
            .index(ifindex)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let added = self.handle.link().add(pair).execute();
        self.runtime.block_on(added).map_err(|source| Error::Add { ifindex, source })
    }
}
