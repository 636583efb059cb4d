//! A node on which agents are killed, with streams that must continue and streams that must not start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use netpol_common::ids::{Identity, IfIndex, RuleId};
use netpol_common::maps::ABI_VERSION;
use netpol_datapath::netlink::{Side, TrafficControl};
use netpol_datapath::{Datapath, Mount};
use netpol_lab::node::strace::{Point, Task, Tracer};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, PodSpec, Stream, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::port::Maps as _;

const NEEDS: [Need; 4] = [
    Need::Root,
    Need::Program("ip"),
    Need::Program("strace"),
    Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
];

/// The pods' port.
const PORT: u16 = 80;
/// Messages on each stream between two checks.
const N_MESSAGES: u64 = 10;
/// Interval between messages, microseconds.
const PACE_US: u64 = 2000;

/// Allows only clients to connect to web.
const ALLOW_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: allow-clients, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress: [{ from: [{ podSelector: { matchLabels: { role: client } } }] }]
";

/// The node and its streams.
pub(crate) struct Fixture {
    pub(crate) lab: Lab,
    allowed: Vec<Stream>,
    denied: Vec<Stream>,
    /// Points that were tried, and those at which the process was killed, because not every run reaches each point.
    n_tried: usize,
    n_killed: usize,
}

impl Fixture {
    /// `None` if the machine lacks something.
    pub(crate) fn begin(name: &str) -> Result<Option<Self>> {
        if !met(&NEEDS) {
            return Ok(None);
        }
        let mut lab = Lab::create(name, Wiring::Bridge)?;
        lab.apply_namespace("shop", &labels(&[]))?;
        lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
        lab.start_agent()?;
        for (pod, label) in [("web", ("app", "web")), ("client", ("role", "client"))] {
            lab.add_pod(PodSpec::new(&format!("shop/{pod}"), &[label], &[PORT]))?;
        }
        lab.add_pod(PodSpec::new("shop/visitor", &[("role", "visitor")], &[PORT]))?;
        let mut fixture =
            Self { lab, allowed: Vec::new(), denied: Vec::new(), n_tried: 0, n_killed: 0 };
        for (family, protocol) in [(Family::V4, Tcp), (Family::V6, Udp)] {
            let stream = fixture.stream("shop/client", "shop/web", protocol, family)?;
            fixture.allowed.push(stream);
        }
        for family in Family::BOTH {
            let stream = fixture.stream("shop/visitor", "shop/web", Udp, family)?;
            fixture.denied.push(stream);
        }
        fixture.flow("at first")?;
        Ok(Some(fixture))
    }

    fn stream(
        &self,
        from: &str,
        to: &str,
        protocol: netpol_lab::probe::Protocol,
        family: Family,
    ) -> Result<Stream> {
        let to = self.lab.socket_address(&Host::pod(to), family, PORT)?;
        self.lab.stream(&Host::pod(from), protocol, to, PACE_US)
    }

    /// Stops checking the denied streams.
    pub(crate) fn forget_denied(&mut self) {
        self.denied.clear();
    }

    /// Adds allowed streams from another pod to web.
    pub(crate) fn allow_too(&mut self, pod: &str) -> Result<Vec<Stream>> {
        let streams = [(Tcp, Family::V6), (Udp, Family::V4)];
        streams
            .into_iter()
            .map(|(protocol, family)| self.stream(pod, "shop/web", protocol, family))
            .collect()
    }

    /// Waits until every stream has sent more messages; allowed ones must be answered, denied ones not.
    pub(crate) fn flow(&mut self, when: &str) -> Result<()> {
        let mut outcome = Ok(());
        for stream in &mut self.allowed {
            outcome = outcome.and(stream.wait_for_answers(N_MESSAGES).map(drop));
        }
        for stream in &mut self.denied {
            let report = stream.wait_for_messages(N_MESSAGES)?;
            let leaked = || format!("what is denied is answered: {report:?}");
            outcome = outcome.and_then(|()| {
                ensure!(report.n_received == 0, leaked());
                Ok(())
            });
        }
        let log = || format!("{when}\n{}", self.lab.agent_log().unwrap_or_default());
        outcome.with_context(log)
    }

    /// Counts a tried point, and whether the process was killed there.
    pub(crate) fn note(&mut self, n_killed: usize) {
        self.n_tried += 1;
        self.n_killed += n_killed;
    }

    /// Ends the streams; no message of an allowed stream may be lost.
    #[expect(clippy::print_stdout, reason = "the output shows how many points were tried")]
    pub(crate) fn end(mut self) -> Result<()> {
        self.flow("at last")?;
        let Self { n_tried, n_killed, .. } = self;
        println!("killed at {n_killed} of {n_tried} points");
        ensure!(n_killed * 2 >= n_tried, "killed at {n_killed} of {n_tried} points only");
        for stream in self.allowed.drain(..) {
            let report = stream.finish()?;
            ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
        }
        Ok(())
    }

    /// The output file of `strace`.
    pub(crate) fn trace_file(&self) -> PathBuf {
        self.lab.folder().join("strace.log")
    }

    /// Traces the running agent.
    pub(crate) fn trace(&self, task: &Task) -> Result<Tracer> {
        let pid = self.lab.agent_pid().context("no agent is running")?;
        Tracer::attach(pid, task, &self.trace_file())
    }

    /// Waits until the agent has died or a condition holds. Returns whether it has died.
    pub(crate) fn wait_for_death_or(
        &mut self,
        what: &str,
        mut is_done: impl FnMut(&Lab) -> Result<bool>,
    ) -> Result<bool> {
        until(&format!("the agent's end, or {what}"), LIMIT, || {
            if self.lab.has_agent_ended()? {
                return Ok(Look::Done(true));
            }
            // A dying agent does not answer.
            let is_done = is_done(&self.lab).unwrap_or(false);
            Ok(if is_done { Look::Done(false) } else { Look::NotYet("neither".to_owned()) })
        })
    }

    /// Starts an agent after a killed one, and waits until the node has the expected shape.
    pub(crate) fn recover(&mut self, point: &Point, expected: &Shape) -> Result<()> {
        let when = format!("killed before {} {} ({})", point.call, point.n, point.kind);
        self.flow(&format!("{when}, without an agent"))?;
        self.lab.start_agent().with_context(|| when.clone())?;
        self.flow(&format!("{when}, with the next agent"))?;
        self.converge(expected).with_context(|| when)
    }

    /// Waits until the node has this shape.
    pub(crate) fn converge(&self, expected: &Shape) -> Result<()> {
        until("the end state", LIMIT, || {
            let found = self.surroundings()?;
            if found != expected.surroundings {
                return Ok(Look::NotYet(format!(
                    "{found:#?} instead of {:#?}",
                    expected.surroundings
                )));
            }
            let found = self.shape()?;
            Ok(if found == *expected {
                Look::Done(())
            } else {
                Look::NotYet(format!("{found:#?} instead of {expected:#?}"))
            })
        })
        .with_context(|| self.lab.agent_log().unwrap_or_default())
    }

    /// Waits until the agent is idle; returns the node's shape.
    pub(crate) fn clean_shape(&self) -> Result<Shape> {
        until("an agent with nothing left to do", LIMIT, || {
            let status = self.lab.status()?;
            let is_done = status.is_in_force && status.n_awaiting_migration == Some(0);
            let waits = || format!("{:?} on filters", status.n_awaiting_migration);
            Ok(if is_done { Look::Done(()) } else { Look::NotYet(waits()) })
        })?;
        self.shape()
    }

    /// The node's shape.
    pub(crate) fn shape(&self) -> Result<Shape> {
        let pins = &self.lab.agent_config().pins;
        let config = netpol_datapath::Config {
            pin_root: Some(pins.clone()),
            mount: Mount::Never,
            ..netpol_datapath::Config::default()
        };
        // Opens the pinned maps alongside the agent.
        let map_state = Datapath::load(&config)?.map_state()?;
        Ok(Shape { map_state: canonical(map_state), surroundings: self.surroundings()? })
    }

    /// The shape without map contents.
    fn surroundings(&self) -> Result<Surroundings> {
        let pins = &self.lab.agent_config().pins;
        Ok(Surroundings {
            versions: names(pins)?,
            maps: names(&pins.join(format!("v{ABI_VERSION}")))?,
            links: names(&links_of(&self.lab))?,
            attached: self.attached()?,
        })
    }

    /// Number of programs attached to each side of the pods' interfaces and of the uplinks.
    pub(crate) fn attached(&self) -> Result<BTreeMap<String, [usize; 2]>> {
        let node = self.lab.netns(&Host::Node)?;
        node.inside(|| {
            let mut attached = BTreeMap::new();
            let mut kernel = TrafficControl::open()?;
            for device in fs::read_dir("/proc/thread-self/net/dev_snmp6")? {
                let name = device?.file_name().to_string_lossy().into_owned();
                let socket = rustix::net::socket(
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::SocketType::DGRAM,
                    None,
                )?;
                // The interface may disappear meanwhile.
                let Ok(index) = rustix::net::netdevice::name_to_index(socket, &name) else {
                    continue;
                };
                let sides =
                    [(TcAttachType::Ingress, Side::Ingress), (TcAttachType::Egress, Side::Egress)];
                let mut n_programs = [0; 2];
                for (n, (attach_type, side)) in n_programs.iter_mut().zip(sides) {
                    let links = SchedClassifier::query_tcx(&name, attach_type);
                    *n = links.map_or(0, |(_, programs)| programs.len());
                    *n += kernel.filters(IfIndex(index), side).map_or(0, |filters| filters.len());
                }
                attached.insert(name, n_programs);
            }
            Ok(attached)
        })
    }
}

/// netpol's state on a node, in a form that does not depend on history.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    map_state: MapState,
    surroundings: Surroundings,
}

/// Pins and attachments.
#[derive(Clone, Debug, PartialEq)]
struct Surroundings {
    versions: BTreeSet<String>,
    maps: BTreeSet<String>,
    links: BTreeSet<String>,
    attached: BTreeMap<String, [usize; 2]>,
}

impl Shape {
    /// Whether the pins of links are these.
    pub(crate) fn has_links_of(&self, lab: &Lab) -> Result<bool> {
        Ok(names(&links_of(lab))? == self.surroundings.links)
    }

    /// The image by itself.
    pub(crate) fn map_state(&self) -> &MapState {
        &self.map_state
    }
}

fn links_of(lab: &Lab) -> PathBuf {
    lab.agent_config().pins.join(format!("v{ABI_VERSION}")).join("links")
}

fn names(folder: &std::path::Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Renumbers identities in order of addresses and egress marks in order of interfaces, and removes rule ids, because these
/// numbers depend on history.
fn canonical(mut map_state: MapState) -> MapState {
    let mut egress_marks = BTreeMap::new();
    let with_egress_mark =
        map_state.endpoints.iter_mut().filter(|(_, endpoint)| endpoint.value.egress_mark != 0);
    for (next, (ifindex, endpoint)) in (1..).zip(with_egress_mark) {
        if map_state.egress_marks.remove(&endpoint.value.egress_mark) == Some(*ifindex) {
            egress_marks.insert(next, *ifindex);
            endpoint.value.egress_mark = next;
        }
    }
    // Remaining identities have no addresses.
    map_state.egress_marks.append(&mut egress_marks);
    let mut numbers: BTreeMap<Identity, Identity> = BTreeMap::new();
    let mut renumber = |identity: &mut Identity| {
        if *identity < Identity::FIRST {
            return;
        }
        let next = Identity(Identity::FIRST.0 + u32::try_from(numbers.len()).unwrap_or(u32::MAX));
        *identity = *numbers.entry(*identity).or_insert(next);
    };
    map_state.identities.values_mut().for_each(&mut renumber);
    map_state.prefixes.values_mut().for_each(&mut renumber);
    for map in map_state.allow.values_mut() {
        let renumbered = map.iter().map(|(key, value)| {
            let (mut key, mut value) = (*key, *value);
            renumber(&mut key.identity);
            value.rule = RuleId::NONE;
            (key, value)
        });
        *map = std::sync::Arc::new(renumbered.collect());
    }
    map_state
}
