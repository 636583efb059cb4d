//! The demo's acts: one policy each, its meaning, and the expected matrix.

/// One policy from `deploy/examples`.
pub(super) struct Act {
    /// Its file.
    pub(super) file: &'static str,
    /// Its meaning, in a sentence.
    pub(super) meaning: &'static str,
    /// The matrix while it is the only policy, written by hand from the Kubernetes documentation. Rows and columns are those
    /// of [`super::cast`].
    pub(super) expected: &'static str,
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
    file: "allow-redis-client.yaml",
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

/// All acts, in their order.
pub(super) const ACTS: [Act; 9] = [
    Act {
        file: "default-deny-ingress.yaml",
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
        file: "default-deny-all.yaml",
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
        file: "deny-all-to-app.yaml",
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
    Act {
        file: "allow-same-namespace.yaml",
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
    },
    Act {
        file: "allow-prometheus.yaml",
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
        file: "allow-ip-block-with-except.yaml",
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
        file: "egress-to-pods-and-dns.yaml",
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
        file: "egress-to-cidr.yaml",
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
];
