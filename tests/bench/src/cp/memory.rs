//! Memory per object: the agent's memory with many objects of a kind, compared with none.

use anyhow::Result;

use super::agent::Node;
use crate::scale::Shape;
use crate::{Run, clock};

/// A cluster and the agent's memory with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    /// The cluster.
    pub(super) shape: Shape,
    /// `VmRSS`, megabytes.
    pub(super) megabytes: f64,
}

impl Resident {
    fn measure(run: &Run, what: &str, shape: Shape) -> Result<Self> {
        run.say(&format!("the agent with {what}"));
        let mut node = Node::start(&shape)?;
        node.reactions(1)?;
        Ok(Self { shape, megabytes: node.memory("VmRSS")? })
    }

    /// Bytes per object, for `n` objects that this cluster has and the other one has not.
    fn each(&self, n_objects: usize, without_megabytes: f64) -> Result<f64> {
        let n_objects = clock::number(u64::try_from(n_objects)?);
        Ok((self.megabytes - without_megabytes) * 1e6 / n_objects.max(1.0))
    }
}

/// Measures the remaining clusters and reports the costs of an object.
pub(super) fn measure(run: &mut Run, large: Resident, many: Resident) -> Result<()> {
    let empty = Shape { n_namespaces: 1, n_pods: 0, n_policies: 0, n_apps: 1, n_local: 0 };
    let namespaces = Shape { n_namespaces: many.shape.n_namespaces, ..empty };
    let policies = Shape { n_policies: many.shape.n_policies, ..namespaces };
    let empty = Resident::measure(run, "nothing to watch", empty)?;
    let namespaces = Resident::measure(run, "namespaces only", namespaces)?;
    let policies = Resident::measure(run, "namespaces and policies", policies)?;
    let namespace = namespaces.each(namespaces.shape.n_namespaces, empty.megabytes)?;
    let policy = policies.each(policies.shape.n_policies, namespaces.megabytes)?;
    let rare = many.each(many.shape.n_pods, policies.megabytes)?;
    let of = |n_objects: usize, bytes: f64| -> Result<f64> {
        Ok(clock::number(u64::try_from(n_objects)?) * bytes / 1e6)
    };
    let others = of(large.shape.n_namespaces, namespace)? + of(large.shape.n_policies, policy)?;
    let alike = large.each(large.shape.n_pods, empty.megabytes + others)?;
    run.note(format!(
        "With nothing to watch the agent has {:.1} MB. A namespace costs it {namespace:.0} bytes, a policy {policy:.0} (most \
         say the same as others), a pod {alike:.0} where ten have the same labels and {rare:.0} where two have.",
        empty.megabytes,
    ));
    Ok(())
}
