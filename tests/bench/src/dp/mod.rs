//! Packets: the latency that netpol and its peers add to a datagram, and single verdicts.
//!
//! Each configuration has a network of its own ([`lane`]). The sender is pinned to one processor, on which the kernel
//! processes each datagram to its end before it accepts the next: so the time of a flood is the cost of its datagrams. Each
//! sample checks that allowed traffic arrives (99.9 %) and denied traffic does not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub mod bulk;
pub mod flood;
pub mod lane;
pub mod memory;
pub mod netfilter;
pub mod netpol;
pub mod reference;
pub mod short_cut;
pub mod tiers;
pub mod verdicts;
pub mod writes;

use self::flood::{Tuple, packets};
use self::lane::{Family, Lane, PORT};
use self::netfilter::{OF_A_LANE, Rules};
use self::netpol::{Netpol, Peers};
use self::reference::{Attaching, OWN_N_FLOWS, Programs};
use super::gates::Unit;
use super::{Run, Series};

/// Minimum share of allowed datagrams that arrive.
const LEAST_PART: f64 = 0.999;
/// Connections of the established path.
const N_ESTABLISHED: usize = 64;
/// Factor for the number of rounds of the established path, where gates differ by 10 ns and samples scatter by as much.
const OFTEN: usize = 3;
/// Datagrams from addresses that are no peers.
const N_STRANGERS: u16 = 500;
/// Forwarding only.
const NONE: &str = "no policy";
/// The same with as few senders as [`OURS_OF_FEW`], because forwarding costs depend on their number.
const NONE_OF_FEW: &str = "no policy, 10 senders";
const OURS: &str = "netpol";
const OURS_OF_FEW: &str = "netpol, 10 peers";
/// The number of senders that counts as few.
const FEW: u16 = 10;
const REFERENCE: &str = "per-pod LPM (reference), clsact";
const NFT: &str = "conntrack + nft set";

/// The configuration of a lane's router.
enum Means {
    Nothing,
    Reference(Programs),
    Netpol(Box<Netpol>),
    Netfilter,
}

/// A lane with its configuration.
struct Contender {
    name: String,
    lane: Lane,
    means: Means,
    /// Whether traffic from other addresses is denied.
    has_policy: bool,
    /// Number of peers that send traffic.
    n_peers: u16,
    /// Whether IPv6 is measured too.
    has_v6: bool,
}

/// A configuration to install in a lane.
#[derive(Clone, Copy)]
enum Recipe {
    /// None, with this number of senders.
    None(u16),
    Nop(Attaching),
    Netpol {
        n_flows: Option<u32>,
        n_pods: u16,
        peers: Peers,
        attaching: netpol_datapath::Attaching,
    },
    Reference {
        attaching: Attaching,
    },
    Netfilter(Rules),
}

fn recipes(n_peers: u16, n_linear: u16) -> Vec<(String, Recipe)> {
    use netpol_datapath::Attaching::{Filters, Links};
    let ours =
        Recipe::Netpol { n_flows: None, n_pods: 1, peers: Peers::Pods(n_peers), attaching: Links };
    let with = |change: fn(u16) -> (Option<u32>, u16, Peers)| {
        let (n_flows, n_pods, peers) = change(n_peers);
        Recipe::Netpol { n_flows, n_pods, peers, attaching: Links }
    };
    let chains = |n_pods| Recipe::Netfilter(Rules::PodChains { n_pods, n_peers });
    let filters = Recipe::Netpol {
        n_flows: None,
        n_pods: 1,
        peers: Peers::Pods(n_peers),
        attaching: Filters,
    };
    [
        (NONE, Recipe::None(n_peers)),
        (NONE_OF_FEW, Recipe::None(FEW)),
        ("empty program, TCX", Recipe::Nop(Attaching::Tcx)),
        ("empty program, clsact", Recipe::Nop(Attaching::Clsact)),
        (OURS, ours),
        ("netpol, clsact", filters),
        (OURS_OF_FEW, with(|_| (None, 1, Peers::Pods(FEW)))),
        ("netpol, 110 pods", with(|n| (None, 110, Peers::Pods(n)))),
        ("netpol, peers are blocks", with(|n| (None, 1, Peers::Blocks(n)))),
        ("netpol, 512k flows", with(|n| (Some(OWN_N_FLOWS), 1, Peers::Pods(n)))),
        (REFERENCE, Recipe::Reference { attaching: Attaching::Clsact }),
        ("per-pod LPM (reference), TCX", Recipe::Reference { attaching: Attaching::Tcx }),
        ("conntrack", Recipe::Netfilter(Rules::Conntrack)),
        (NFT, Recipe::Netfilter(Rules::NftSet { n_peers })),
        ("conntrack + ipset", Recipe::Netfilter(Rules::Ipset { n_peers })),
        ("iptables, linear", Recipe::Netfilter(Rules::Linear { n_peers: n_linear })),
        ("chains as kube-router's, 1 pod", chains(1)),
        ("chains as kube-router's, 30 pods", chains(30)),
        ("chains as kube-router's, 110 pods", chains(110)),
    ]
    .map(|(name, recipe)| (name.to_owned(), recipe))
    .into()
}

impl Contender {
    fn create(number: usize, name: String, recipe: Recipe, n_peers: u16) -> Result<Self> {
        let lane = Lane::create(&number.to_string())?;
        let (mut n_senders, mut has_v6) = (n_peers, true);
        let means = match recipe {
            Recipe::None(n) => {
                n_senders = n;
                Means::Nothing
            }
            Recipe::Nop(attaching) => {
                let mut programs = Programs::load(1)?;
                let attach = || programs.attach("nop", "s0", TcAttachType::Egress, attaching);
                lane.router.inside(attach)?;
                Means::Reference(programs)
            }
            Recipe::Netpol { n_flows, n_pods, peers, attaching } => {
                if let Peers::Pods(n) = peers {
                    n_senders = n;
                }
                Means::Netpol(Box::new(Netpol::install(&lane, n_flows, n_pods, peers, attaching)?))
            }
            Recipe::Reference { attaching } => {
                let mut programs = Programs::load(OWN_N_FLOWS)?;
                let peers: Vec<_> = (0..n_peers).map(lane::peer_v4).collect();
                programs.allow(&peers, PORT)?;
                let attach = || programs.attach("reference", "s0", TcAttachType::Egress, attaching);
                lane.router.inside(attach)?;
                has_v6 = false;
                Means::Reference(programs)
            }
            Recipe::Netfilter(rules) => {
                rules.install(&lane.router, &OF_A_LANE)?;
                has_v6 = matches!(rules, Rules::Conntrack | Rules::NftSet { .. });
                Means::Netfilter
            }
        };
        let has_policy = !matches!(
            recipe,
            Recipe::None(_) | Recipe::Nop(_) | Recipe::Netfilter(Rules::Conntrack)
        );
        Ok(Self { name, lane, means, has_policy, n_peers: n_senders, has_v6 })
    }

    fn forget_flows(&mut self) -> Result<()> {
        match &mut self.means {
            Means::Nothing => Ok(()),
            Means::Reference(programs) => programs.forget_flows(),
            Means::Netpol(netpol) => Ok(netpol.datapath.forget_flows()?),
            Means::Netfilter => Rules::forget_flows(&self.lane.router),
        }
    }

    /// Sends allowed traffic; returns nanoseconds per datagram.
    fn send(&self, packets: &[Vec<u8>]) -> Result<f64> {
        let (time, part) = self.lane.send(packets)?;
        ensure!((LEAST_PART..=1.0).contains(&part), "{part} of what is allowed arrived");
        Ok(time)
    }

    /// Checks that other addresses reach the server only without a policy.
    fn check_strangers(&self, family: Family) -> Result<()> {
        let from = |number| lane::tuple(lane::stranger(number, family), 1024 + number);
        let tuples: Vec<_> = (0..N_STRANGERS).map(from).collect();
        let (_, part) = self.lane.send(&packets(&tuples)?)?;
        let expected = if self.has_policy { 0.0 } else { 1.0 };
        ensure!(part.total_cmp(&expected).is_eq(), "{part} from strangers arrived: {}", self.name);
        Ok(())
    }
}

/// Connections, no two the same, from peers in random order.
fn unique(run: &mut Run, n: usize, n_peers: u16, family: Family) -> Vec<Tuple> {
    let mut tuples = Vec::with_capacity(n);
    for port in (1_024_u16..u16::MAX).cycle().take(n) {
        let number = u16::try_from(run.rng.usize(..usize::from(n_peers))).unwrap_or(0);
        tuples.push(lane::tuple(lane::peer(number, family), port));
    }
    tuples
}

/// The suite.
///
/// # Errors
/// The set-up failed, or a configuration misbehaves.
pub fn measure(run: &mut Run) -> Result<()> {
    lane::remove_leftovers()?;
    pin_to_last_processor()?;
    if run.wants("short-cut") {
        short_cut::measure(run)?;
    }
    if run.wants("tiers") {
        tiers::measure(run)?;
    }
    if run.wants("verdicts") {
        verdicts::measure(run)?;
    }
    if run.wants("writes") {
        writes::measure(run)?;
    }
    if run.wants("memory") {
        memory::measure(run)?;
    }
    if run.wants("flood") || run.wants("bulk") {
        on_the_wire(run)?;
    }
    Ok(())
}

/// The parts of the suite that need lanes.
fn on_the_wire(run: &mut Run) -> Result<()> {
    let n_peers = u16::try_from(run.size(10_000, 50))?;
    let n_linear = u16::try_from(run.size(1_000, 20))?;
    let mut contenders = Vec::new();
    for (number, (name, recipe)) in recipes(n_peers, n_linear).into_iter().enumerate() {
        if !run.wants("flood") && ![NONE, OURS].contains(&name.as_str()) {
            continue;
        }
        let context = format!("setting up {name}");
        contenders.push(Contender::create(number, name, recipe, n_peers).context(context)?);
    }
    run.say("networks are ready");
    if run.wants("flood") {
        let four = flood(run, &mut contenders, Family::V4, n_peers)?;
        answer(run, &four)?;
        contenders.retain(|contender| contender.has_v6);
        let six = flood(run, &mut contenders, Family::V6, n_peers)?;
        for series in [four.new, four.established, six.new, six.established] {
            run.add(series);
        }
    }
    if run.wants("bulk") {
        bulk_tcp(run, &mut contenders)?;
    }
    Ok(())
}

/// New and established connections, in one family.
struct Floods {
    new: Series,
    established: Series,
}

fn flood(
    run: &mut Run,
    contenders: &mut [Contender],
    family: Family,
    n_peers: u16,
) -> Result<Floods> {
    for contender in contenders.iter() {
        contender.check_strangers(family)?;
    }
    let word = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let n_new = run.size(60_000, 500);
    let of_all = packets(&unique(run, n_new, n_peers, family))?;
    let of_few = packets(&unique(run, n_new, n_peers.min(FEW), family))?;
    let name = |contender: &Contender| contender.name.clone();
    let new = run.interleaved(
        &format!("new flow, {word}"),
        Unit::Nanos,
        contenders,
        name,
        |contender, _| {
            contender.forget_flows()?;
            contender.send(if contender.n_peers < n_peers { &of_few } else { &of_all })
        },
    )?;
    let tuples = unique(run, N_ESTABLISHED, n_peers.min(FEW), family);
    let n_packets = run.size(100_000, 1_000);
    let repeated: Vec<_> = packets(&tuples)?.into_iter().cycle().take(n_packets).collect();
    let established = run.interleaved_often(
        OFTEN,
        &format!("established flow, {word}"),
        Unit::Nanos,
        contenders,
        name,
        |contender, _| {
            contender.forget_flows()?;
            contender.lane.establish(&tuples)?;
            contender.send(&repeated)
        },
    )?;
    let new = new.over(NONE).except(OURS_OF_FEW, NONE_OF_FEW).noted(&format!(
        "Nanoseconds a datagram, {n_new} of as many connections, from {n_peers} peers; all connections forgotten before \
         each flood.",
    ));
    let established = established.over(NONE).noted(&format!(
        "Nanoseconds a datagram, {n_packets} of {N_ESTABLISHED} connections that both ends have spoken on; {OFTEN} times as many rounds.",
    ));
    Ok(Floods { new, established })
}

fn answer(run: &mut Run, floods: &Floods) -> Result<()> {
    let Floods { new, established } = floods;
    let chains = |n_pods: &str| format!("chains as kube-router's, {n_pods}");
    for (row, peer) in [("2", NFT), ("3a", &chains("30 pods")), ("3b", &chains("110 pods"))] {
        run.answer(row, established.ratio_of_added(OURS, peer)?, "on the wire")?;
    }
    for (row, ours, peer) in [
        ("4a", OURS, REFERENCE),
        ("4b", "netpol, 512k flows", REFERENCE),
        ("5", OURS, NFT),
        ("6a", OURS, &chains("1 pod")),
        ("6b", OURS, &chains("110 pods")),
        ("8a", OURS, OURS_OF_FEW),
        ("8b", "netpol, 110 pods", OURS),
    ] {
        run.answer(row, new.ratio_of_added(ours, peer)?, "")?;
    }
    Ok(())
}

/// Row 9.
fn bulk_tcp(run: &mut Run, contenders: &mut Vec<Contender>) -> Result<()> {
    unpin()?;
    contenders.retain(|contender| [NONE, OURS].contains(&contender.name.as_str()));
    let n_seconds = 1;
    let name = |contender: &Contender| contender.name.clone();
    for (family, word) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let series = run.interleaved(
            &format!("bulk TCP, {word}"),
            Unit::GigabitsPerSecond,
            contenders,
            name,
            |contender, _| bulk::gigabits(&contender.lane, family, n_seconds),
        )?;
        if family == Family::V4 {
            run.answer("9", series.ratio(OURS, NONE)?, "iperf3, cubic, one stream, IPv4")?;
        }
        run.add(series.noted("iperf3, cubic, one stream."));
    }
    Ok(())
}

/// Nanoseconds.
fn precise(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Pins to the last processor, which gets fewer interrupts than the first.
fn pin_to_last_processor() -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|processor| allowed.is_set(*processor));
    let mut set = CpuSet::new();
    set.set(last.context("no processor")?);
    sched_setaffinity(None, &set).context("pinning to a processor")
}

/// Removes the pinning, for child processes.
fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
    for processor in 0..n_processors.max(64) {
        set.set(processor);
    }
    sched_setaffinity(None, &set).context("running on all processors")
}
