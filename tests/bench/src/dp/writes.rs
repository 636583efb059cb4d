//! Time to write 10,000 peers to the kernel.

use anyhow::Result;
use netpol_common::ids::IfIndex;
use netpol_datapath::Datapath;
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::diff;
use netpol_policy::dataplane::port::Maps as _;

use super::netfilter::{ipset, nft, nft_set_v4, restore};
use super::netpol::{Peers, map_state, private};
use crate::gates::Unit;
use crate::{Run, clock};
use netpol_lab::node::netns::{self, Netns};

/// netpol, and the operations that add and remove the peers.
struct Own {
    name: &'static str,
    datapath: Datapath,
    empty: MapState,
    full: MapState,
}

/// A contender.
enum Writer {
    Netpol(Box<Own>),
    Nft,
    Ipset,
}

impl Writer {
    fn netpol(name: &'static str, peers: Peers) -> Result<Self> {
        let empty = of_ipv4(map_state(IfIndex(1), 1, Peers::Pods(0)));
        let full = of_ipv4(map_state(IfIndex(1), 1, peers));
        let mut datapath = private(1, Peers::Pods(0))?;
        datapath.apply(&diff(&map_state(IfIndex(1), 1, Peers::Pods(0)), &empty))?;
        Ok(Self::Netpol(Box::new(Own { name, datapath, empty, full })))
    }

    fn name(&self) -> String {
        match self {
            Self::Netpol(own) => own.name.to_owned(),
            Self::Nft => "nft -f".to_owned(),
            Self::Ipset => "ipset restore".to_owned(),
        }
    }
}

/// Our peers write one family only.
fn of_ipv4(mut map_state: MapState) -> MapState {
    map_state.identities.retain(|addr, _| addr.is_v4());
    map_state.prefixes.retain(|key, _| key.addr.is_v4());
    map_state
}

/// Row 15.
///
/// # Errors
/// Something was refused.
pub fn measure(run: &mut Run) -> Result<()> {
    let netns = Netns::create(&format!("netpol-bench-{}-writes", std::process::id()))?;
    let outcome = in_netns(run, &netns);
    netns::delete(netns.name())?;
    outcome
}

fn in_netns(run: &mut Run, netns: &Netns) -> Result<()> {
    let n_peers = u16::try_from(run.size(10_000, 100))?;
    let (sets, ipset_text) = (nft_set_v4(n_peers), ipset("peers", n_peers));
    let mut writers = [
        Writer::netpol("netpol, peers are pods", Peers::Pods(n_peers))?,
        Writer::netpol("netpol, peers are blocks", Peers::Blocks(n_peers))?,
        Writer::Nft,
        Writer::Ipset,
    ];
    let title = format!("{n_peers} peers into the kernel");
    let series =
        run.interleaved(&title, Unit::Millis, &mut writers, Writer::name, |writer, _| {
            let (micros, ()) = clock::micros(|| match writer {
                Writer::Netpol(own) => Ok(own.datapath.apply(&diff(&own.empty, &own.full))?),
                Writer::Nft => nft(netns, &sets),
                Writer::Ipset => restore(netns, "ipset", &["restore"], &ipset_text),
            })?;
            match writer {
                Writer::Netpol(own) => own.datapath.apply(&diff(&own.full, &own.empty))?,
                Writer::Nft => nft(netns, "delete table ip bench\n")?,
                Writer::Ipset => restore(netns, "ipset", &["restore"], "destroy peers\n")?,
            }
            Ok(micros / 1e3)
        })?;
    run.answer("15a", series.ratio("netpol, peers are pods", "nft -f")?, "")?;
    run.answer("15b", series.ratio("netpol, peers are pods", "ipset restore")?, "")?;
    run.add(series.noted(
        "IPv4. From the map_state to the maps, the comparison of map_states included; of the others the whole program, as anybody \
         has to run it.",
    ));
    Ok(())
}
