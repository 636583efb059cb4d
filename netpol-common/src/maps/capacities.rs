//! How many entries each map holds, with the reason for the number.

/// Endpoints on one node. The kubelet's default limit is 110 pods; large nodes run 500.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Elements of `ENDPOINT_SLOTS`, 256 KiB. With 110 pods whose interface indexes are spread at random, two of them need the same element
/// on every second node.
pub const N_ENDPOINT_SLOTS: u32 = 1 << crate::mac::MacSlot::INDEX_BITS;
/// Addresses of local endpoints: both families, and as many secondary addresses. Each has an entry for its endpoint and one for any.
pub const MAX_ADDRESSES: u32 = 8 * MAX_ENDPOINTS;
/// Addresses of pods in peer sets: both families in the largest clusters (150,000 pods). The tables grow with their content.
pub const MAX_IDENTITIES: u32 = 1 << 19;
/// Address blocks and exceptions.
pub const MAX_PREFIXES: u32 = 1 << 20;
/// Slots of ALLOW: slot 0, which means "none", two for each endpoint, and as many again, because an allow map is filled before an
/// endpoint refers to it.
pub const N_ALLOW_MAPS: u32 = 1 + 4 * MAX_ENDPOINTS;
/// Entries of one allow map.
pub const MAX_ALLOW_ENTRIES: u32 = 1 << 20;
/// Buckets of flows of all endpoints together, a power of two. A bucket has eight flows and 640 bytes, which are allocated at the
/// start.
///
/// A quarter of a million flows. While a third of them is in use, one new flow in some thousands finds its bucket full.
pub const N_FLOW_BUCKETS: u32 = 1 << 15;
/// Locks of FLOWS. Each serves every 1024th bucket, so that processors seldom wait for each other.
pub const N_FLOW_LOCKS: u32 = 1 << 10;
/// Counters of FLOWS by endpoint, a power of two. Interface indexes grow with each new pod, so two endpoints of a node seldom share
/// a counter; those that do count as one.
pub const N_FLOW_COUNTS: u32 = 1 << 16;
/// Fragmented datagrams of one endpoint, in one direction and stage, whose first fragment is stored; a power of two.
pub const N_FRAGMENT_SLOTS: u32 = 1 << 6;
/// Fragmented datagrams of all endpoints: those of 128 endpoints that use all their slots of both directions and stages. With more
/// endpoints than that in use, the least recently used ones are evicted, whoever has them.
pub const MAX_FRAGMENTS: u32 = N_FRAGMENT_SLOTS << 9;
/// Addresses of Services and of the own node.
pub const MAX_DEFER: u32 = 1 << 16;
/// Addresses of the own node, and ports that it translates: the default range of `NodePorts` in all three protocols, twice.
pub const MAX_OWN_NODE: u32 = 1 << 14;
/// Backends on the own node's network of all ports of Services together. A node has some: those of the API server, of a DNS cache, of an
/// ingress controller, each for every address of its Service.
pub const MAX_NODE_BACKENDS: u32 = 1 << 14;
/// Backends of one port of a Service in `NODE_BACKENDS`. During a change it has the old ones and the new ones.
pub const MAX_BACKENDS_OF_PORT: u8 = 4;
/// Addresses of nodes, some of each, and, while a pod of the node forwards, of all pods: 5,000 nodes and 100,000 pods of one family.
/// The kernel allocates 16 bytes for each at the start.
pub const MAX_KNOWN: u32 = 1 << 17;
/// Blocks of pod addresses of other nodes: two of each node in the largest clusters (5,000 nodes).
pub const MAX_OVERLAY_PREFIXES: u32 = 1 << 14;
/// Words of 64 bits with a bit for each port.
pub const N_PORT_WORDS: u32 = 1 << 10;
/// Egress marks; mark 0 means "none".
pub const N_EGRESS_MARKS: u32 = 4096;
/// Deferred flow handles; handle 0 means "none". Each CPU has only a few packets between the two hooks.
pub const N_DEFERRED_FLOWS: u32 = 4096;
/// Flows of isolated endpoints to Services; the least recently used ones are evicted.
pub const MAX_BACKENDS: u32 = 1 << 15;
/// Combinations of endpoint, direction and verdict that have occurred.
pub const MAX_COUNTERS: u32 = 8 * MAX_ENDPOINTS;
/// Rules that have decided a connection. More than a node with 500 pods has in force when each pod has 30 rules of its own. The
/// kernel allocates 8 bytes for each processor, and some dozens beside, when a rule decides for the first time.
pub const MAX_RULE_COUNTS: u32 = 1 << 14;
/// Size of the event ring in bytes: a power of two and a multiple of the page size.
pub const EVENTS_LEN_BYTES: u32 = 1 << 18;
