//! The table of checks.

use super::level::Level;

/// A check for one kind of mistake.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Stable code.
    pub code: &'static str,
    /// Stable name.
    pub name: &'static str,
    /// The default severity of its findings.
    pub level: Level,
    /// The mistake, as a noun phrase for the documentation.
    pub finds: &'static str,
    /// The advice: one sentence.
    pub advice: &'static str,
}

macro_rules! checks {
    ($($ident:ident = $code:literal $name:literal $level:ident: $finds:literal => $advice:literal;)*) => {
        $(pub(super) static $ident: Check = Check {
            code: $code,
            name: $name,
            level: Level::$level,
            finds: $finds,
            advice: $advice,
        };)*

        /// Every check, sorted by code.
        pub static CHECKS: &[&Check] = &[$(&$ident,)*];
    };
}

checks! {
    SELECTS_NO_POD = "NP001" "selects-no-pod" Warning:
        "A policy whose `podSelector` selects no pod of its namespace."
        => "Compare the selector with the labels of the pods that the policy should select.";
    UNKNOWN_NAMESPACE = "NP002" "unknown-namespace" Warning:
        "A policy in a namespace that does not exist, if the input is a whole cluster."
        => "Correct `metadata.namespace`, or create the namespace.";
    PEER_SELECTS_NOTHING = "NP003" "peer-selects-nothing" Warning:
        "A peer whose selectors select no namespace, or no pod in the namespaces that they select."
        => "Compare the selectors with the labels of the namespaces and pods that the peer should select.";
    CONTRADICTORY_SELECTOR = "NP004" "contradictory-selector" Warning:
        "A selector whose conditions exclude each other, so it selects nothing."
        => "Remove one of the conditions, because an object must meet all of them.";
    SPLIT_PEER = "NP005" "split-peer" Warning:
        "A `namespaceSelector` and a `podSelector` in two consecutive peers: either one allows the connection (OR), where both (AND) were probably intended."
        => "To allow only these pods in these namespaces, write both selectors in one list item, without the second dash.";
    HOST_NETWORK_POD = "NP006" "host-network-pod" Warning:
        "A policy that selects a pod with `hostNetwork: true`, to which policies do not apply."
        => "Remove `hostNetwork` from the pod, or protect the node's ports with a host firewall.";
    NAMESPACE_NAME_LABEL = "NP007" "namespace-name-label" Warning:
        "A peer that selects a namespace by the label `name`, which namespaces do not have unless somebody adds it."
        => "Select the namespace by `kubernetes.io/metadata.name`, which the API server sets.";
    PEER_ON_HOST = "NP008" "peer-on-host-network" Warning:
        "A peer that selects only pods with `hostNetwork: true`, whose packets have the addresses of their nodes."
        => "Allow the addresses of the nodes with an `ipBlock`.";
    INERT_RULES = "NP010" "inert-rules" Warning:
        "Rules for a direction that `policyTypes` does not contain, so they have no effect."
        => "Add the direction to `policyTypes`, or remove the rules.";
    ALLOWS_NOTHING = "NP011" "allows-nothing" Warning:
        "A policy with egress rules, without ingress rules and without `policyTypes`: it isolates the pods for ingress too."
        => "Write `policyTypes`: `[Egress]` to isolate for egress only, `[Ingress, Egress]` to deny all ingress on purpose.";
    ALLOWS_EVERYTHING = "NP012" "allows-everything" Info:
        "A rule without peers and ports, which allows all traffic of its direction regardless of other rules and policies."
        => "Restrict the rule with peers or ports, or remove the other rules of this direction.";
    REPEATED_RULE = "NP013" "repeated-rule" Warning:
        "A rule that allows the same as an earlier rule of the policy."
        => "Remove one of the two rules.";
    SHADOWED_RULE = "NP014" "shadowed-rule" Warning:
        "A rule that allows nothing beyond another rule of the policy."
        => "Remove the narrower rule, or restrict the wider one.";
    SHADOWED_PEER = "NP015" "shadowed-peer" Info:
        "A peer that another peer of the same rule includes."
        => "Remove the narrower peer, or restrict the wider one.";
    NO_DNS = "NP020" "no-dns" Warning:
        "A policy that allows some egress for pods that cannot reach port 53, or 5353 of the pods behind it, so they cannot resolve names."
        => "Allow egress to the cluster's DNS pods on port 53, UDP and TCP.";
    UNKNOWN_PORT_NAME = "NP021" "unknown-port-name" Warning:
        "A port name that no possible destination pod has for this protocol."
        => "Use the `name` of a container port of the destination pods, or a port number.";
    SERVICE_PORT = "NP022" "service-port" Warning:
        "A Service's `port` that is not a port of the backend pods: policies apply after Service translation, to the pods' ports."
        => "Use the Service's `targetPort`, which is the port of the pods.";
    EXCEPT_COVERS_BLOCK = "NP030" "except-covers-block" Warning:
        "An `ipBlock` whose `except` blocks cover its whole `cidr`."
        => "Remove the peer, or use smaller `except` blocks.";
    BLOCK_COVERS_PODS = "NP031" "block-covers-pods" Warning:
        "An `ipBlock`, or an item of `networks`, that contains addresses of pods, which change when pods are recreated. For `0.0.0.0/0` and `::/0` the level is info."
        => "Select pods by their labels; to match addresses outside the cluster only, exclude the pod network, by `except` or by a rule with precedence.";
    BLOCK_COVERS_SERVICE = "NP032" "block-covers-service" Warning:
        "An `ipBlock` that contains a Service address: policies apply after Service translation, to the addresses of the backend pods."
        => "Allow the backends of the Service: pods by their labels, other backends by an `ipBlock` of their addresses.";
    ONE_FAMILY = "NP033" "one-family" Warning:
        "A rule for all addresses of one family only, in a cluster with dual-stack pods."
        => "Add the block of the other family (`0.0.0.0/0` or `::/0`).";
    OVER_CAPACITY = "NP040" "over-capacity" Warning:
        "A rule that exceeds the map capacities of a node that runs pods of all policies, so it allows nothing there."
        => "Aggregate the address blocks of the rule, or use policies that select fewer pods per node.";
    TIED_PRIORITY = "NP050" "tied-priority" Warning:
        "Two ClusterNetworkPolicies of one tier and one `priority` with rules that disagree about the same connections: the API does not say which one decides. Here it is the one whose name is first."
        => "Give the two policies different priorities.";
    UNREACHABLE_RULE = "NP051" "unreachable-rule" Warning:
        "A rule of a ClusterNetworkPolicy that never decides, because a rule with precedence matches all of its connections."
        => "Remove the rule, or move it before the other one.";
    IDLE_PASS = "NP052" "idle-pass" Warning:
        "A Pass rule after which no rule of the tier matches the same connections, so that it skips nothing. If the input is a part of a cluster, the level is info."
        => "Remove the rule, or move it before the rules that it should skip.";
    DENIES_DNS = "NP053" "denies-dns" Warning:
        "A Deny rule for port 53 of the cluster's DNS without a rule before it that accepts that, so that the pods cannot resolve names."
        => "Accept egress to the cluster's DNS pods on port 53, UDP and TCP, before this rule.";
    SHADOWED_BASELINE = "NP054" "shadowed-baseline" Info:
        "Rules of the Baseline tier for pods that NetworkPolicies isolate, all of them: the Baseline tier is not asked about such pods."
        => "Nothing, if the rules are for pods that come later.";
    NAMED_PORT_OF_ADDRESS = "NP055" "named-port-of-address" Warning:
        "A `destinationNamedPort` for `networks` or `nodes`: only pods have port names."
        => "Use `tcp`, `udp` or `sctp` with a port number.";
}
