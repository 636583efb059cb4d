//! The demo: a node with pods on this machine, one example after the other, and the connections that remain possible.
//!
//! Only the cluster is simulated. Network namespaces stand for pods, which the real `netpol-cni` connects, chained behind
//! Debian's `bridge` and `host-local`. The real agent reads the manifests. Every cell is measured with real packets and
//! compared with the verdict of the reference semantics for the same manifests. Needs root.

mod acts;
mod cast;
mod matrix;
mod outage;
mod screen;
mod verdicts;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use self::acts::{ACTS, Act, DELEGATE, DELEGATED, OPEN, REDIS, RELABELLED};
use self::cast::{
    CLIENT, CLIENT_LABELS, CLIENT_OF_REDIS_LABELS, NAMESPACES, SELF_MANAGED_LABELS, SHOP, pods,
};
use self::matrix::Matrix;
use self::outage::Outage;
use self::screen::Check;
use crate::node::topology::Wiring;
use crate::node::wait::{Look, until};
use crate::node::{Host, Lab, labels};
use crate::{binaries, repository};

/// The lab's name.
const NAME: &str = "demo";

/// Deadline for a policy change, which takes milliseconds on an idle machine.
const CONVERGENCE_LIMIT: Duration = Duration::from_secs(10);

/// What happens to the lab at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is removed.
    Remove,
    /// It keeps running, for inspection.
    Keep,
}

/// Runs the demo; returns the number of deviations from the Kubernetes API.
///
/// # Errors
/// The set-up failed: that says nothing about policies.
pub fn run(ending: Ending) -> Result<usize> {
    let mut demo = Demo::prepare()?;
    let n_acts = ACTS.len() + 3;
    for (number, act) in ACTS.iter().enumerate() {
        screen::heading(&format!("{} of {n_acts}  {}", number + 1, act.title()));
        demo.play(act)?;
    }
    screen::heading(&format!("{} of {n_acts}  {}", n_acts - 2, DELEGATE.title()));
    demo.delegate()?;
    screen::heading(&format!("{} of {n_acts}  a label, live", n_acts - 1));
    demo.relabel()?;
    screen::heading(&format!("{n_acts} of {n_acts}  kill -9 of the agent, under traffic"));
    demo.outage()?;
    demo.conclude(ending)
}

/// Removes a lab that was kept.
///
/// # Errors
/// It is in use, or something could not be removed.
pub fn remove() -> Result<()> {
    Lab::remove(NAME)
}

/// The file of [`examples`] with pods instead of a policy, for commands without a cluster.
pub const PODS: &str = "pods.yaml";

/// The folder of the policies.
pub fn examples() -> PathBuf {
    repository::path("deploy/examples")
}

/// The name of an example in the watched folder, which has no folders in it.
fn name_of(file: &str) -> Result<&str> {
    let name = Path::new(file).file_name().and_then(OsStr::to_str);
    name.with_context(|| format!("{file} is not the name of a file"))
}

/// The matrices after convergence.
struct Converged {
    seen: Matrix,
    /// The reference's.
    expected: Matrix,
    /// The one written in [`acts`].
    written: Matrix,
}

/// The running demo.
struct Demo {
    lab: Lab,
    began: Instant,
    /// The matrix without policies.
    open: Matrix,
    n_cells: usize,
    n_faults: usize,
}

impl Demo {
    #[expect(clippy::disallowed_methods, reason = "the demo says how long it took")]
    fn prepare() -> Result<Self> {
        let began = Instant::now();
        screen::heading("netpol demo: one node, seven pods, two hosts outside of the cluster");
        let progress = screen::progress("making the node's network and starting the agent");
        let mut lab = Lab::create(NAME, Wiring::Bridge)?;
        for (name, pairs) in NAMESPACES {
            lab.apply_namespace(name, &labels(pairs))?;
        }
        lab.start_agent()?;
        drop(progress);
        for pod in pods() {
            let _progress = screen::progress(&format!("CNI ADD of the pod {}", pod.full_name()));
            lab.add_pod(pod)?;
        }
        screen::line(
            "The pods are network namespaces on this machine, made by netpol-cni behind the plugins bridge and\n\
             host-local; netpol-agent watches a directory of manifests. Each mark below is real packets over IPv4\n\
             and IPv6: ✔ they pass, ✘ they do not. Rows connect to columns.",
        );
        let open = Matrix::parse(OPEN)?;
        let mut demo = Self { lab, began, open, n_cells: 0, n_faults: 0 };
        let open = demo.converge(OPEN)?;
        demo.tell("no policy", &open);
        demo.open = open.seen;
        Ok(demo)
    }

    /// Applies policies and removes them.
    fn play(&mut self, act: &Act) -> Result<()> {
        screen::line(act.meaning);
        self.apply(act)?;
        let after = self.converge(act.expected)?;
        screen::before_and_after(&self.open, &after.seen);
        self.tell(&act.title(), &after);
        self.remove(act)
    }

    /// Removes the policies of an act.
    fn remove(&mut self, act: &Act) -> Result<()> {
        for file in act.files {
            self.lab.manifests().remove(name_of(file)?)?;
        }
        let open = self.converge(OPEN)?;
        self.tell("removed again", &open);
        self.open = open.seen;
        Ok(())
    }

    /// Lets the policies of a namespace decide, by a label of the namespace.
    fn delegate(&mut self) -> Result<()> {
        screen::line(DELEGATE.meaning);
        self.apply(&DELEGATE)?;
        let before = self.converge(DELEGATE.expected)?;
        self.lab.apply_namespace(SHOP, &labels(&SELF_MANAGED_LABELS))?;
        let after = self.converge(DELEGATED)?;
        screen::before_and_after(&before.seen, &after.seen);
        self.tell(&DELEGATE.title(), &before);
        self.tell("with the label", &after);
        self.lab.apply_namespace(SHOP, &labels(&[]))?;
        self.remove(&DELEGATE)
    }

    /// Gives a running pod access by a label.
    fn relabel(&mut self) -> Result<()> {
        screen::line(&format!(
            "{} again; then the running client pod is given the label role=redis-client.",
            REDIS.title()
        ));
        self.apply(&REDIS)?;
        let before = self.converge(REDIS.expected)?;
        self.lab.relabel(CLIENT, &labels(&CLIENT_OF_REDIS_LABELS))?;
        let after = self.converge(RELABELLED)?;
        screen::before_and_after(&before.seen, &after.seen);
        self.tell(&REDIS.title(), &before);
        self.tell("with the label", &after);
        Ok(())
    }

    /// Kills the agent and starts another.
    fn outage(&mut self) -> Result<()> {
        let _progress = screen::progress("packets flow");
        let mut outage = Outage::begin(&self.lab)?;
        let agent = self.lab.take_agent()?;
        let pid = agent.pid();
        agent.kill()?;
        screen::line(&format!("The agent (pid {pid}) is killed: no agent runs now."));
        outage.flow()?;
        let alone = self.converge(RELABELLED)?;
        self.tell("new connections while no agent runs", &alone);
        self.lab.start_agent()?;
        screen::line("Another agent starts and takes over what the kernel holds.");
        outage.flow()?;
        for check in outage.end(&self.lab)? {
            self.count(&check);
        }
        self.lab.relabel(CLIENT, &labels(&CLIENT_LABELS))?;
        let after = self.converge(REDIS.expected)?;
        self.tell("the new agent takes the label's access away", &after);
        Ok(())
    }

    fn conclude(self, ending: Ending) -> Result<usize> {
        let Self { lab, began, open: _, n_cells, n_faults } = self;
        screen::heading("result");
        let seconds = began.elapsed().as_secs();
        let text =
            format!("{n_cells} cells compared with the reference, {n_faults} faults, {seconds} s");
        screen::check(&Check { text, n_faults });
        match ending {
            Ending::Remove => drop(lab),
            Ending::Keep => {
                screen::heading("the demo's node stays");
                screen::line(&how_to_look_around(&lab)?);
                lab.keep();
            }
        }
        Ok(n_faults)
    }

    fn apply(&self, act: &Act) -> Result<()> {
        for file in act.files {
            let path = examples().join(file);
            let policy = std::fs::read_to_string(&path);
            let policy = policy.with_context(|| format!("reading {}", path.display()))?;
            self.lab.manifests().write(name_of(file)?, &policy)?;
        }
        Ok(())
    }

    /// Sends packets until the outcomes match the reference's verdicts for the current manifests, or the deadline passes.
    fn converge(&self, written: &str) -> Result<Converged> {
        let _progress = screen::progress("sending packets");
        let expected = verdicts::reference(self.lab.manifests().folder())?;
        let mut seen = None;
        let converged = until("every packet as expected", CONVERGENCE_LIMIT, || {
            let matrix = seen.insert(verdicts::observed(&self.lab)?);
            let n = matrix.differences(&expected).len();
            Ok(if n == 0 { Look::Done(()) } else { Look::NotYet(format!("{n} cells otherwise")) })
        });
        // Without a matrix the error is not about packets.
        let Some(seen) = seen else { return converged.and(Err(anyhow!("no packets were sent"))) };
        Ok(Converged { seen, expected, written: Matrix::parse(written)? })
    }

    /// Shows the outcome: packets compared with the reference, and the reference compared with the hand-written matrix.
    fn tell(&mut self, what: &str, converged: &Converged) {
        let Converged { seen, expected, written } = converged;
        let n_tried = seen.n_tried();
        self.n_cells += n_tried;
        let mut differences: Vec<_> =
            seen.differences(expected).iter().map(ToString::to_string).collect();
        let doubts = expected.differences(written);
        differences.extend(doubts.iter().map(|doubt| format!("the reference has {doubt}")));
        let n_good = n_tried.saturating_sub(differences.len());
        let text = format!("{what}: {n_good} of {n_tried} cells as they should be");
        self.count(&Check { text, n_faults: differences.len() });
        for difference in differences {
            screen::line(&format!("    {difference}"));
        }
    }

    fn count(&mut self, check: &Check) {
        self.n_faults += check.n_faults;
        screen::check(check);
    }
}

/// Commands for inspecting a demo that keeps running.
fn how_to_look_around(lab: &Lab) -> Result<String> {
    let client = lab.netns(&Host::pod(CLIENT))?.name();
    let node = lab.netns(&Host::Node)?.name();
    let agent = binaries::binary("netpol-agent")?;
    let (agent, socket) = (agent.display(), lab.agent_config().socket());
    let socket = socket.display();
    let folder = lab.folder();
    let folder = folder.display();
    Ok(format!(
        "  inside the client pod   sudo ip netns exec {client} bash\n\
         \x20 on the node             sudo nsenter --net=/run/netns/{node} bash\n\
         \x20 what is in force        sudo {agent} status --socket {socket}\n\
         \x20 why                     sudo {agent} explain --from {CLIENT} --to shop/redis --port 6379 --socket {socket}\n\
         \x20 what was dropped        sudo {agent} drops --socket {socket}\n\
         \x20 manifests, watched      {folder}/manifests\n\
         \x20 log of the agent        {folder}/agent.log\n\
         \x20 remove it               cargo xtask demo --remove"
    ))
}

#[cfg(test)]
mod tests;
