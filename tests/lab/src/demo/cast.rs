//! The pods and hosts of the demo, and their ports.

use crate::node::{Host, PodSpec};
use crate::probe::Protocol;

/// Namespaces and their labels.
pub(super) const NAMESPACES: [(&str, &[(&str, &str)]); 3] =
    [(SHOP, &[]), ("monitoring", &[("team", "monitoring")]), ("kube-system", &[])];

/// The namespace whose labels change.
pub(super) const SHOP: &str = "shop";

/// Its labels while its NetworkPolicies decide.
pub(super) const SELF_MANAGED_LABELS: [(&str, &str); 1] = [("tenant", "self-managed")];

/// The pod whose labels change while it runs.
pub(super) const CLIENT: &str = "shop/client";

/// Its labels at first.
pub(super) const CLIENT_LABELS: [(&str, &str); 1] = [("app", "client")];

/// Its labels as a client of Redis.
pub(super) const CLIENT_OF_REDIS_LABELS: [(&str, &str); 2] =
    [("app", "client"), ("role", "redis-client")];

/// The pods.
pub(super) fn pods() -> Vec<PodSpec> {
    vec![
        PodSpec::new("shop/front", &[("app", "front"), ("role", "redis-client")], &[80]),
        PodSpec::new(CLIENT, &CLIENT_LABELS, &[80]),
        PodSpec::new("shop/web", &[("app", "web")], &[80, 9090]),
        PodSpec::new("shop/redis", &[("type", "redis")], &[6379]),
        PodSpec::new("monitoring/prom", &[("app", "prometheus")], &[9090]),
        PodSpec::new("monitoring/grafana", &[("app", "grafana")], &[3000]),
        PodSpec::new("kube-system/dns", &[("k8s-app", "kube-dns")], &[53]),
    ]
}

/// The sources of connections: the rows of a matrix.
pub(super) const ROWS: [(&str, Row); N_ROWS] = [
    ("front", Row::Pod("shop/front")),
    ("client", Row::Pod(CLIENT)),
    ("web", Row::Pod("shop/web")),
    ("prom", Row::Pod("monitoring/prom")),
    ("grafana", Row::Pod("monitoring/grafana")),
    ("office", Row::Host(Host::Office)),
    ("guest", Row::Host(Host::Guest)),
    ("node", Row::Host(Host::Node)),
];

/// The number of rows.
pub(super) const N_ROWS: usize = 8;

/// A source of connections.
pub(super) enum Row {
    /// A pod.
    Pod(&'static str),
    /// No pod.
    Host(Host),
}

impl Row {
    /// The same host in the lab.
    pub(super) fn host(&self) -> Host {
        match self {
            Self::Pod(name) => Host::pod(name),
            Self::Host(host) => host.clone(),
        }
    }
}

/// The destinations of connections: the columns of a matrix.
pub(super) const COLUMNS: [Column; 7] = [
    Column {
        host: Row::Pod("shop/redis"),
        protocol: Protocol::Tcp,
        port: 6379,
        head: ["redis", "6379"],
    },
    Column { host: Row::Pod("shop/web"), protocol: Protocol::Tcp, port: 80, head: ["web", "80"] },
    Column {
        host: Row::Pod("shop/web"),
        protocol: Protocol::Tcp,
        port: 9090,
        head: ["web", "9090"],
    },
    Column {
        host: Row::Pod("kube-system/dns"),
        protocol: Protocol::Udp,
        port: 53,
        head: ["dns", "53/udp"],
    },
    Column {
        host: Row::Pod("kube-system/dns"),
        protocol: Protocol::Tcp,
        port: 53,
        head: ["dns", "53/tcp"],
    },
    Column {
        host: Row::Host(Host::Office),
        protocol: Protocol::Tcp,
        port: 443,
        head: ["office", "443"],
    },
    Column {
        host: Row::Host(Host::Guest),
        protocol: Protocol::Tcp,
        port: 443,
        head: ["guest", "443"],
    },
];

/// A destination port.
pub(super) struct Column {
    /// The host.
    pub(super) host: Row,
    /// The protocol.
    pub(super) protocol: Protocol,
    /// The port number.
    pub(super) port: u16,
    /// The column's title: two lines of at most six letters.
    pub(super) head: [&'static str; 2],
}

/// Whether this connection is tried: not from a host to itself, and not between hosts that are no pods, because no policy
/// applies there.
pub(super) fn is_tried(row: &Row, column: &Column) -> bool {
    row.host() != column.host.host() && !matches!((row, &column.host), (Row::Host(_), Row::Host(_)))
}
