//! Errors of the kernel side.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use netpol_common::ids::IfIndex;

use crate::object::Feature;

/// Errors of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Capabilities are missing.
    #[error(
        "not permitted to load and attach eBPF programs: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    NotPermitted,
    /// The kernel lacks a feature that the programs use.
    #[error(
        "the kernel {release} lacks {feature}: the kernels of Debian 12, Ubuntu 22.04, RHEL 9 and SLES 15 SP4 have it, and all newer ones"
    )]
    Lacks {
        /// Its release, as `uname -r` prints it.
        release: String,
        /// The feature.
        feature: Feature,
    },
    /// The kernel does not answer whether it has a feature.
    #[error("cannot ask the kernel for {feature}")]
    Probe {
        /// The feature.
        feature: Feature,
        /// The error of the kernel.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No BPF file system at the parent of the pins' folder.
    #[error("no BPF file system at {path}: run mount -t bpf bpf {path}")]
    NoBpfFs {
        /// The expected mount point.
        path: PathBuf,
    },
    /// The BPF file system could not be mounted.
    #[error("cannot mount a BPF file system at {path}")]
    MountBpfFs {
        /// The mount point.
        path: PathBuf,
        /// The error of the kernel.
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
        /// The property that differs.
        property: &'static str,
        /// Its value in this build.
        expected: u32,
        /// Its value in the pinned map.
        found: u32,
    },
    /// A pinned object cannot be opened or created.
    #[error("cannot use the pin {path}")]
    Pin {
        /// Its path.
        path: PathBuf,
        /// The cause.
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
        /// The error of the verifier.
        #[source]
        source: ProgramError,
    },
    /// The object file lacks a map or program, because it was built from other sources.
    #[error("the eBPF object has no {name}")]
    Missing {
        /// Name of the map or program.
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
        /// The error of the kernel.
        #[source]
        source: ProgramError,
    },
    /// The clsact filter of a program cannot be created, listed or removed.
    #[error("cannot use the clsact filter of {program} on device {ifindex}")]
    Filter {
        /// Its name.
        program: &'static str,
        /// The device.
        ifindex: IfIndex,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Filters are impossible, because another queueing discipline excludes clsact, and this kernel has no TCX links.
    #[error(
        "cannot attach {program} to device {ifindex}: its queueing discipline {kind} excludes clsact, and this kernel has no TCX"
    )]
    Occupied {
        /// Its name.
        program: &'static str,
        /// The device.
        ifindex: IfIndex,
        /// Kind of the queueing discipline.
        kind: String,
    },
    /// The nftables table of exits cannot be read or written.
    #[error("cannot use the nftables table inet {}", netpol_netlink::TABLE)]
    ExitGuard(#[source] io::Error),
    /// A pinned link cannot be opened or pinned.
    #[error("cannot take over the pinned link {path}")]
    Link {
        /// The pin.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: LinkError,
    },
    /// Programs of a private copy cannot be attached, because attachments must be pinned.
    #[error("programs that are loaded without pins cannot be attached")]
    NotPinned,
    /// A map has no free entry.
    #[error("map {map} is full: it holds {capacity} entries")]
    MapFull {
        /// Its name.
        map: &'static str,
        /// Its capacity, entries.
        capacity: u32,
    },
    /// A map cannot be read or written.
    #[error("cannot {action} map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// `read` or `write`.
        action: &'static str,
        /// The error of the kernel.
        #[source]
        source: MapError,
    },
    /// The container id of a sandbox is longer than the values of CONTAINERS.
    #[error("container id {id} is longer than {max_len_bytes} bytes")]
    ContainerIdTooLong {
        /// The container id.
        id: String,
        /// Size of the map's values, bytes.
        max_len_bytes: usize,
    },
    /// A test run failed.
    #[error("cannot run {program} on a packet")]
    TestRun {
        /// Its name.
        program: &'static str,
        /// The error of the kernel.
        #[source]
        source: ProgramError,
    },
    /// Another process still holds removed programs or maps open.
    #[error(
        "{n_left} programs and maps that were pinned under {root} are still held by another process"
    )]
    StillHeld {
        /// The folder of the pins.
        root: PathBuf,
        /// Number of programs, links and maps that the kernel still has.
        n_left: usize,
    },
    /// A stream of the programs has a reader already.
    #[error("the {what} of the programs already have a reader")]
    Taken {
        /// `events` or `log messages`.
        what: &'static str,
    },
}

/// Cause of a failed operation on a pin.
#[derive(Debug, thiserror::Error)]
pub enum PinCause {
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The pinned map cannot be opened.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The object cannot be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// The failure of an operation on the pin at `path`.
pub(crate) fn pin_error(path: &Path, source: impl Into<PinCause>) -> Error {
    Error::Pin { path: path.to_owned(), source: source.into() }
}
