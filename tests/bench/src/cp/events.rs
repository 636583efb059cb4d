//! Row 13: from the event of one pod to the updated kernel maps.

use anyhow::{Context as _, Result};
use netpol_datapath::{Config, Datapath};
use netpol_policy::dataplane::port::Maps as _;

use crate::gates::Unit;
use crate::scale::{ClusterModel, Follower, Shape, events};
use crate::stats::quantile;
use crate::{Line, Run, Series, clock};

/// Measures.
pub(super) fn measure(run: &mut Run) -> Result<()> {
    let shape = super::shape(run, Shape::MEDIUM);
    let mut kernel = Datapath::load(&Config::private()).context("loading the programs")?;
    let cluster = ClusterModel::new(&shape);
    let mut follower = Follower::read(cluster.clone().into_deltas());
    kernel.apply(&follower.update()).context("filling the maps")?;
    let mut events = events(&shape);
    let n_events = run.size(4_000, 100);
    let names = [
        "half of them",
        "99 of 100",
        "99 of 100, without the kernel",
        "everything, from decoded objects",
    ];
    let mut lines = names.map(|name| Line::new(name.to_owned()));
    for round in 0..run.n_rounds() {
        run.say(&format!("pod events: round {} of {}", round + 1, run.n_rounds()));
        let (mut whole, mut core) = (Vec::new(), Vec::new());
        for delta in events.by_ref().take(n_events) {
            let (core_us, ops) = clock::micros(|| {
                follower.apply(delta);
                Ok(follower.update())
            })?;
            let (kernel_us, ()) = clock::micros(|| Ok(kernel.apply(&ops)?))?;
            core.push(core_us);
            whole.push(core_us + kernel_us);
        }
        let deltas = cluster.clone().into_deltas();
        let (cold_us, other) = clock::micros(|| {
            let mut follower = Follower::read(deltas);
            drop(follower.update());
            Ok(follower)
        })?;
        drop(other);
        let found = [quantile(&whole, 0.5), quantile(&whole, 0.99), quantile(&core, 0.99), cold_us];
        for (line, sample) in lines.iter_mut().zip(found) {
            line.samples.push(sample);
        }
    }
    let series = Series {
        title: "the news of a pod, 10k pods and 1k policies: until the maps hold what follows".to_owned(),
        unit: Unit::Micros,
        baseline: None,
        note: "Pods come, go, change labels to known ones and to unknown ones, or change nothing that matters, all \
               equally often."
            .to_owned(),
        lines: lines.into(),
    };
    run.answer("13a", series.level(names[1])?, "kernel included, map swaps too")?;
    run.answer("13b", series.ratio(names[1], names[3])?, "")?;
    run.add(series);
    Ok(())
}
