//! The table of checks.

use super::Level;

/// A check that has a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Stable code.
    pub code: &'static str,
    /// Stable name.
    pub name: &'static str,
    /// How much its findings matter, as a rule.
    pub level: Level,
    /// What it finds, for the documentation.
    pub finds: &'static str,
    /// What to do about it: one sentence.
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

        /// Every check, by code.
        pub static CHECKS: &[&Check] = &[$(&$ident,)*];
    };
}

checks! {
    SELECTS_NO_POD = "NP001" "selects-no-pod" Warning:
        "A policy whose `podSelector` selects no pod of its namespace."
        => "Compare the selector with the labels of the pods that it is for.";
    UNKNOWN_NAMESPACE = "NP002" "unknown-namespace" Warning:
        "A policy in a namespace that does not exist."
        => "Correct `metadata.namespace`, or add the namespace.";
    PEER_SELECTS_NOTHING = "NP003" "peer-selects-nothing" Warning:
        "A peer whose selectors select no namespace, or no pod in the namespaces that they select."
        => "Compare the selectors with the labels of the namespaces and pods that should be reached.";
    CONTRADICTORY_SELECTOR = "NP004" "contradictory-selector" Warning:
        "A selector whose conditions exclude each other."
        => "Remove one of the conditions: all of them have to hold at once.";
    SPLIT_PEER = "NP005" "split-peer" Warning:
        "A `namespaceSelector` and a `podSelector` as two peers, one after the other: an OR where an AND was probably meant."
        => "For these pods in these namespaces write both selectors in one list item, without the second dash.";
    HOST_NETWORK_POD = "NP006" "host-network-pod" Warning:
        "A policy that selects a pod with `hostNetwork: true`, which no policy governs."
        => "Protect the node's own ports by other means, or take the pod off the host's network.";
    INERT_RULES = "NP010" "inert-rules" Warning:
        "Rules for a direction that `policyTypes` leaves out: they have no effect."
        => "Add the direction to `policyTypes`, or remove the rules.";
    ALLOWS_NOTHING = "NP011" "allows-nothing" Info:
        "A direction in which the policy isolates and allows nothing."
        => "If only the other direction should be isolated, say so in `policyTypes`.";
    ALLOWS_EVERYTHING = "NP012" "allows-everything" Info:
        "A rule without peers and ports: it allows everything, whatever other rules and policies say."
        => "Remove the other rules of this direction, or restrict this one.";
    REPEATED_RULE = "NP013" "repeated-rule" Warning:
        "A rule that says the same as an earlier one."
        => "Remove one of them.";
    SHADOWED_RULE = "NP014" "shadowed-rule" Warning:
        "A rule that allows nothing which another rule of the policy does not allow."
        => "Remove the narrower rule, or restrict the wider one.";
    SHADOWED_PEER = "NP015" "shadowed-peer" Info:
        "A peer that another peer of the same rule includes."
        => "Remove the narrower peer, or restrict the wider one.";
    NO_DNS = "NP020" "no-dns" Warning:
        "Pods that are isolated for egress and may reach something, but not port 53: they cannot look up names."
        => "Allow UDP and TCP 53 to the cluster's DNS pods.";
    UNKNOWN_PORT_NAME = "NP021" "unknown-port-name" Warning:
        "A port name that no pod which it could mean has for this protocol."
        => "Use the `name` of a `containerPort` of the destination pods, or a number.";
    SERVICE_PORT = "NP022" "service-port" Warning:
        "A port that a Service offers, and at which its pods do not listen: verdicts are made on the pods' own ports."
        => "Write the Service's `targetPort`: the port of the pods.";
    HOLES_COVER_BLOCK = "NP030" "holes-cover-block" Warning:
        "An `ipBlock` whose exceptions leave nothing of it."
        => "Remove the peer, or restrict the exceptions.";
    BLOCK_COVERS_PODS = "NP031" "block-covers-pods" Warning:
        "An `ipBlock` that covers addresses of pods, which change; a block that covers a whole family is only mentioned."
        => "Select pods by their labels; for addresses outside the cluster except the pod network.";
    BLOCK_COVERS_SERVICE = "NP032" "block-covers-service" Warning:
        "An `ipBlock` that covers a Service address, which no policy ever sees."
        => "Select the pods behind the Service: verdicts are made on their addresses and ports.";
    ONE_FAMILY = "NP033" "one-family" Warning:
        "A rule for all IPv4 or all IPv6 addresses, but not for those of the other family, among pods that have both."
        => "Add the block of the other family (`0.0.0.0/0` or `::/0`).";
    NO_ROOM = "NP040" "over-capacity" Warning:
        "A rule whose peers find no room in the maps of a node that runs pods of all these policies: there it allows nothing."
        => "Aggregate its address blocks, or let its policies select pods that do not run on one node.";
}
