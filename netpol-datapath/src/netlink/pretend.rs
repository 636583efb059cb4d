//! Devices for simulations: veth pairs with chosen indexes in a separate network namespace.

use std::io;

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use netpol_common::ids::IfIndex;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, new_connection};
use rustix::thread::UnshareFlags;
use tokio::runtime::{Builder, Runtime};

/// Why the devices could not be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network namespace could be created, usually because the process is not root.
    #[error("cannot create a network namespace")]
    Namespace(#[source] io::Error),
    /// No netlink socket could be opened, or no event loop created for it.
    #[error("cannot open a netlink socket")]
    Connect(#[source] io::Error),
    /// The kernel refuses a device.
    #[error("cannot create the network device {ifindex}")]
    Add {
        /// Its index.
        ifindex: u32,
        /// The error of the kernel.
        #[source]
        source: rtnetlink::Error,
    },
}

/// Devices in a network namespace that ends with the thread that made it.
pub struct PretendDevices {
    runtime: Runtime,
    handle: Handle,
    /// The devices with indexes from the first one up to this one exist.
    next: u32,
}

impl PretendDevices {
    /// Moves **this thread** into a new network namespace for the rest of its life. Devices get indexes from `first` on;
    /// the pair of [`Self::UPLINK`] exists from the start.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Connect`], [`Error::Add`].
    pub fn in_new_namespace(first: IfIndex) -> Result<Self, Error> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe because of UnshareFlags::FILES, which is not used here"
        )]
        rustix::thread::unshare(UnshareFlags::NEWNET)
            .map_err(|error| Error::Namespace(error.into()))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Connect)?;
        let (connection, handle, _news) = {
            let _in_runtime = runtime.enter();
            new_connection().map_err(Error::Connect)?
        };
        // The task ends with the runtime.
        drop(runtime.spawn(connection));
        let mut devices = Self { runtime, handle, next: first.0 };
        devices.add_pair(Self::UPLINK.0)?;
        Ok(devices)
    }

    /// Index of a device that exists from the start.
    pub const UPLINK: IfIndex = IfIndex(2);

    /// Creates all devices up to this index.
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

    /// Creates a veth pair with this index and the next one. Both ends stay down, because no packet is sent through them.
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
