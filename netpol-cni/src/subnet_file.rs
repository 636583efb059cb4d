//! The subnet file of flanneld.
//!
//! In: the text of `/run/flannel/subnet.env`, `KEY=VALUE` lines. Out: networks, subnets and MTU, and the
//! `ipam` section filled with them. `FLANNEL_IPMASQ` is ignored, because flanneld itself masquerades.

use std::io;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use netpol_proto::ErrorCode;
use serde_json::{Map, Value, json};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// flanneld has not written it yet.
    #[error("{path} does not exist: flanneld has not written this node's subnet yet")]
    NotYet {
        /// The file.
        path: PathBuf,
    },
    /// It exists but cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// It contains no subnet of either family.
    #[error("{path} has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET")]
    NoSubnet {
        /// The file.
        path: PathBuf,
    },
    /// A value cannot be parsed.
    #[error("{path}: {key} is invalid, got `{value}`")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotYet { .. } => ErrorCode::TRY_AGAIN_LATER,
            Self::Read { .. } => ErrorCode::IO,
            Self::NoSubnet { .. } | Self::Value { .. } => ErrorCode::INVALID_CONFIG,
        }
    }
}

/// The node's part of the pod network, of one or both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnets {
    /// `FLANNEL_NETWORK` and `FLANNEL_IPV6_NETWORK`, each a comma-separated list: all pods of the cluster.
    pub networks: Vec<IpNetwork>,
    /// `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET` without host bits: the pods of this node.
    pub subnets: Vec<IpNetwork>,
    /// `FLANNEL_MTU` in bytes.
    pub mtu: Option<u32>,
}

impl Subnets {
    /// Reads the file.
    ///
    /// # Errors
    /// All variants of [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::NotYet { path: path.into() }
            } else {
                Error::Read { path: path.into(), source }
            }
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let mut subnets = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = value.trim_matches(['"', '\'']);
            match key {
                "FLANNEL_NETWORK" => {
                    subnets.networks.extend(networks(path, "FLANNEL_NETWORK", value)?);
                }
                "FLANNEL_IPV6_NETWORK" => {
                    subnets.networks.extend(networks(path, "FLANNEL_IPV6_NETWORK", value)?);
                }
                "FLANNEL_SUBNET" => {
                    subnets.subnets.extend(networks(path, "FLANNEL_SUBNET", value)?);
                }
                "FLANNEL_IPV6_SUBNET" => {
                    subnets.subnets.extend(networks(path, "FLANNEL_IPV6_SUBNET", value)?);
                }
                "FLANNEL_MTU" => {
                    let invalid = |_| Error::Value {
                        path: path.into(),
                        key: "FLANNEL_MTU",
                        value: value.into(),
                    };
                    subnets.mtu = Some(value.parse().map_err(invalid)?);
                }
                _ => {}
            }
        }
        if subnets.subnets.is_empty() {
            return Err(Error::NoSubnet { path: path.into() });
        }
        Ok(subnets)
    }

    /// Subnets for DEL when the file is gone, as after a reboot.
    ///
    /// host-local requires a valid range, but releases addresses by container id, whatever the range.
    pub fn placeholder() -> Self {
        let documentation = [192, 0, 2, 0];
        let subnets = IpNetwork::new(documentation.into(), 24).into_iter().collect();
        Self { networks: Vec::new(), subnets, mtu: None }
    }

    /// Writes one range set for each family and the routes to the cluster's pods into `ipam`.
    ///
    /// Routes of the configuration are kept, in front.
    pub fn fill(&self, ipam: &mut Map<String, Value>) {
        let ranges: Vec<Value> =
            self.subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        ipam.insert("ranges".into(), ranges.into());
        let mut routes = match ipam.remove("routes") {
            Some(Value::Array(routes)) => routes,
            _ => Vec::new(),
        };
        routes.extend(self.networks.iter().map(|network| json!({ "dst": network })));
        ipam.insert("routes".into(), routes.into());
    }
}

/// A comma-separated list of networks, without their host bits.
fn networks(path: &Path, key: &'static str, value: &str) -> Result<Vec<IpNetwork>, Error> {
    let invalid = || Error::Value { path: path.into(), key, value: value.into() };
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            // Without a prefix length it would be parsed as a single address, which is no subnet.
            let network: IpNetwork =
                item.contains('/').then(|| item.parse().ok()).flatten().ok_or_else(invalid)?;
            IpNetwork::new(network.network(), network.prefix()).map_err(|_too_long| invalid())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Subnets, Error> {
        Subnets::parse(Path::new("/run/flannel/subnet.env"), text)
    }

    #[test]
    fn both_families_fill_ranges_and_routes() {
        let subnets = parse(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:10::/56\nFLANNEL_IPV6_SUBNET=fd00:10:0:1::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        )
        .unwrap();
        assert_eq!(subnets.mtu, Some(1450));
        let mut ipam = Map::new();
        ipam.insert("routes".into(), json!([{ "dst": "192.0.2.0/24" }]));
        subnets.fill(&mut ipam);
        let expected = json!({
            "ranges": [[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:0:1::/64" }]],
            "routes": [{ "dst": "192.0.2.0/24" }, { "dst": "10.244.0.0/16" }, { "dst": "fd00:10::/56" }],
        });
        assert_eq!(Value::Object(ipam), expected);
    }

    #[test]
    fn networks_are_separated_by_commas() {
        let subnets =
            parse("FLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24").unwrap();
        assert_eq!(subnets.networks.len(), 2);
    }

    #[test]
    fn an_unusable_file_is_an_error_that_names_the_key() {
        for (text, expected) in [
            ("", "neither FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET=x", "FLANNEL_SUBNET is invalid, got `x`"),
            ("FLANNEL_SUBNET=10.0.0.1", "FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_MTU=-1", "FLANNEL_MTU"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
        let error = Subnets::read(Path::new("/nonexistent/subnet.env")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TRY_AGAIN_LATER);
    }

    #[test]
    fn the_placeholder_has_a_range() {
        assert_eq!(Subnets::placeholder().subnets.len(), 1);
    }
}
