//! Who takes part in the demo, and on what they answer.

use crate::node::{Host, PodSpec};
use crate::probe::Protocol;

/// Namespaces and their labels.
pub(super) const NAMESPACES: [(&str, &[(&str, &str)]); 3] =
    [("shop", &[]), ("monitoring", &[("team", "monitoring")]), ("kube-system", &[])];

/// The pod that is given another label while it runs.
pub(super) const CLIENT: &str = "shop/client";

/// What it is at first.
pub(super) const CLIENT_LABELS: [(&str, &str); 1] = [("app", "client")];

/// What makes it a client of Redis.
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

/// Who opens connections: the rows of a matrix.
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

/// How many.
pub(super) const N_ROWS: usize = 8;

/// One who opens connections.
pub(super) enum Row {
    /// A pod.
    Pod(&'static str),
    /// No pod.
    Host(Host),
}

impl Row {
    /// As the lab names it.
    pub(super) fn host(&self) -> Host {
        match self {
            Self::Pod(name) => Host::pod(name),
            Self::Host(host) => host.clone(),
        }
    }
}

/// What connections are opened to: the columns of a matrix.
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

/// A port that somebody answers on.
pub(super) struct Column {
    /// Who.
    pub(super) host: Row,
    /// How.
    pub(super) protocol: Protocol,
    /// The number.
    pub(super) port: u16,
    /// Two lines of at most six letters.
    pub(super) head: [&'static str; 2],
}

/// Is this connection tried? Nobody calls himself, and what passes between hosts that are no pods is none of ours.
pub(super) fn is_tried(row: &Row, column: &Column) -> bool {
    row.host() != column.host.host() && !matches!((row, &column.host), (Row::Host(_), Row::Host(_)))
}
