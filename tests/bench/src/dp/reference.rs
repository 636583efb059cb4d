//! The reference programs: loading, attaching, filling, and counters.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie};
use aya::programs::tc::{self, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

/// Written by build.rs.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reference-ebpf"));

/// Default number of flows of the reference.
pub const OWN_N_FLOWS: u32 = 1 << 19;
/// Words of a port array: 24 times protocol, first and last port.
const RULES_LEN: usize = 72;
const UDP: u32 = 17;
/// Flag of a map update.
const MOST_TRIES: u32 = 10_000;

/// How a program is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attaching {
    /// A TCX link.
    Tcx,
    /// A filter of a `clsact` queueing discipline.
    Clsact,
}

/// A copy of the programs with maps of its own. Dropped, it detaches.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the programs with a flow table of `n_flows`; 1 if `reference` is not used.
    ///
    /// # Errors
    /// The kernel refused them.
    pub fn load(n_flows: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("REFERENCE_FLOWS", n_flows);
        let mut ebpf = loader.load(OBJECT).context("loading the reference programs")?;
        for name in ["nop", "sink", "reference"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Attaches a program to a device of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn attach(
        &mut self,
        name: &str,
        device: &str,
        side: TcAttachType,
        attaching: Attaching,
    ) -> Result<()> {
        let program = program(&mut self.ebpf, name)?;
        let options = match attaching {
            Attaching::Tcx => TcAttachOptions::TcxOrder(LinkOrder::default()),
            Attaching::Clsact => {
                tc::qdisc_add_clsact(device).context("adding clsact")?;
                TcAttachOptions::Netlink(tc::NlOptions::default())
            }
        };
        program
            .attach_with_options(device, side, options)
            .with_context(|| format!("attaching {name} to {device}"))?;
        Ok(())
    }

    /// Packets that `sink` has dropped so far.
    ///
    /// # Errors
    /// Its map cannot be read.
    pub fn n_arrived(&self) -> Result<u64> {
        let map = self.ebpf.map("ARRIVED").context("no map ARRIVED")?;
        let arrived: PerCpuArray<&MapData, u64> = map.try_into()?;
        Ok(arrived.get(&0, 0)?.iter().sum())
    }

    /// Makes `reference` allow UDP to a port from these peers only.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn allow(&mut self, peers: &[Ipv4Addr], port: u16) -> Result<()> {
        let mut rules = [0_u32; RULES_LEN];
        if let Some(rule) = rules.first_chunk_mut() {
            *rule = [UDP, u32::from(port), 0];
        }
        let map = self.ebpf.map_mut("PEERS").context("no map PEERS")?;
        let mut trie: LpmTrie<&mut MapData, [u8; 4], [u32; RULES_LEN]> = map.try_into()?;
        for peer in peers {
            let key = lpm_trie::Key::new(32, peer.octets());
            // The kernel refills its pool of trie nodes asynchronously, so it may be empty.
            for _ in 0..MOST_TRIES {
                if trie.insert(&key, rules, 0).is_ok() {
                    break;
                }
                std::thread::yield_now();
            }
            trie.get(&key, 0).with_context(|| format!("writing the peer {peer}"))?;
        }
        for name in ["POD_STATE", "CLUSTER_STATE"] {
            let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
            let mut state: HashMap<&mut MapData, u32, u8> = map.try_into()?;
            state.insert(0, 0, 0)?;
        }
        Ok(())
    }

    /// Removes all flows.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn forget_flows(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("REFERENCE_FLOWS").context("no map REFERENCE_FLOWS")?;
        let mut flows: HashMap<&mut MapData, [u8; 20], [u8; 4]> = map.try_into()?;
        let keys: Vec<_> = flows.keys().collect::<Result<_, _>>()?;
        for key in keys {
            // Evicted meanwhile.
            flows.remove(&key).ok();
        }
        Ok(())
    }

    /// Runs a program on a frame many times; returns its action and the time per run.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn time(&mut self, name: &str, frame: &[u8], n_runs: u32) -> Result<(i32, Duration)> {
        let outcome = program(&mut self.ebpf, name)?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                repeat: n_runs,
                ..TestRunOptions::new()
            })
            .with_context(|| format!("running {name}"))?;
        Ok((outcome.return_value.cast_signed(), outcome.duration))
    }

    /// Kernel memory of a map, bytes.
    ///
    /// # Errors
    /// There is no such map.
    pub fn map_len_bytes(&self, name: &str) -> Result<u64> {
        let map = self.ebpf.map(name).with_context(|| format!("no map {name}"))?;
        if let Map::LpmTrie(map) | Map::LruHashMap(map) = map {
            return super::memory::len_bytes(map.fd());
        }
        bail!("{name} is of a kind that is not compared")
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
