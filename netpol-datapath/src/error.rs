//! Why the kernel side does not work.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use netpol_common::ids::IfIndex;

/// Why the kernel side does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Capabilities are missing.
    #[error(
        "not permitted to load and attach eBPF programs: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    NotPermitted,
    /// The kernel lacks what the programs use.
    #[error("the kernel is {found}: netpol needs Linux 5.15 or newer")]
    KernelTooOld {
        /// Its version.
        found: String,
    },
    /// The kernel was built without type information.
    #[error(
        "the kernel has no BTF ({path} is missing): netpol needs a kernel built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf {
        /// Where it is looked for.
        path: PathBuf,
    },
    /// No BPF file system where the pins should be.
    #[error("no BPF file system at {path}: run mount -t bpf bpf {path}")]
    NoBpfFs {
        /// Where it is expected.
        path: PathBuf,
    },
    /// It could not be mounted.
    #[error("cannot mount a BPF file system at {path}")]
    MountBpfFs {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A pinned map has another layout than this version's.
    #[error(
        "{path} was pinned by another build: its {property} is {found}, this build needs {expected}; run netpol-agent uninstall"
    )]
    PinIncompatible {
        /// The pinned map.
        path: PathBuf,
        /// What differs.
        property: &'static str,
        /// What this build needs.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// A pinned object cannot be opened or made.
    #[error("cannot use the pin {path}")]
    Pin {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: PinCause,
    },
    /// The object file cannot be loaded.
    #[error("cannot load the eBPF object")]
    Load(#[source] EbpfError),
    /// The verifier refuses a program.
    #[error("the kernel refuses program {program}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What the verifier said.
        #[source]
        source: ProgramError,
    },
    /// The object file was built from other sources.
    #[error("the eBPF object has no {name}")]
    Missing {
        /// A map or program.
        name: &'static str,
    },
    /// The device is gone.
    #[error("no network device has index {ifindex}")]
    NoDevice {
        /// Its index.
        ifindex: IfIndex,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to device {ifindex}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The device.
        ifindex: IfIndex,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// The filter of a program cannot be made, seen or removed.
    #[error("cannot use the filter of {program} on device {ifindex}")]
    Filter {
        /// Its name.
        program: &'static str,
        /// The device.
        ifindex: IfIndex,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is no place for filters: somebody else has the device's ingress for himself, and this kernel has no links.
    #[error(
        "cannot attach {program} to device {ifindex}: its queueing discipline {kind} excludes clsact, and this kernel has no TCX"
    )]
    Occupied {
        /// Its name.
        program: &'static str,
        /// The device.
        ifindex: IfIndex,
        /// What is there.
        kind: String,
    },
    /// A pinned link cannot be used.
    #[error("cannot take over {path}")]
    Link {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: LinkError,
    },
    /// Devices take programs only through attachments that are not pinned.
    #[error("programs that are loaded without pins cannot be attached")]
    NotPinned,
    /// A map has no room.
    #[error("map {map} is full: it holds {capacity} entries")]
    MapFull {
        /// Its name.
        map: &'static str,
        /// Entries that it can hold.
        capacity: u32,
    },
    /// A map cannot be read or written.
    #[error("cannot {action} map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// The runtime's name of a sandbox is longer than the map's values.
    #[error("container id {id} is longer than {max_len_bytes} bytes")]
    ContainerIdTooLong {
        /// The name.
        id: String,
        /// What fits.
        max_len_bytes: usize,
    },
    /// A test run failed.
    #[error("cannot run {program} on a packet")]
    TestRun {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// What was removed lives on in somebody's hands.
    #[error(
        "{n_left} programs and maps that were pinned under {root} are still held by another process"
    )]
    StillHeld {
        /// The folder of the pins.
        root: PathBuf,
        /// Programs, links and maps that the kernel still has.
        n_left: usize,
    },
    /// Somebody is reading it already.
    #[error("the {what} are taken")]
    Taken {
        /// What.
        what: &'static str,
    },
}

/// What went wrong with a pin.
#[derive(Debug, thiserror::Error)]
pub enum PinCause {
    /// In the file system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// With a map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// While pinning.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// The failure of an operation on the pin at `path`.
pub(crate) fn pin_error(path: &Path, source: impl Into<PinCause>) -> Error {
    Error::Pin { path: path.to_owned(), source: source.into() }
}
