//! A second node of the cluster, joined by a real vxlan device or by routes, as with Flannel.
//!
//! It has no CNI plugin, and an agent only if a test is about two of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::agent::{self, Agent, Config};
use super::netns::Netns;
use super::server::Server;
use super::topology::{ETHERNET_MTU, NODE};
use super::{HOST_PORTS, Host, Lab, Labels, PodSpec, teardown};

/// The other node's name.
pub const NAME: &str = "node-2";

/// Its addresses on the hosts' Ethernet.
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0, 0, 0, 0, 2)),
];

/// The addresses of its pod.
pub const POD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 2)),
];

/// The device between the nodes, on both, unless there are only routes.
pub const TUNNEL: &str = "flannel.1";

/// The device of the hosts' Ethernet, on both.
pub const UPLINK: &str = "eth0";

/// The file of its Node object, which it has if only routes lead to it.
pub const NODE_FILE: &str = "node-2.yaml";

/// How packets get from node to node: two backends of Flannel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By a vxlan device for both families.
    Vxlan,
    /// By routes to the other node's address.
    HostGw,
}

impl Backend {
    /// The device through which packets for the other node's pods leave.
    pub const fn device(self) -> &'static str {
        match self {
            Self::Vxlan => TUNNEL,
            Self::HostGw => UPLINK,
        }
    }

    /// The configuration that flanneld makes on node `own`, which has these addresses, for the pods of node `other`.
    fn configuration(
        self,
        (own, own_addresses): (u8, [IpAddr; 2]),
        (other, other_addresses): (u8, [IpAddr; 2]),
    ) -> String {
        let ([own_v4, _], [v4, v6]) = (own_addresses, other_addresses);
        match self {
            Self::Vxlan => tunnel(own, own_v4, other, v4),
            Self::HostGw => format!(
                "route add 10.244.{other}.0/24 via {v4} dev {UPLINK}\n\
                 route add fd00:10:244:{other}::/64 via {v6} dev {UPLINK}\n"
            ),
        }
    }
}

/// The second node. It is removed with the lab.
#[derive(Debug)]
pub struct SecondNode {
    /// Its namespace.
    pub netns: Netns,
    /// Its pod's namespace.
    pub pod: Netns,
    _server: Server,
    agent: Option<Agent>,
}

/// A pod on the second node, of which there is one at a time: each gets another address on the same interface.
#[derive(Debug)]
pub struct NewPod {
    /// Its namespace.
    pub netns: Netns,
    /// The index of its interface on the node.
    pub host_ifindex: u32,
    _server: Server,
}

/// The node's end of a [`NewPod`]'s interface.
const HOST_END: &str = "new0";

impl NewPod {
    /// Gives it an address instead of its last one.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn readdress(
        &self,
        node: &SecondNode,
        before: Option<IpAddr>,
        address: IpAddr,
    ) -> Result<()> {
        if let Some(before) = before {
            node.netns.configure(&format!("route del {before}/32 dev {HOST_END}\n"))?;
        }
        self.netns.configure(&format!(
            "address flush dev eth0\naddress add {address}/32 dev eth0\nroute add default via 10.244.2.1 dev eth0 onlink\n"
        ))?;
        node.netns.configure(&format!("route add {address}/32 dev {HOST_END}\n"))
    }

    /// Gives it another address, of IPv6.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn add_address(&self, node: &SecondNode, address: IpAddr) -> Result<()> {
        let gateway = "fd00:10:244:2::1";
        // The kernel answers for an IPv6 address only on the interface that has it.
        node.netns.configure(&format!(
            "address add {gateway}/128 dev {HOST_END} nodad\nroute add {address}/128 dev {HOST_END}\n"
        ))?;
        self.netns.configure(&format!(
            "address add {address}/128 dev eth0 nodad\nroute add default via {gateway} dev eth0 onlink\n"
        ))
    }
}

impl SecondNode {
    /// Makes the interface of new pods, and a server that answers there as one on a host does.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn add_interface(&self, lab: &Lab) -> Result<NewPod> {
        let netns = Netns::create(&teardown::netns_name(&lab.name, "new"))?;
        self.netns.configure(&format!(
            "link add {HOST_END} type veth peer name eth0 netns {}\nlink set {HOST_END} up\n",
            netns.name()
        ))?;
        netns.configure("link set eth0 up\n")?;
        let host_ifindex = self.netns.interface_index(HOST_END)?;
        let server = Server::start(&netns, &HOST_PORTS)?;
        Ok(NewPod { netns, host_ifindex, _server: server })
    }

    /// Starts an agent on it, which watches the API server of the lab, with these environment variables. Returns its configuration.
    ///
    /// # Errors
    /// The lab has no API server in this process, or the agent does not start.
    pub fn start_agent(&mut self, lab: &Lab, variables: &[&str]) -> Result<Config> {
        let api = lab.shared_api().context("no API server in this process")?;
        self.netns.inside(|| Ok(api.start_again()?)).context("listening on the second node")?;
        let mut config = agent::prepare(&lab.name, NAME, lab.manifests().folder())?;
        config.kubeconfig.clone_from(&lab.agent_config().kubeconfig);
        config.prefix.push("env".to_owned());
        config.prefix.extend(variables.iter().map(|variable| (*variable).to_owned()));
        self.agent = Some(Agent::start(&self.netns, &config)?);
        Ok(config)
    }
}

impl Lab {
    /// Makes the second node and its pod, which answers on port 80. Call it before the agent starts, so that the agent finds the
    /// tunnel.
    ///
    /// # Errors
    /// Something could not be made.
    pub fn add_second_node(&self, pod: &str, labels: &Labels) -> Result<SecondNode> {
        self.add_second_node_by(Backend::Vxlan, pod, labels)
    }

    /// The same with another way between the nodes.
    ///
    /// # Errors
    /// Something could not be made.
    pub fn add_second_node_by(
        &self,
        backend: Backend,
        pod: &str,
        labels: &Labels,
    ) -> Result<SecondNode> {
        let [v4, v6] = ADDRESSES;
        let netns = Netns::create(&teardown::netns_name(&self.name, NAME))?;
        let node = self.netns(&Host::Node)?;
        self.netns(&Host::Office)?.configure(&format!(
            "link add to-node-2 mtu {ETHERNET_MTU} type veth peer name eth0 mtu {ETHERNET_MTU} netns {}\nlink set to-node-2 master eth0 up\n",
            netns.name(),
        ))?;
        netns.configure(&format!(
            "address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up\n"
        ))?;
        node.configure(&backend.configuration((1, NODE), (2, ADDRESSES)))?;
        netns.configure(&backend.configuration((2, ADDRESSES), (1, NODE)))?;
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            netns.set(key, "1")?;
        }
        let far = Netns::create(&teardown::netns_name(&self.name, &pod.replace('/', ".")))?;
        netns.configure(&format!(
            "link add cni0 type veth peer name eth0 netns {}\n\
             address add 10.244.2.1/24 dev cni0\naddress add fd00:10:244:2::1/64 dev cni0 nodad\nlink set cni0 up\n",
            far.name(),
        ))?;
        let [pod_v4, pod_v6] = POD;
        far.configure(&format!(
            "address add {pod_v4}/24 dev eth0\naddress add {pod_v6}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.244.2.1\nroute add default via fd00:10:244:2::1\n"
        ))?;
        let server = Server::start(&far, &[80])?;
        let mut spec = PodSpec::new(pod, &[], &[80]);
        spec.labels.clone_from(labels);
        let mut object = spec.object(&format!("{NAME}-{pod}").replace('/', "-"), &POD);
        let node_name = object.pointer_mut("/spec/nodeName").context("the pod has no node")?;
        *node_name = json!(NAME);
        self.manifests().write_object(&spec.file(), &object)?;
        if backend == Backend::HostGw {
            self.manifests().write_object(NODE_FILE, &object_of_node())?;
        }
        Ok(SecondNode { netns, pod: far, _server: server, agent: None })
    }
}

/// The second node's object, with the networks of its pods.
fn object_of_node() -> Value {
    let addresses = ADDRESSES.map(|ip| json!({ "type": "InternalIP", "address": ip }));
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME },
        "spec": { "podCIDRs": ["10.244.2.0/24", "fd00:10:244:2::/64"] },
        "status": { "addresses": addresses },
    })
}

/// The device that leads from the first node to the second one, as flanneld makes it, for `ip -batch`.
pub fn own_tunnel() -> String {
    let ([own, _], [other, _]) = (NODE, ADDRESSES);
    tunnel(1, own, 2, other)
}

/// The configuration that flanneld makes on node `own` for the pods of node `other`.
fn tunnel(own: u8, own_address: IpAddr, other: u8, other_address: IpAddr) -> String {
    format!(
        "link add {TUNNEL} type vxlan id 1 dev eth0 local {own_address} remote {other_address} dstport 8472 nolearning\n\
         address add 10.244.{own}.0/32 dev {TUNNEL}\n\
         address add fd00:10:244:{own}::/128 dev {TUNNEL} nodad\n\
         link set {TUNNEL} up\n\
         route add 10.244.{other}.0/24 via 10.244.{other}.0 dev {TUNNEL} onlink\n\
         route add fd00:10:244:{other}::/128 dev {TUNNEL}\n\
         route add fd00:10:244:{other}::/64 via fd00:10:244:{other}:: dev {TUNNEL} onlink\n"
    )
}
