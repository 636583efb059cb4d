//! The law of explanations: `explain` says what packets do.
//!
//! In: an exchange whose outcome is known. Out: nothing, or the explanations that differ. Must not: send packets.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_policy::manifests;
use netpol_policy::model::{Diagnostic, Transport};
use netpol_policy::simulate::{
    Engine, Explanation, OfflineCluster, PodOrIp, PortChoice, Probe as Question, TextForm, resolve,
};
use netpol_policy::store::OwnNodeEgress;

use super::topology::{NODE, NODE_NAME};
use super::{Host, Lab, Passing};
use crate::binaries::binary;
use crate::probe::{Probe, Protocol};

/// What an explanation cannot know, and its packets show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// Files name every address of the exchange.
    Complete,
    /// The destination is an address of the node's own devices that no object names.
    Device,
}

impl Lab {
    /// From now on the agent's explanations are not compared, because its source keeps from it what the files say.
    pub const fn mute_agent(&mut self) {
        self.is_agent_informed = false;
    }

    /// Compares what a packet did with the explanations from the lab's files, if these are all objects, and from the running agent.
    /// Without an agent, what is in force need not be what the files say, and nothing is compared.
    ///
    /// # Errors
    /// An explanation differs.
    pub fn check_explanations(&self, from: &Host, probe: Probe, passing: Passing) -> Result<()> {
        if self.agent.is_none() {
            return Ok(());
        }
        let Probe { protocol: _, destination } = probe;
        let is_named = !self.is_unnamed_device(destination.ip())?;
        let knowledge = if is_named { Knowledge::Complete } else { Knowledge::Device };
        let own = self.addresses(from)?;
        let own = own.iter().find(|own| own.is_ipv4() == destination.is_ipv4());
        let own = own.context("no address of the family")?;
        let source = match from {
            Host::Pod(name) => format!("{name}@{own}"),
            Host::Node => format!("node/{NODE_NAME}"),
            Host::Office | Host::Guest => own.to_string(),
        };
        let differs = |form: &str, explanation: &Explanation| {
            let mut text = Vec::new();
            explanation.write_text(TextForm::WHOLE, &mut text).ok();
            let text = String::from_utf8_lossy(&text).into_owned();
            format!("{from} to {probe}: the packet passes: {passing:?}, but {form}:\n{text}")
        };
        let is_passed = passing == Passing::Yes;
        if knowledge == Knowledge::Complete && self.has_only_files() {
            let explanation = self.explain_from_files(&source, probe)?;
            let agrees = explanation.problem.is_none() && explanation.is_allowed == is_passed;
            ensure!(agrees, differs("the files say", &explanation));
        }
        if !self.is_agent_informed {
            return Ok(());
        }
        let live = match from {
            Host::Node => own.to_string(),
            Host::Pod(_) | Host::Office | Host::Guest => source,
        };
        let explanation = self.explain_from_agent(&live, destination.ip(), probe)?;
        // An agent lists no EndpointSlices.
        let is_unknown = explanation
            .problem
            .as_ref()
            .is_some_and(|text| text.contains("its EndpointSlices are not known"));
        let agrees = explanation.problem.is_none() && explanation.is_allowed == is_passed;
        ensure!(is_unknown || agrees, differs("the agent says", &explanation));
        Ok(())
    }

    /// Whether an address is the node's, and no object has it.
    fn is_unnamed_device(&self, address: IpAddr) -> Result<bool> {
        let output = self.netns(&Host::Node)?.spawn(
            Command::new("ip").args(["-o", "address"]).stdout(std::process::Stdio::piped()),
        )?;
        let output = output.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let is_own = text
            .split_whitespace()
            .any(|word| word.split('/').next().and_then(|word| word.parse().ok()) == Some(address));
        Ok(is_own && !NODE.contains(&address))
    }

    fn explain_from_files(&self, source: &str, probe: Probe) -> Result<Explanation> {
        let read = manifests::read(&[self.manifests().folder().to_owned()], &mut std::io::empty());
        let objects = read.objects.into_iter().map(|read| read.object);
        let is_judged = self.agent_config().options.iter().any(|option| option == "judge");
        let egress = if is_judged { OwnNodeEgress::Judge } else { OwnNodeEgress::Allow };
        let mut cluster =
            OfflineCluster::new(|| Engine::Reference, Vec::new()).with_own_node_egress(egress);
        cluster.set(objects.collect())?;
        let question = Question {
            from: resolve(cluster.state(), source, None)?,
            to: PodOrIp::Address(probe.destination.ip()),
            port: PortChoice::Number(probe.destination.port()),
            transport: transport(probe.protocol),
        };
        let none: [Diagnostic; 0] = [];
        Ok(cluster.explain(&question, &none))
    }

    fn explain_from_agent(&self, source: &str, to: IpAddr, probe: Probe) -> Result<Explanation> {
        let mut command = Command::new(binary("netpol-agent")?);
        command.args(["explain", "--from", source, "--to", &to.to_string()]);
        command.args(["--port", &probe.destination.port().to_string()]);
        command.args(["--protocol", &probe.protocol.to_string(), "-o", "json", "--socket"]);
        let output = command.arg(self.agent_config().socket()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.stdout.is_empty() {
            bail!("explain from {source} to {to}: {said}");
        }
        serde_json::from_slice(&output.stdout).context("reading the explanation of the agent")
    }
}

const fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}
