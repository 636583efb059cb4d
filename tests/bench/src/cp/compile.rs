//! Worst cases of the compiler, and the savings of incremental updates; without the kernel.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use netpol_policy::compile::{MapState, Numbering, compile};
use netpol_policy::dataplane::diff;
use netpol_policy::model::{Kind, NamespaceMatch, Object, ObjectRef, Peer, Requirement, Selector};
use netpol_policy::store::Delta;

use crate::gates::Unit;
use crate::scale::{ClusterModel, Follower, Shape, event, ip_blocks, namespace, select_all};
use crate::{Run, clock};

/// Measures.
pub(super) fn measure(run: &mut Run) -> Result<()> {
    recomputed(run)?;
    worst(run)
}

/// The cost of an agent without incremental state, which processes its lists on each event.
fn recomputed(run: &mut Run) -> Result<()> {
    let shape = super::shape(run, Shape::MEDIUM);
    let mut follower = Follower::read(ClusterModel::new(&shape).into_deltas());
    drop(follower.update());
    let mut ways = ["everything from the lists again", "what the event changes"];
    let mut n_events = 0;
    let series = run.interleaved(
        "one pod comes, 10k pods and 1k policies: until the map operations are known",
        Unit::Micros,
        &mut ways,
        |name| (*name).to_owned(),
        |way, _round| {
            n_events += 1;
            let [comes, goes] =
                event(&shape, n_events, shape.n_pods + n_events, crate::scale::Event::Begins);
            let before = follower.map_state.clone();
            let is_whole = way.starts_with("everything");
            let (time_us, _ops) = clock::thread_micros(|| {
                follower.apply(comes);
                Ok(if is_whole {
                    let mut numbering = Numbering::default();
                    let map_state = compile(&follower.state, &mut numbering, &MapState::default());
                    diff(&before, &map_state)
                } else {
                    follower.update()
                })
            })?;
            follower.apply(goes);
            drop(follower.update());
            Ok(time_us)
        },
    )?;
    run.add(series);
    Ok(())
}

/// A cluster, an event, and the event that undoes it.
struct Case {
    name: &'static str,
    follower: Follower,
    event: Delta,
    undo: Delta,
}

impl Case {
    fn new(name: &'static str, cluster: ClusterModel, event: Delta, undo: Delta) -> Self {
        let mut follower = Follower::read(cluster.into_deltas());
        drop(follower.update());
        Self { name, follower, event, undo }
    }
}

fn everybody_here() -> Peer {
    Peer::Pods { namespaces: NamespaceMatch::Own, pods: Selector::everything() }
}

fn team(name: &str) -> Peer {
    let team = Requirement::In(Arc::from("team"), [Arc::from(name)].into());
    let namespaces = NamespaceMatch::Selected(Selector::new([team]));
    Peer::Pods { namespaces, pods: Selector::everything() }
}

fn numbered(n: usize) -> Peer {
    let pods = Requirement::NotIn(Arc::from("number"), [Arc::from(n.to_string())].into());
    Peer::Pods { namespaces: NamespaceMatch::Own, pods: Selector::new([pods]) }
}

/// The worst cases.
fn worst(run: &mut Run) -> Result<()> {
    let n = |full, quick| run.size(full, quick);
    let (n_pods, n_policies, n_blocks) = (n(20_000, 200), n(1_000, 20), n(100_000, 1_000));
    let crowd =
        Shape { n_namespaces: 2, n_pods, n_policies: 0, n_apps: 10, n_local: 110.min(n_pods) };
    let upsert = |policy| Delta::Upsert(Object::Policy(policy));
    let remove = |policy: &netpol_policy::model::Policy| Delta::Remove {
        object: ObjectRef { kind: Kind::NetworkPolicy, name: policy.name.clone() },
        uid: None,
    };
    let with = |policies: Vec<_>| ClusterModel { policies, ..ClusterModel::new(&crowd) };
    let coming = |name, policy: netpol_policy::model::Policy, policies| {
        let undo = remove(&policy);
        Case::new(name, with(policies), upsert(policy), undo)
    };
    let all = select_all(0, "all", vec![everybody_here()]);
    let many: Vec<_> = (0..n_policies)
        .map(|n| select_all(0, &format!("policy-{n:05}"), vec![numbered(n)]))
        .collect();
    let changed = select_all(0, "policy-00007", vec![everybody_here()]);
    let before = many.get(7).cloned().context("too few policies")?;
    let blocks = ip_blocks(n_blocks);
    let spread: Vec<_> = blocks
        .chunks(n_blocks / 100)
        .zip(0..)
        .map(|(blocks, n)| select_all(0, &format!("blocks-{n:05}"), blocks.to_vec()))
        .collect();
    let [pod_comes, pod_goes] = event(&crowd, 0, 7, crate::scale::Event::Differs);
    let relabelled = |team: &str| Delta::Upsert(Object::Namespace(namespace(1, team)));
    let mut cases = vec![
        coming("a policy that selects all 10k pods of a namespace comes", all, Vec::new()),
        Case::new(
            "1,000 policies on each pod: one changes",
            with(many.clone()),
            upsert(changed),
            upsert(before),
        ),
        Case::new(
            "1,000 policies on each pod: a pod gets labels that nobody has",
            with(many),
            pod_comes,
            pod_goes,
        ),
        Case::new(
            "a namespace with 10k pods gets labels that a policy selects",
            with(vec![select_all(0, "team", vec![team("other")])]),
            relabelled("other"),
            relabelled("none"),
        ),
        coming("a policy with 100k blocks comes", select_all(0, "blocks", blocks), Vec::new()),
        coming(
            "a policy with 4 blocks comes to 100 that have 100k",
            select_all(0, "few", ip_blocks(4)),
            spread,
        ),
    ];
    let series = run.interleaved(
        "the worst that one event can do: until the map operations are known",
        Unit::Millis,
        &mut cases,
        |case| case.name.to_owned(),
        |case, _round| {
            case.follower.apply(case.event.clone());
            let (time_us, ops) = clock::thread_micros(|| Ok(case.follower.update()))?;
            anyhow::ensure!(!ops.is_empty(), "the event changes nothing");
            case.follower.apply(case.undo.clone());
            drop(case.follower.update());
            Ok(time_us / 1e3)
        },
    )?;
    run.add(series.noted(
        "A cluster of two namespaces with 10k pods each, 110 of them local; nothing is quadratic.",
    ));
    Ok(())
}
