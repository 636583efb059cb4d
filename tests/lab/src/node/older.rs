//! Pods that started before netpol was installed, and the agent's status.

use anyhow::{Context as _, Result};

use super::{Lab, PodSpec};

impl Lab {
    /// Creates a pod as before netpol was installed: without our plugin.
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

    /// Connects later pods without this plugin, as a runtime does while another program has rewritten the configuration.
    pub fn skip_plugin(&mut self, plugin: &str) {
        self.network = self.network.without(plugin);
    }

    /// The running agent's status.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn status(&self) -> Result<netpol_agent::agent::Status> {
        let text = self.agent_config.ask(&["status", "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("understanding {text}"))
    }
}
