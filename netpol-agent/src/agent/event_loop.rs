//! The event loop: applies one input after the other to the state, writes the state to the maps, and starts slow work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;
use netpol_datapath::netfilter::NetfilterNews;
use netpol_datapath::netlink::{self, DeviceNews, FilterChange};
use netpol_policy::dataplane::port::Kernel;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::answers::handle::Question;
use super::backlog::Backlog;
use super::clock::unix_now;
use super::endpoints::search::Searches;
use super::object_source::ObjectSource;
use super::state::Agent;
use super::state::held_policies::{NamespaceAnswer, NamespaceQuestion};
use super::upkeep::worker::Worker;
use crate::cni_server::Call;
use crate::discovery::Found;

/// Number of source updates or calls that are applied before the maps are updated, so that a burst costs one update.
const BATCH: usize = 64;
/// Interval in which failed work is repeated and deadlines are checked.
const TICK: Duration = Duration::from_secs(1);

/// The inputs of the event loop.
pub(super) struct Inputs<K> {
    /// Updates of the sources.
    pub(super) updates: Arc<Backlog>,
    /// Calls of the CNI plugin.
    pub(super) calls: mpsc::Receiver<Call>,
    /// What is watched on the node.
    pub(super) node: NodeWatch,
    /// Questions from the control socket and the health address.
    pub(super) questions: mpsc::Receiver<Question<K>>,
    /// Answers to the questions for namespaces.
    pub(super) namespaces: mpsc::Receiver<(NamespaceQuestion, NamespaceAnswer)>,
    /// Running pods that a search has found.
    pub(super) found: mpsc::Receiver<Vec<Found>>,
    /// The runtime has written a CNI result.
    pub(super) results: mpsc::Receiver<()>,
}

/// What is watched on the node.
pub(super) struct NodeWatch {
    /// New interfaces, and the node's devices after each change.
    pub(super) devices: mpsc::Receiver<DeviceNews>,
    /// Changes of clsact filters.
    pub(super) filters: mpsc::Receiver<FilterChange>,
    /// The netfilter rules of others, after each change.
    pub(super) netfilter: mpsc::Receiver<NetfilterNews>,
}

/// Runs until `cancel` is cancelled.
#[expect(clippy::disallowed_methods, reason = "the state gets the time from here")]
pub(super) async fn run<K: Kernel>(
    mut agent: Agent<K>,
    inputs: Inputs<K>,
    mut searches: Searches,
    source: &ObjectSource,
    worker: &Worker,
    cancel: &CancellationToken,
) {
    let Inputs {
        updates,
        mut calls,
        node: NodeWatch { mut devices, mut filters, mut netfilter },
        mut questions,
        mut namespaces,
        mut found,
        mut results,
    } = inputs;
    let (migrated_in, mut migrated) = mpsc::channel(1);
    let (collected_in, mut collected) = mpsc::channel(1);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    let mut called = Vec::new();
    let mut has_source = true;
    loop {
        let times = [
            agent.next_deadline(),
            agent.next_gc(),
            agent.next_look_at_pod_ends(),
            agent.next_unblocking(),
        ];
        let deadline = times.into_iter().flatten().min();
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            n = calls.recv_many(&mut called, BATCH), if !calls.is_closed() || !calls.is_empty() => {
                if n == 0 {
                    error!("CNI server has ended: the CNI plugin is not answered any more");
                }
                for call in called.drain(..) {
                    agent.call(call, Instant::now());
                }
                source.look_up(agent.unknown_pods());
            }
            Some(news) = devices.recv() => apply_news(&mut agent, news, Instant::now()),
            Some(change) = filters.recv() => agent.filters_changed(&[change], Instant::now()),
            Some(news) = netfilter.recv() => agent.set_netfilter(news),
            n = updates.take_many(&mut batch, BATCH), if has_source => {
                if n == 0 {
                    has_source = false;
                    error!("source of objects has ended; the last state stays in force");
                }
                for (arrived, update) in batch.drain(..) {
                    for object in agent.update(update) {
                        source.report(&mut agent, object, Instant::now());
                    }
                    agent.arrived(arrived);
                }
            }
            Some((question, answer)) = namespaces.recv() => agent.answer_namespace(question, answer),
            Some(found) = found.recv() => agent.adopt(found, Instant::now()),
            Some(()) = results.recv() => searches.record_result(),
            Some((ifindex, migration)) = migrated.recv() => {
                agent.end_migration(ifindex, migration, Instant::now());
            }
            Some(map_gc) = collected.recv() => agent.end_gc(map_gc, Instant::now()),
            Some(question) = questions.recv() => question(&mut agent),
            // The order is by priority (`biased`): no other input is waiting.
            _ = tick.tick() => agent.tick(Instant::now()),
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {}
        }
        finish_step(&mut agent, source, &mut searches);
        if let Some(migration) = agent.begin_migration(Instant::now()) {
            let migrated_in = migrated_in.clone();
            worker.run(move || {
                // If the event loop has ended, the next agent finishes the migration.
                drop(migrated_in.blocking_send(K::run_migration(migration)));
            });
        }
        if let Some(map_gc) = agent.begin_gc(Instant::now()) {
            let collected_in = collected_in.clone();
            worker.run(move || {
                // If the event loop has ended, the next agent collects the rest when it starts.
                drop(collected_in.blocking_send(K::run_gc(map_gc)));
            });
        }
    }
}

fn apply_news<K: Kernel>(agent: &mut Agent<K>, news: DeviceNews, now: Instant) {
    match news {
        DeviceNews::Veth { ifindex, device } => agent.interface_appeared(ifindex, device, now),
        DeviceNews::All(devices) => {
            agent.set_devices(devices, |ifindex| device_name(ifindex).is_some(), now);
        }
    }
}

/// Writes the state to the maps after an input, answers, and reports what has been found.
#[expect(clippy::disallowed_methods, reason = "the state gets the time from here")]
fn finish_step<K: Kernel>(agent: &mut Agent<K>, source: &ObjectSource, searches: &mut Searches) {
    agent.look_at_pod_ends(Instant::now());
    agent.unblock_unidentified(Instant::now());
    // First, because the other nodes need longer than the maps of this one.
    agent.publish();
    agent.sync();
    agent.record_rules(Instant::now());
    agent.report_in_force();
    for object in agent.take_found() {
        source.report(agent, object, Instant::now());
    }
    source.ask(agent);
    agent.expire(Instant::now());
    agent.end_step(Instant::now());
    agent.record_time(unix_now().as_secs());
    if agent.missing().is_empty() {
        searches.start(agent.wanted(), Instant::now());
        if !agent.is_stale() {
            source.set_serving();
        }
    }
}

/// The name of the device with this index in the agent's network namespace, if there is one.
pub(super) fn device_name(ifindex: IfIndex) -> Option<String> {
    netlink::device_name(ifindex).ok()
}
