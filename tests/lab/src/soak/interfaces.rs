//! Transient interfaces of a soak.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use netpol_policy::model::Kind;
use netpol_proto::Request;

use super::cluster_model::{ClusterModel, NAMESPACE, add, attachment, expect_ok, local_pod};
use crate::fake_api::FakeApi;
use crate::node::netns::Netns;
use crate::node::{Host, Lab};

/// Pause between two interfaces.
const INTERFACE_PAUSE: Duration = Duration::from_millis(200);

impl ClusterModel {
    /// Starts a thread that makes and removes interfaces.
    pub(super) fn begin_interfaces(&self, lab: &Lab) -> Result<Interfaces> {
        let stop = Arc::new(AtomicBool::new(false));
        let work = InterfaceWork {
            node: lab.netns(&Host::Node)?.clone(),
            socket: lab.agent_config().socket(),
            api: Arc::clone(&self.api),
            stop: Arc::clone(&stop),
        };
        Ok(Interfaces { stop, thread: thread::spawn(move || work.run()) })
    }
}

/// The thread of transient interfaces.
pub(super) struct Interfaces {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Interfaces {
    /// Stops the thread; returns the number of interfaces.
    pub(super) fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct InterfaceWork {
    node: Netns,
    socket: PathBuf,
    api: Arc<FakeApi>,
    stop: Arc<AtomicBool>,
}

impl InterfaceWork {
    fn run(&self) -> Result<u64> {
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let name = format!("passing-{n}");
            self.api.put(local_pod(&name, 0, None)).context("a pod")?;
            self.node.configure("link add svx type veth peer name swx\nlink set svx up\n")?;
            let interface = self.node.interface_index("svx")?;
            let address = Ipv4Addr::new(10, 252, 0, 1);
            let added = add(&name, &format!("passing-{n}"), "svx", interface, address);
            expect_ok(&self.socket, &Request::Add(added))?;
            self.api.put(local_pod(&name, 0, Some(address))).context("a pod")?;
            expect_ok(&self.socket, &Request::Del(attachment(&format!("passing-{n}"))))?;
            self.node.configure("link delete svx\n")?;
            self.api.delete(Kind::Pod, NAMESPACE, &name).context("a pod")?;
            n += 1;
            thread::sleep(INTERFACE_PAUSE);
        }
        Ok(n)
    }
}
