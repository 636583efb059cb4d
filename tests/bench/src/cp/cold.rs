//! Rows 11 and 12, time: from lists to the map state, from scratch.
//!
//! Each sample is measured in a new process, like an agent that starts: in a reused process a fragmented heap makes a small
//! cluster take twice as long.
//!
//! Included: applying the lists of all kinds, as the watches decode them, and the node's endpoints; compiling; the diff with
//! the empty map state; applying the operations; page faults of new memory. Excluded: making the lists, freeing memory, and
//! the kernel.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::gates::Unit;
use crate::scale::{ClusterModel, Follower, Shape};
use crate::{Run, clock};
use netpol_lab::binaries;

/// The program that measures one sample by [`once`].
const PROGRAM: &str = "cold";

/// One cold compile, milliseconds of processor time. Call it once per process, before other work.
///
/// # Errors
/// Nothing is compiled.
pub fn once(shape: &Shape) -> Result<f64> {
    // No clones: objects stay where they were allocated, in list order.
    let deltas = ClusterModel::new(shape).into_deltas();
    let (time_us, (follower, ops)) = clock::thread_micros(|| {
        let mut follower = Follower::read(deltas);
        let ops = follower.update();
        Ok((follower, ops))
    })?;
    ensure!(!ops.is_empty() && !follower.map_state.endpoints.is_empty(), "nothing is compiled");
    Ok(time_us / 1e3)
}

fn elsewhere(shape: &Shape) -> Result<f64> {
    let Shape { n_namespaces, n_pods, n_policies, n_apps, n_local } = *shape;
    let numbers = [n_namespaces, n_pods, n_policies, n_apps, n_local];
    let mut program = Command::new(binaries::binary(PROGRAM)?);
    let output = program.args(numbers.map(|number| number.to_string())).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().with_context(|| format!("{text:?} is no time"))
}

/// Measures.
pub(super) fn measure(run: &mut Run) -> Result<()> {
    let [medium, large, many] = [
        ("10k pods, 1k policies, 100 namespaces", Shape::MEDIUM),
        ("100k pods, 10k policies, 1k namespaces", Shape::LARGE),
        ("100k pods, 75k policies, 25k namespaces", Shape::MANY_NAMESPACES),
    ]
    .map(|(name, full)| (name, super::shape(run, full)));
    let series = run.interleaved(
        "from decoded objects to the content of the maps, one thread",
        Unit::Millis,
        &mut [medium, large, many],
        |(name, _)| (*name).to_owned(),
        |(_, shape), _round| elsewhere(shape),
    )?;
    let note = "110 local endpoints, dual-stack pods";
    run.answer("11a", series.level(medium.0)?, note)?;
    run.answer("11b", series.level(large.0)?, note)?;
    run.answer("12a", series.level(many.0)?.scaled(1e-3), note)?;
    run.add(series.noted(
        "CPU time of the one thread that does it, in a process that has done nothing else. The lists are in memory, as the \
         watches decode them; the result holds the whole cluster as the node's 110 endpoints need it.",
    ));
    Ok(())
}
