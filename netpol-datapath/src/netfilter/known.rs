//! Names of tables and chains: those of programs whose rules are known to leave packets between pods alone, and those of engines.

use serde::{Deserialize, Serialize};

/// An engine that enforces NetworkPolicies, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// kube-router, also the one in k3s.
    KubeRouter,
    /// Calico, also with Flannel (Canal).
    Calico,
    /// Cilium.
    Cilium,
    /// Weave Net.
    Weave,
    /// Antrea.
    Antrea,
    /// kube-network-policies of SIG Network, also the one in kind.
    KubeNetworkPolicies,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KubeRouter,
        Self::Calico,
        Self::Cilium,
        Self::Weave,
        Self::Antrea,
        Self::KubeNetworkPolicies,
    ];

    /// The value in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KubeRouter => "kube-router",
            Self::Calico => "calico",
            Self::Cilium => "cilium",
            Self::Weave => "weave",
            Self::Antrea => "antrea",
            Self::KubeNetworkPolicies => "kube-network-policies",
        }
    }

    /// The engine that names chains like this.
    pub(super) fn of_chain(name: &str) -> Option<Self> {
        let (engine, _) = CHAINS.iter().find(|(_, prefix)| name.starts_with(prefix))?;
        Some(*engine)
    }

    /// The engine that has a table of this name.
    pub(super) fn of_table(name: &str) -> Option<Self> {
        let (engine, _) = TABLES.iter().find(|(_, table)| name == *table)?;
        Some(*engine)
    }

    /// The engine whose programs have names like this.
    pub fn of_program(name: &str) -> Option<Self> {
        let (engine, _) = PROGRAMS.iter().find(|(_, prefix)| name.starts_with(prefix))?;
        Some(*engine)
    }
}

/// Whether a chain may be one of a plugin that masquerades what leaves for networks other than the pod's own. Those for hostPorts
/// translate other packets.
pub(super) fn may_masquerade(name: &str) -> bool {
    let of_ports = ["CNI-HOSTPORT-", "CNI-DN-", "CNI-SN-"];
    name.starts_with("CNI-") && !of_ports.iter().any(|start| name.starts_with(start))
}

/// How the chains of engines begin.
const CHAINS: [(Engine, &str); 9] = [
    (Engine::KubeRouter, "KUBE-ROUTER-"),
    (Engine::KubeRouter, "KUBE-NWPLCY-"),
    (Engine::KubeRouter, "KUBE-POD-FW-"),
    (Engine::Calico, "cali-"),
    (Engine::Cilium, "CILIUM_"),
    (Engine::Cilium, "OLD_CILIUM_"),
    (Engine::Weave, "WEAVE-NPC"),
    (Engine::Antrea, "ANTREA-"),
    (Engine::KubeNetworkPolicies, "KUBE-NETWORK-POLICIES"),
];

/// The nftables tables of engines.
const TABLES: [(Engine, &str); 5] = [
    (Engine::Calico, "calico"),
    (Engine::Antrea, "antrea"),
    (Engine::KubeRouter, "kube-router"),
    (Engine::KubeNetworkPolicies, "kube-network-policies"),
    (Engine::KubeNetworkPolicies, "kindnet-network-policies"),
];

/// How the programs of engines begin.
const PROGRAMS: [(Engine, &str); 4] = [
    (Engine::Cilium, "cil_"),
    (Engine::Cilium, "bpf_lxc"),
    (Engine::Calico, "cali_"),
    (Engine::Calico, "calico_"),
];

/// How the chains of kube-proxy, the kubelet, Flannel and the CNI plugins begin.
const KNOWN_CHAINS: [&str; 3] = ["KUBE-", "FLANNEL-", "CNI-"];

/// The nftables tables of kube-proxy, Flannel, the CNI plugins and netpol.
const KNOWN_TABLES: [&str; 6] = [
    "kube-proxy",
    "flannel-ipv4",
    "flannel-ipv6",
    "cni_hostport",
    "cni_plugins_masquerade",
    netpol_netlink::TABLE,
];

/// Whether the rules of a chain are known to leave packets between pods alone.
pub(super) fn is_known_chain(name: &str) -> bool {
    Engine::of_chain(name).is_none() && KNOWN_CHAINS.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the rules of a table are.
pub(super) fn is_known_table(name: &str) -> bool {
    KNOWN_TABLES.contains(&name)
}
