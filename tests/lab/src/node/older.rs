//! Pods that run without the agent's knowledge, and what it says about them.

use anyhow::{Context as _, Result};

use super::{Lab, PodSpec};

impl Lab {
    /// Creates a pod as the kubelet did before netpol came to the node: no plugin of ours is asked.
    ///
    /// # Errors
    /// As [`Lab::add_pod`].
    pub fn add_older_pod(&mut self, spec: PodSpec) -> Result<()> {
        let netns = self.prepare_pod(&spec)?;
        let ours = self.network.clone();
        self.network = ours.without("netpol-cni");
        let outcome = self.connect_pod(spec, &netns, |_netns| Ok(()));
        self.network = ours;
        outcome
    }

    /// What the running agent tells about itself.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn status(&self) -> Result<netpol_agent::agent::Status> {
        let text = self.place.ask(&["status", "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("understanding {text}"))
    }
}
