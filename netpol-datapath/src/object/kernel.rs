//! What the kernel can do. It is asked for each feature, because distributions add features of newer kernels to older versions.
//!
//! In: the kernel, the capabilities of the process. Out: what the programs have to be adapted to, or the first feature that
//! is missing. Must not: read a version number, or a file that describes the kernel.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::sync::OnceLock;

use aya::maps::{Array, MapData, MapError, MapType};
use aya::programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use rustix::thread::{CapabilitySet, capabilities};

use super::adapt::{Adaptation, Arguments, Clock, adapt};
use super::loader::{OBJECT, classifier_named};
use crate::error::Error;

/// Written by build.rs: programs that need one feature each.
static FEATURE_PROBE: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/feature-probe"));

/// The types of all maps.
const MAPS: [(MapType, &str); 8] = [
    (MapType::Hash, "BPF_MAP_TYPE_HASH"),
    (MapType::Array, "BPF_MAP_TYPE_ARRAY"),
    (MapType::PerCpuHash, "BPF_MAP_TYPE_PERCPU_HASH"),
    (MapType::PerCpuArray, "BPF_MAP_TYPE_PERCPU_ARRAY"),
    (MapType::LruHash, "BPF_MAP_TYPE_LRU_HASH"),
    (MapType::LpmTrie, "BPF_MAP_TYPE_LPM_TRIE"),
    (MapType::ArrayOfMaps, "BPF_MAP_TYPE_ARRAY_OF_MAPS"),
    (MapType::RingBuf, "BPF_MAP_TYPE_RINGBUF"),
];

/// The helpers that the programs call, except the clock.
pub(super) const HELPERS: [BpfHelper; 17] = [
    BpfHelper::BPF_FUNC_map_lookup_elem,
    BpfHelper::BPF_FUNC_map_update_elem,
    BpfHelper::BPF_FUNC_map_delete_elem,
    BpfHelper::BPF_FUNC_get_prandom_u32,
    BpfHelper::BPF_FUNC_skb_load_bytes,
    BpfHelper::BPF_FUNC_skb_load_bytes_relative,
    BpfHelper::BPF_FUNC_skb_pull_data,
    BpfHelper::BPF_FUNC_skb_change_type,
    BpfHelper::BPF_FUNC_redirect,
    BpfHelper::BPF_FUNC_redirect_peer,
    BpfHelper::BPF_FUNC_redirect_neigh,
    BpfHelper::BPF_FUNC_skb_store_bytes,
    BpfHelper::BPF_FUNC_spin_lock,
    BpfHelper::BPF_FUNC_spin_unlock,
    BpfHelper::BPF_FUNC_ringbuf_reserve,
    BpfHelper::BPF_FUNC_ringbuf_submit,
    BpfHelper::BPF_FUNC_ringbuf_discard,
];

/// Inner maps of these flags (`BPF_F_MMAPABLE`, `BPF_F_INNER_MAP`) can be mapped and differ in size.
const INNER_MAP_FLAGS: u32 = 1 << 10 | 1 << 12;

/// A feature without which the programs cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Programs of traffic control.
    Classifiers,
    /// A type of maps, by its name in the kernel.
    Maps(&'static str),
    /// Inner maps that differ in size (Linux 5.10).
    InnerMaps,
    /// A helper, by its number.
    Helper(BpfHelper),
    /// Pointers to memory as arguments of global functions (Linux 5.12).
    MemoryArguments,
}

impl Display for Feature {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classifiers => f.write_str("programs of type BPF_PROG_TYPE_SCHED_CLS"),
            Self::Maps(name) => write!(f, "maps of type {name}"),
            Self::InnerMaps => f.write_str("inner maps of different sizes (BPF_F_INNER_MAP)"),
            Self::MemoryArguments => {
                f.write_str("pointers to memory as arguments of global eBPF functions")
            }
            Self::Helper(helper) => {
                let name = format!("{helper:?}");
                write!(f, "the helper {}", name.replace("BPF_FUNC_", "bpf_"))
            }
        }
    }
}

/// The object of the programs. Without an adaptation it is adapted to this kernel, which is asked once.
///
/// # Errors
/// [`Error::NotPermitted`], [`Error::Lacks`], [`Error::Probe`].
pub(crate) fn object(adaptation: Option<Adaptation>) -> Result<Cow<'static, [u8]>, Error> {
    static THIS_KERNELS: OnceLock<Adaptation> = OnceLock::new();
    let adaptation = match adaptation.or(THIS_KERNELS.get().copied()) {
        Some(adaptation) => adaptation,
        None => *THIS_KERNELS.get_or_init({
            let found = check(&mut Running::default())?;
            move || found
        }),
    };
    adapt(OBJECT, adaptation).ok_or(Error::Missing { name: ".BTF" })
}

/// Whether the kernel attaches programs by TCX links.
pub(crate) fn has_tcx() -> bool {
    // Every network namespace has this device.
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// The questions to a kernel.
trait Kernel {
    /// Its release, as `uname -r` prints it, for messages only.
    fn release(&self) -> String;
    fn capabilities(&self) -> CapabilitySet;
    fn has(&mut self, feature: Feature) -> Result<bool, Error>;
    fn has_coarse_clock(&mut self) -> Result<bool, Error>;
    /// Whether a global function can take the context.
    fn accepts_context(&mut self) -> Result<bool, Error>;
}

/// Asks for each requirement, so that a missing one is reported by name and not as an obscure failure to load.
fn check(kernel: &mut impl Kernel) -> Result<Adaptation, Error> {
    // SYS_ADMIN includes BPF and PERFMON; only it may open the maps within a map.
    if !kernel.capabilities().contains(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN) {
        return Err(Error::NotPermitted);
    }
    let maps = MAPS.into_iter().map(|(_, name)| Feature::Maps(name));
    let helpers = HELPERS.into_iter().map(Feature::Helper);
    let rest = maps.chain([Feature::InnerMaps]).chain(helpers).chain([Feature::MemoryArguments]);
    for feature in [Feature::Classifiers].into_iter().chain(rest) {
        if !kernel.has(feature)? {
            return Err(Error::Lacks { release: kernel.release(), feature });
        }
    }
    Ok(Adaptation {
        clock: if kernel.has_coarse_clock()? { Clock::Coarse } else { Clock::Precise },
        arguments: if kernel.accepts_context()? { Arguments::All } else { Arguments::NoContext },
    })
}

/// The kernel that runs.
#[derive(Default)]
struct Running {
    /// The programs that need one feature each, once they are loaded.
    probe: Option<Ebpf>,
}

impl Running {
    /// Whether the kernel accepts one of these programs.
    fn accepts(&mut self, name: &'static str) -> Result<bool, Error> {
        let probe = match &mut self.probe {
            Some(probe) => probe,
            none => {
                none.insert(EbpfLoader::new().btf(None).load(FEATURE_PROBE).map_err(Error::Load)?)
            }
        };
        match classifier_named(probe, name)?.load() {
            Ok(()) => Ok(true),
            Err(ProgramError::LoadError { .. }) => Ok(false),
            Err(source) => Err(Error::Refused { program: name, source }),
        }
    }
}

impl Kernel for Running {
    fn release(&self) -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    fn capabilities(&self) -> CapabilitySet {
        capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
    }

    fn has(&mut self, feature: Feature) -> Result<bool, Error> {
        let denied = |source: MapError| Error::Probe { feature, source: Box::new(source) };
        match feature {
            Feature::Classifiers => is_program_supported(ProgramType::SchedClassifier)
                .map_err(|source| Error::Probe { feature, source: Box::new(source) }),
            Feature::Maps(name) => {
                let found = MAPS.into_iter().find(|(_, found)| *found == name);
                let map_type = found.map_or(MapType::Unspecified, |(map_type, _)| map_type);
                is_map_supported(map_type).map_err(|source| denied(source.into()))
            }
            Feature::InnerMaps => match Array::<MapData, u64>::create(2, INNER_MAP_FLAGS) {
                Ok(_map) => Ok(true),
                Err(MapError::CreateError { io_error, .. })
                    if io_error.raw_os_error() == Some(libc::EINVAL) =>
                {
                    Ok(false)
                }
                Err(error) => Err(denied(error)),
            },
            Feature::MemoryArguments => self.accepts("memory_argument"),
            Feature::Helper(helper) => is_helper_supported(ProgramType::SchedClassifier, helper)
                .map_err(|source| Error::Probe { feature, source: Box::new(source) }),
        }
    }

    fn has_coarse_clock(&mut self) -> Result<bool, Error> {
        self.has(Feature::Helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns))
    }

    fn accepts_context(&mut self) -> Result<bool, Error> {
        self.accepts("context_argument")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel with all features but some.
    struct Fake {
        release: &'static str,
        capabilities: CapabilitySet,
        lacks: Option<Feature>,
        adaptation: Adaptation,
    }

    impl Kernel for Fake {
        fn release(&self) -> String {
            self.release.to_owned()
        }

        fn capabilities(&self) -> CapabilitySet {
            self.capabilities
        }

        fn has(&mut self, feature: Feature) -> Result<bool, Error> {
            Ok(self.lacks != Some(feature))
        }

        fn has_coarse_clock(&mut self) -> Result<bool, Error> {
            Ok(self.adaptation.clock == Clock::Coarse)
        }

        fn accepts_context(&mut self) -> Result<bool, Error> {
            Ok(self.adaptation.arguments == Arguments::All)
        }
    }

    fn fake(release: &'static str) -> Fake {
        let capabilities = CapabilitySet::all();
        Fake { release, capabilities, lacks: None, adaptation: Adaptation::NONE }
    }

    #[test]
    fn a_kernel_is_judged_by_its_features_and_not_by_its_version() {
        for release in ["5.14.0-503.el9", "5.14.21-150400", "4.18.0-553.el8", "unreadable"] {
            assert_eq!(check(&mut fake(release)).unwrap(), Adaptation::NONE, "{release}");
        }
        let fewer = Adaptation { clock: Clock::Precise, arguments: Arguments::NoContext };
        let mut without_btf = Fake { adaptation: fewer, ..fake("6.12.47+rpt-rpi-2712") };
        assert_eq!(check(&mut without_btf).unwrap(), fewer);
    }

    #[test]
    fn a_missing_feature_is_named_with_kernels_that_have_it() {
        let message = |lacks| {
            let mut lacking = Fake { lacks: Some(lacks), ..fake("5.4.0-200-generic") };
            check(&mut lacking).unwrap_err().to_string()
        };
        assert_eq!(
            message(Feature::Maps("BPF_MAP_TYPE_RINGBUF")),
            "the kernel 5.4.0-200-generic lacks maps of type BPF_MAP_TYPE_RINGBUF: the kernels of Debian 12, Ubuntu 22.04, \
             RHEL 9 and SLES 15 SP4 have it, and all newer ones"
        );
        let helper = message(Feature::Helper(BpfHelper::BPF_FUNC_ringbuf_reserve));
        assert!(helper.contains("lacks the helper bpf_ringbuf_reserve: "), "{helper}");
    }

    #[test]
    fn missing_capabilities_are_reported_before_the_kernel_is_asked() {
        for missing in [CapabilitySet::NET_ADMIN, CapabilitySet::SYS_ADMIN] {
            let capabilities = CapabilitySet::all() - missing;
            let lacks = Some(Feature::Classifiers);
            let mut kernel = Fake { capabilities, lacks, ..fake("6.12") };
            assert!(matches!(check(&mut kernel), Err(Error::NotPermitted)));
        }
    }
}
