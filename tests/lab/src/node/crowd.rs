//! Many pods at once.

use std::thread;

use anyhow::{Result, ensure};

use super::cni;
use super::{Lab, Pod, PodSpec, netns};

impl Lab {
    /// Connects pods concurrently, as a runtime does that starts all of them. No process runs in them.
    ///
    /// # Errors
    /// As [`Lab::add_pod`]; the first failure.
    pub fn add_pods_at_once(&mut self, specs: Vec<PodSpec>) -> Result<()> {
        let mut prepared = Vec::new();
        for spec in specs {
            let netns = self.prepare_pod(&spec)?;
            let uid = self.uid(&spec.full_name());
            let container = self.container(&spec, &netns);
            prepared.push((spec, uid, container));
        }
        let containers = prepared.iter().map(|(_, _, container)| container);
        let results = self.network.add_at_once(containers);
        for ((spec, uid, container), result) in prepared.into_iter().zip(results) {
            let result = result?;
            let addresses = cni::addresses(&result)?;
            self.manifests.write_object(&spec.file(), &spec.object(&uid, &addresses))?;
            let name = spec.full_name();
            self.pods.insert(name, Pod { spec, uid, container, result, addresses, server: None });
        }
        Ok(())
    }

    /// Disconnects pods concurrently, twice, as a runtime does that restarts in between. Then deletes them.
    ///
    /// # Errors
    /// There is no such pod, a plugin failed, or something could not be removed.
    pub fn delete_pods_at_once(&mut self, names: &[String]) -> Result<()> {
        let mut pods = Vec::new();
        for name in names {
            pods.extend(self.pods.remove(name));
        }
        ensure!(pods.len() == names.len(), "{} of {} pods exist", pods.len(), names.len());
        let network = &self.network;
        for _ in 0..2 {
            thread::scope(|scope| {
                let del = |pod: &'_ Pod| network.del(&pod.container, Some(&pod.result));
                let running: Vec<_> =
                    pods.iter().map(|pod| scope.spawn(move || del(pod))).collect();
                running.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })?;
        }
        for pod in pods {
            netns::delete(pod.container.netns.name())?;
            self.manifests.remove(&pod.spec.file())?;
        }
        Ok(())
    }
}
