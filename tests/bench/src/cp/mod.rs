//! Suite `cp`: costs of the agent.
//!
//! The core by itself on generated clusters ([`crate::scale`]), with the kernel behind it, and the whole agent on a node
//! with an API server in this process.

mod agent;
pub mod cold;
mod compile;
mod events;
mod hostile;
mod load;
mod memory;

use anyhow::Result;

use super::{Run, Suite};
use crate::scale::Shape;

/// Measures the suite.
///
/// # Errors
/// The set-up failed, or the agent misbehaved.
pub fn measure(run: &mut Run) -> Result<()> {
    let parts: [(&str, Suite); 6] = [
        ("cold", cold::measure),
        ("worst", compile::measure),
        ("events", events::measure),
        ("agent", agent::measure),
        ("load", load::measure),
        ("hostile", hostile::measure),
    ];
    for (part, measure) in parts {
        if run.wants(part) {
            measure(run)?;
        }
    }
    Ok(())
}

/// A shape, or a small one for a quick run.
fn shape(run: &Run, full: Shape) -> Shape {
    if run.settings.is_quick {
        Shape { n_namespaces: 10, n_pods: 400, n_policies: 60, n_apps: 5, n_local: 20 }
    } else {
        full
    }
}
