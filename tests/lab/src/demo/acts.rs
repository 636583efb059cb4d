//! The demo's acts: the policies that are applied, their meaning, and the expected matrix.

/// Policies from `deploy/examples` that are applied together.
pub(super) struct Act {
    /// Their files.
    pub(super) files: &'static [&'static str],
    /// Their meaning, in a sentence.
    pub(super) meaning: &'static str,
    /// The matrix while they are the only policies, written by hand from the documentation of the APIs. Rows and columns are
    /// those of [`super::cast`].
    pub(super) expected: &'static str,
}

impl Act {
    /// The files as one text.
    pub(super) fn title(&self) -> String {
        self.files.join(" and ")
    }
}

/// The matrix without any policy.
pub(super) const OPEN: &str = "
    ✔✔✔✔✔✔✔
    ✔✔✔✔✔✔✔
    ✔··✔✔✔✔
    ✔✔✔✔✔✔✔
    ✔✔✔✔✔✔✔
    ✔✔✔✔✔··
    ✔✔✔✔✔··
    ✔✔✔✔✔··";

/// The policy during which the client gets another label.
pub(super) const REDIS: Act = Act {
    files: &["allow-redis-client.yaml"],
    meaning: "Only pods labelled role=redis-client may connect to redis, on TCP 6379: front is one.",
    expected: "
        ✔✔✔✔✔✔✔
        ✘✔✔✔✔✔✔
        ✘··✔✔✔✔
        ✘✔✔✔✔✔✔
        ✘✔✔✔✔✔✔
        ✘✔✔✔✔··
        ✘✔✔✔✔··
        ✔✔✔✔✔··",
};

/// The matrix with this policy once the client has the label.
pub(super) const RELABELLED: &str = "
    ✔✔✔✔✔✔✔
    ✔✔✔✔✔✔✔
    ✘··✔✔✔✔
    ✘✔✔✔✔✔✔
    ✘✔✔✔✔✔✔
    ✘✔✔✔✔··
    ✘✔✔✔✔··
    ✔✔✔✔✔··";

/// The policy of the pods' own namespace, which an Admin policy overrides in [`DELEGATE`].
const SAME_NAMESPACE: Act = Act {
    files: &["allow-same-namespace.yaml"],
    meaning: "The pods of shop may be reached by each other and by nobody else.",
    expected: "
        ✔✔✔✔✔✔✔
        ✔✔✔✔✔✔✔
        ✔··✔✔✔✔
        ✘✘✘✔✔✔✔
        ✘✘✘✔✔✔✔
        ✘✘✘✔✔··
        ✘✘✘✔✔··
        ✔✔✔✔✔··",
};

/// The cluster policy that refuses connections which a NetworkPolicy allows, unless the namespace has a label.
pub(super) const DELEGATE: Act = Act {
    files: &["cluster-policies/delegate-by-pass.yaml", "allow-same-namespace.yaml"],
    meaning: "The NetworkPolicy lets the pods of shop reach each other; the ClusterNetworkPolicy of the Admin tier is asked\n\
              before it and denies what other pods send. Then shop gets the label tenant=self-managed: the Admin tier\n\
              passes, and the NetworkPolicy decides.",
    expected: "
        ✘✘✘✔✔✔✔
        ✘✘✘✔✔✔✔
        ✘··✔✔✔✔
        ✘✘✘✔✔✔✔
        ✘✘✘✔✔✔✔
        ✘✘✘✔✔··
        ✘✘✘✔✔··
        ✔✔✔✔✔··",
};

/// The matrix with these policies once the namespace has the label.
pub(super) const DELEGATED: &str = SAME_NAMESPACE.expected;

/// The acts that apply policies and remove them, in their order.
pub(super) const ACTS: [Act; 10] = [
    Act {
        files: &["default-deny-ingress.yaml"],
        meaning: "Nobody may connect to a pod of shop. (Its own node always may, for the kubelet's probes.)",
        expected: "
            ✘✘✘✔✔✔✔
            ✘✘✘✔✔✔✔
            ✘··✔✔✔✔
            ✘✘✘✔✔✔✔
            ✘✘✘✔✔✔✔
            ✘✘✘✔✔··
            ✘✘✘✔✔··
            ✔✔✔✔✔··",
    },
    Act {
        files: &["default-deny-all.yaml"],
        meaning: "No pod of shop may be reached, and none may reach anything.",
        expected: "
            ✘✘✘✘✘✘✘
            ✘✘✘✘✘✘✘
            ✘··✘✘✘✘
            ✘✘✘✔✔✔✔
            ✘✘✘✔✔✔✔
            ✘✘✘✔✔··
            ✘✘✘✔✔··
            ✔✔✔✔✔··",
    },
    Act {
        files: &["deny-all-to-app.yaml"],
        meaning: "Nobody may connect to web; the rest of shop is as open as before.",
        expected: "
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔··✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔··
            ✔✘✘✔✔··
            ✔✔✔✔✔··",
    },
    REDIS,
    SAME_NAMESPACE,
    Act {
        files: &["allow-prometheus.yaml"],
        meaning: "Only pods labelled app=prometheus in namespaces labelled team=monitoring may connect to web, on TCP 9090.",
        expected: "
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔··✔✔✔✔
            ✔✘✔✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔··
            ✔✘✘✔✔··
            ✔✔✔✔✔··",
    },
    Act {
        files: &["allow-ip-block-with-except.yaml"],
        meaning: "Only 192.0.2.0/24 except 192.0.2.128/25 may connect to web, on TCP 80: office is within, guest is in the hole.",
        expected: "
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔··✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔✘✘✔✔✔✔
            ✔✔✘✔✔··
            ✔✘✘✔✔··
            ✔✔✔✔✔··",
    },
    Act {
        files: &["egress-to-pods-and-dns.yaml"],
        meaning: "The client may connect to redis and ask dns, over UDP and TCP, and nothing else.",
        expected: "
            ✔✔✔✔✔✔✔
            ✔✘✘✔✔✘✘
            ✔··✔✔✔✔
            ✔✔✔✔✔✔✔
            ✔✔✔✔✔✔✔
            ✔✔✔✔✔··
            ✔✔✔✔✔··
            ✔✔✔✔✔··",
    },
    Act {
        files: &["egress-to-cidr.yaml"],
        meaning: "The client may connect to 192.0.2.0/25 on TCP 443, where office is, and ask dns, and nothing else.",
        expected: "
            ✔✔✔✔✔✔✔
            ✘✘✘✔✔✔✘
            ✔··✔✔✔✔
            ✔✔✔✔✔✔✔
            ✔✔✔✔✔✔✔
            ✔✔✔✔✔··
            ✔✔✔✔✔··
            ✔✔✔✔✔··",
    },
    Act {
        files: &["cluster-policies/baseline-default-deny.yaml", "egress-to-cidr.yaml"],
        meaning: "By the ClusterNetworkPolicy of the Baseline tier pods accept nothing from pods and may only ask dns. A\n\
                  NetworkPolicy replaces that for the egress of client: it may connect to office.",
        expected: "
            ✘✘✘✔✔✘✘
            ✘✘✘✔✔✔✘
            ✘··✔✔✘✘
            ✘✘✘✔✔✘✘
            ✘✘✘✔✔✘✘
            ✔✔✔✔✔··
            ✔✔✔✔✔··
            ✔✔✔✔✔··",
    },
];
