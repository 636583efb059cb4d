//! Oracles that must agree: the independent one of [`crate::oracle`], the reference semantics, the compiled maps after a
//! sequence of changes, and the maps compiled from scratch.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use netpol_policy::model::convert::object;
use netpol_policy::model::{Diagnostic, Object, Transport};
use netpol_policy::simulate::{self, Cluster, Engine, PortChoice, with_implicit_namespaces};
use netpol_policy::store::OwnNodeEgress;
use serde_json::Value;

use crate::case::{Case, End, Port, Probe, Protocol};
use crate::oracle::Oracle;

/// The oracles and the sequence that they follow.
pub struct Oracles {
    engines: Vec<NamedEngine>,
    sequence: Option<String>,
    judges_node: bool,
}

/// An engine that follows the changes of a sequence; its maps are kept between sequences.
struct NamedEngine {
    name: &'static str,
    cluster: Cluster,
}

/// A probe on which the oracles disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The probe.
    pub probe: Probe,
    /// The verdict of each oracle: whether the connection may be made.
    pub verdicts: Vec<(&'static str, bool)>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.probe)?;
        for (oracle, is_allowed) in &self.verdicts {
            write!(f, " {oracle} {}", if *is_allowed { "allows" } else { "denies" })?;
        }
        Ok(())
    }
}

impl Default for Oracles {
    fn default() -> Self {
        Self::new([("reference", Engine::Reference), ("compiled", Engine::compiled())])
    }
}

impl Oracles {
    /// These engines, in addition to the independent oracle.
    pub fn new(engines: impl IntoIterator<Item = (&'static str, Engine)>) -> Self {
        let named = |(name, engine)| NamedEngine { name, cluster: Cluster::new(engine) };
        Self {
            engines: engines.into_iter().map(named).collect(),
            sequence: None,
            judges_node: false,
        }
    }

    /// The same where connections of pods to their own node need a rule that allows them.
    #[must_use]
    pub fn judging_node(self) -> Self {
        let judging = |NamedEngine { name, cluster }| NamedEngine {
            name,
            cluster: cluster.with_own_node_egress(OwnNodeEgress::Judge),
        };
        Self { engines: self.engines.into_iter().map(judging).collect(), judges_node: true, ..self }
    }

    /// Ends the current sequence.
    pub fn begin(&mut self) {
        self.sequence = None;
    }

    /// Asks all oracles about a case. A case of the same sequence as the previous one changes the engines' clusters; another
    /// one replaces them.
    ///
    /// # Errors
    /// An engine fails.
    pub fn ask(&mut self, case: &Case) -> Result<Vec<Disagreement>> {
        let continues = case.sequence.is_some() && case.sequence == self.sequence;
        self.sequence.clone_from(&case.sequence);
        let (objects, _) = read(&case.objects);
        for engine in &mut self.engines {
            if !continues {
                engine.cluster.forget_objects();
            }
            engine.cluster.set(objects.clone())?;
        }
        let mut from_scratch = Cluster::new(Engine::compiled());
        if self.judges_node {
            from_scratch = from_scratch.with_own_node_egress(OwnNodeEgress::Judge);
        }
        from_scratch.set(objects)?;
        let oracle = Oracle::new(&case.objects);
        let oracle = if self.judges_node { oracle.judging_node() } else { oracle };
        let mut found = Vec::new();
        for probe in &case.probes {
            let question = question(probe);
            let mut verdicts = vec![("oracle", oracle.allows(probe))];
            for engine in &mut self.engines {
                verdicts.push((engine.name, engine.cluster.probe(&question)?.is_allowed));
            }
            verdicts.push(("compiled from scratch", from_scratch.probe(&question)?.is_allowed));
            if verdicts.windows(2).any(|pair| matches!(pair, [one, other] if one.1 != other.1)) {
                found.push(Disagreement { probe: probe.clone(), verdicts });
            }
        }
        Ok(found)
    }
}

/// The objects, as the offline commands read them.
pub fn read(objects: &[Value]) -> (Vec<Object>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut read = Vec::new();
    for value in objects {
        let converted = object(value);
        diagnostics.extend(converted.diagnostics);
        read.extend(converted.object);
    }
    (with_implicit_namespaces(read).0, diagnostics)
}

/// The probe, converted for the simulation.
pub fn question(probe: &Probe) -> simulate::Probe {
    let end = |end: &End| match end {
        End::Address { ip } => simulate::PodOrIp::Address(*ip),
        End::Pod { namespace, pod, ip } => simulate::PodOrIp::Pod {
            name: netpol_policy::model::ObjectName::new(namespace, pod),
            address: *ip,
        },
    };
    simulate::Probe {
        from: end(&probe.from),
        to: end(&probe.to),
        port: match &probe.port {
            Port::Number(number) => PortChoice::Number(*number),
            Port::Name(name) => PortChoice::Name(Arc::from(name.as_str())),
        },
        transport: match probe.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => Transport::Sctp,
        },
    }
}
