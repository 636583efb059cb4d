//! The load of one agent in a cluster of 5,000 nodes with 1,000 pod updates a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;

use super::agent::Node;
use crate::scale::{self, Shape, json};
use crate::stats::quantile;
use crate::{Run, clock};
use netpol_lab::fake_api::FakeApi;

/// Interval between measured changes.
const TURN: Duration = Duration::from_millis(100);
/// Interval between bursts of updates.
const PAUSE: Duration = Duration::from_millis(10);

/// Measures.
pub(super) fn measure(run: &mut Run) -> Result<()> {
    let full =
        Shape { n_namespaces: 1_500, n_pods: 150_000, n_policies: 3_000, n_apps: 10, n_local: 30 };
    let shape = super::shape(run, full);
    run.say(&format!("the agent with {} pods, 1,000 updates a second", shape.n_pods));
    let mut node = Node::start(&shape)?;
    node.reactions(1)?;
    let before = node.memory("VmRSS")?;
    let (n_sent, n_bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (api, over) = (Arc::clone(&node.api), Arc::clone(&is_over));
        let (n_sent, n_bytes) = (Arc::clone(&n_sent), Arc::clone(&n_bytes));
        thread::spawn(move || write(&api, &shape, &over, &n_sent, &n_bytes))
    };
    let (cpu, begin) = (node.cpu()?, clock::now_ns());
    let limit_ns = u64::try_from(run.size(20, 2))? * 1_000_000_000;
    let mut times = Vec::new();
    let mut outcome = Ok(());
    while clock::now_ns() < begin + limit_ns && outcome.is_ok() {
        let turn = clock::now_ns();
        outcome = node.reactions(1).map(|found| times.extend(found));
        // Changes are paced, because else a faster agent would get more of them.
        thread::sleep(TURN.saturating_sub(Duration::from_nanos(clock::now_ns() - turn)));
    }
    is_over.store(true, Ordering::Relaxed);
    writer.join().ok();
    outcome?;
    let seconds = clock::number(clock::now_ns() - begin) / 1e9;
    let used = (node.cpu()? - cpu) / seconds * 100.0;
    let after = node.memory("VmRSS")?;
    let (sent, bytes) = (
        clock::number(n_sent.load(Ordering::Relaxed)),
        clock::number(n_bytes.load(Ordering::Relaxed)),
    );
    run.note(format!(
        "With {} pods, {} policies and {:.0} pod updates a second ({:.0} kB/s of watch, {:.0} bytes an update) for {seconds:.0} s \
         the agent used {used:.0} % of one processor and {after:.0} MB ({before:.0} MB before); new labels, {:.0} times a second, \
         were in force for packets after {:.1} ms (half) and {:.1} ms (99 of 100).",
        shape.n_pods,
        shape.n_policies,
        sent / seconds,
        bytes / seconds / 1e3,
        bytes / sent.max(1.0),
        clock::number(u64::try_from(times.len())?) / seconds,
        quantile(&times, 0.5),
        quantile(&times, 0.99),
    ));
    Ok(())
}

/// Updates pods: most updates change nothing relevant, some change labels, some replace the pod.
fn write(api: &FakeApi, shape: &Shape, over: &AtomicBool, n_sent: &AtomicU64, n_bytes: &AtomicU64) {
    let mut rng = Rng::with_seed(5);
    let mut n_born = shape.n_pods;
    let begin = clock::now_ns();
    while !over.load(Ordering::Relaxed) {
        let due = (clock::now_ns() - begin) / 1_000_000;
        while n_sent.load(Ordering::Relaxed) < due {
            let mut pod = scale::pod(shape, rng.usize(..shape.n_pods));
            match rng.usize(..10) {
                0 => pod.labels = scale::pod(shape, rng.usize(..shape.n_pods)).labels,
                1 | 2 => {
                    n_born += 1;
                    pod = scale::pod(shape, n_born);
                    let old = scale::pod(shape, n_born.saturating_sub(1_000));
                    api.delete(
                        netpol_policy::model::Kind::Pod,
                        &old.name.namespace,
                        &old.name.name,
                    );
                }
                _ => {}
            }
            let object = json::pod(&pod);
            n_bytes
                .fetch_add(u64::try_from(object.to_string().len()).unwrap_or(0), Ordering::Relaxed);
            api.put(object);
            n_sent.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PAUSE);
    }
}
