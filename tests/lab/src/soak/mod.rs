//! Load for minutes: pods are created and deleted all over the cluster while a full node enforces policies.
//!
//! In: duration, rate, and size. Out: a [`Report`]. The node has the real agent, an API server, endpoints with interfaces,
//! pods with real traffic, and transient interfaces. Verdicts come from the kernel: `BPF_PROG_TEST_RUN` with the pinned maps.
//! An address always belongs to pods of one group, so it is known at any time what must not pass.

mod cluster_model;
mod interfaces;
mod measure;
mod outage;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

use self::cluster_model::ClusterModel;
pub use self::measure::Measure;
pub use self::outage::Outage;
use crate::node::topology::Wiring;
use crate::node::wait::{LIMIT, Look, until};
use crate::node::{Family, Host, Lab, PodSpec, Stream, labels};
pub use crate::options::Soak as Options;
use crate::probe::Protocol;

/// The load and its outcome.
#[derive(Clone, Debug)]
pub struct Report {
    /// Duration without set-up.
    pub lasted: Duration,
    /// Pods created, and as many deleted.
    pub n_pods: u64,
    /// Transient interfaces: made, ADD, DEL, removed.
    pub n_interfaces: u64,
    /// Changes of policies.
    pub n_policies: u64,
    /// Verdicts checked at any time.
    pub n_verdicts: u64,
    /// Verdicts for transient pods, checked when all changes were known to be in force.
    pub n_converged_verdicts: u64,
    /// Delay from a pod's creation at the API server to the first passing packet, and likewise for its deletion; sorted.
    pub lags: Vec<Duration>,
    /// Answered messages of real pods.
    pub n_answers: u64,
    /// The API server's outage, if there was one.
    pub outage: Option<Outage>,
    /// Resources before the load, after a warm-up.
    pub before: Measure,
    /// Resources after it.
    pub after: Measure,
}

impl Report {
    /// As text.
    pub fn text(&self) -> String {
        let seconds = self.lasted.as_secs_f64();
        let lag = |share: usize| {
            let at = self.lags.len().saturating_sub(1) * share / 100;
            self.lags.get(at).copied().unwrap_or_default().as_millis()
        };
        let outage = self.outage.as_ref().map(Outage::text).unwrap_or_default();
        format!(
            "{seconds:.0} s, {} pods created and deleted ({:.0}/s), {} interfaces added and deleted ({:.1}/s), {} policy \
             changes\nverdicts: {} at any time and {} after convergence, all correct; {} messages of real pods answered, none \
             lost or leaked\nfrom the API server to the kernel: median {} ms, 90 % {} ms, longest {} ms ({} changes)\n\
             {outage}before {}\nafter  {}\nratio of memory {:.3}\n",
            self.n_pods,
            precise(self.n_pods) / seconds,
            self.n_interfaces,
            precise(self.n_interfaces) / seconds,
            self.n_policies,
            self.n_verdicts,
            self.n_converged_verdicts,
            self.n_answers,
            lag(50),
            lag(90),
            lag(100),
            self.lags.len(),
            self.before,
            self.after,
            self.after.memory_ratio(&self.before),
        )
    }
}

fn precise(n: u64) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

/// Interval between rounds of load.
const ROUND: Duration = Duration::from_millis(100);

/// Rounds between two convergence checks.
const ROUNDS_PER_CHECK: u64 = 20;

/// Verdicts checked in every round.
const N_VERDICTS: u32 = 20;

/// Puts load on a node. Needs root.
///
/// # Errors
/// A verdict is wrong, traffic is lost or leaked, resources leak, or the lab cannot be made.
pub fn run(options: &Options) -> Result<Report> {
    let mut lab = Lab::create("soak", Wiring::Bridge)?;
    lab.apply_namespace(cluster_model::NAMESPACE, &labels(&[]))?;
    lab.start_api_server()?;
    lab.start_agent()?;
    let streams = Streams::begin(&mut lab)?;
    let report = lab.netns(&Host::Node)?.inside(|| load(&lab, options));
    let n_answers = streams.end();
    let report =
        report.with_context(|| format!("the agent's folder was {}", lab.folder().display()));
    let mut report = report.with_context(|| last_lines(&lab.agent_log().unwrap_or_default()))?;
    report.n_answers = n_answers?;
    report.after.check_against(&report.before).with_context(|| report.text())?;
    Ok(report)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}

/// The load itself, in the node's network namespace.
#[expect(clippy::disallowed_methods, reason = "load has a pace")]
fn load(lab: &Lab, options: &Options) -> Result<Report> {
    let Options { seconds, pods_per_second, n_endpoints, outage_seconds } = *options;
    let mut cluster = ClusterModel::build(lab, n_endpoints)?;
    let mut rng = Rng::with_seed(crate::settings::seed());
    let n_each_round = pods_per_second.div_ceil(10);
    let mut report = Report {
        lasted: Duration::ZERO,
        n_pods: 0,
        n_interfaces: 0,
        n_policies: 0,
        n_verdicts: 0,
        n_converged_verdicts: 0,
        lags: Vec::new(),
        n_answers: 0,
        outage: None,
        before: Measure::default(),
        after: Measure::default(),
    };
    // The warm-up fills caches, thread pools, and the allocator.
    for phase in [Duration::from_secs((seconds / 5).clamp(3, 30)), Duration::from_secs(seconds)] {
        let mut now = Report { before: report.after.clone(), ..report.clone() };
        (now.n_pods, now.n_interfaces, now.n_policies) = (0, 0, 0);
        (now.n_verdicts, now.n_converged_verdicts) = (0, 0);
        now.lags.clear();
        let begin = Instant::now();
        let interfaces = cluster.begin_interfaces(lab)?;
        let mut next = begin;
        for round in 1.. {
            now.n_pods += u64::from(cluster.replace_pods(n_each_round)?);
            for _ in 0..N_VERDICTS {
                cluster.ask_stable(&mut rng)?;
                now.n_verdicts += 1;
            }
            if round % 10 == 0 {
                cluster.change_policy(round)?;
                now.n_policies += 1;
            }
            if round % ROUNDS_PER_CHECK == 0 {
                now.lags.extend(cluster.converge()?);
                let in_force = cluster.snapshot();
                now.n_converged_verdicts += cluster.ask_converged(&mut rng, &in_force)?;
            }
            if begin.elapsed() >= phase {
                break;
            }
            next += ROUND;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        now.lasted = begin.elapsed();
        now.n_interfaces = interfaces.end()?;
        // No outage during the warm-up, which has no earlier measurement.
        if outage_seconds > 0 && report.after != Measure::default() {
            let lasts = Duration::from_secs(outage_seconds);
            now.outage = Some(outage::run(lab, &mut cluster, &mut rng, lasts, n_each_round)?);
        }
        cluster.calm()?;
        until("a node at rest", LIMIT, || {
            let found = Measure::take(lab)?;
            let n_identities = ClusterModel::n_stable_identities();
            Ok(if found.is_at_rest(n_endpoints, n_identities) {
                now.after = found;
                Look::Done(())
            } else {
                Look::NotYet(found.to_string())
            })
        })?;
        report = now;
    }
    report.lags.sort_unstable();
    Ok(report)
}

/// Real traffic during the load.
struct Streams {
    allowed: Vec<Stream>,
    denied: Stream,
}

impl Streams {
    fn begin(lab: &mut Lab) -> Result<Self> {
        const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: real, namespace: soak }
spec:
  podSelector: { matchLabels: { app: real } }
  ingress: [{ from: [{ podSelector: { matchLabels: { role: friend } } }] }]
";
        lab.manifests().write("real.yaml", POLICY)?;
        lab.add_pod(PodSpec::new("soak/real", &[("app", "real")], &[80]))?;
        lab.add_pod(PodSpec::new("soak/friend", &[("role", "friend")], &[80]))?;
        lab.add_pod(PodSpec::new("soak/stranger", &[("role", "stranger")], &[80]))?;
        let to = lab.socket_address(&Host::pod("soak/real"), Family::V4, 80)?;
        let (friend, stranger) = (Host::pod("soak/friend"), Host::pod("soak/stranger"));
        let mut allowed = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut stream = lab.stream(&friend, protocol, to, 10_000)?;
            stream.wait_for_answers(1)?;
            allowed.push(stream);
        }
        Ok(Self { allowed, denied: lab.stream(&stranger, Protocol::Udp, to, 10_000)? })
    }

    /// Ends the streams; returns the number of answered messages.
    fn end(self) -> Result<u64> {
        let denied = self.denied.finish()?;
        ensure!(denied.n_received == 0 && denied.n_sent > 0, "a denied stream: {denied:?}");
        let mut n_answers = 0;
        for stream in self.allowed {
            let report = stream.finish()?;
            ensure!(
                report.error.is_none() && report.n_missing() == 0,
                "an allowed stream: {report:?}"
            );
            n_answers += report.n_received;
        }
        Ok(n_answers)
    }
}
