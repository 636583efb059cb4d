//! The result of an ADD.
//!
//! In: the JSON of another plugin, or `prevResult` of the runtime. Out: the same result, with types for the fields that
//! netpol-cni reads or writes; all other fields are kept. [`CniResult::convert`] converts it to another
//! version of the specification.
//!
//! Source: CNI specification 1.1.0, "ADD Success".

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::version::SpecVersion;

/// Why a result cannot be parsed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not the JSON of a result.
    #[error("{origin} is not a valid CNI result")]
    Json {
        /// Where the result comes from: `prevResult` or the plugin.
        origin: String,
        /// The error and its position.
        #[source]
        source: serde_json::Error,
    },
}

/// Interfaces, addresses and routes of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CniResult {
    /// The version of the specification. Empty if the field is missing.
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    /// Interfaces of the container and of the host. Empty in the results of IPAM plugins.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses of the container.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// Routes of the container.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// `dns` and unknown fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An interface of the container or of the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in its namespace.
    pub name: String,
    /// Hardware address, as the plugin wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Path of the container's network namespace; `None` or empty for an interface of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// `mtu` and unknown fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Interface {
    /// Whether it is in the container.
    pub fn is_in_container(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty())
    }
}

/// An address of the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ip {
    /// The address, with the length of the on-link prefix that IPAM assumes.
    pub address: IpNetwork,
    /// The gateway that IPAM names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into [`CniResult::interfaces`]. `None` in the results of IPAM plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// `version` up to 0.4.0, and unknown fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A route of the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Destination network.
    pub dst: IpNetwork,
    /// Next hop; `None`: the gateway of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Since 1.1.0: path MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Since 1.1.0: largest TCP segment to advertise, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Since 1.1.0: metric, lowest wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Since 1.1.0: routing table; `None`: the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// `scope` and unknown fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Go encodes a nil slice as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl CniResult {
    /// Parses the output of another plugin.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn parse(origin: &str, json: &[u8]) -> Result<Self, Error> {
        let json_error = |source| Error::Json { origin: origin.into(), source };
        serde_json::from_slice(json).map_err(json_error)
    }

    /// Parses `prevResult`.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn from_value(origin: &str, value: &Value) -> Result<Self, Error> {
        let json_error = |source| Error::Json { origin: origin.into(), source };
        Self::deserialize(value).map_err(json_error)
    }

    /// The same result in the form of `version`.
    ///
    /// Up to 0.4.0 every address has its family in `version`, from 1.0.0 on none has; fields of
    /// 1.1.0 are removed for older versions.
    #[must_use]
    pub fn convert(mut self, version: SpecVersion) -> Self {
        version.as_str().clone_into(&mut self.cni_version);
        for ip in &mut self.ips {
            if version < SpecVersion::V1_0_0 {
                let family = if ip.address.is_ipv4() { "4" } else { "6" };
                ip.other.insert("version".into(), family.into());
            } else {
                ip.other.remove("version");
            }
        }
        if version < SpecVersion::V1_1_0 {
            for interface in &mut self.interfaces {
                for since_1_1_0 in ["mtu", "socketPath", "pciID"] {
                    interface.other.remove(since_1_1_0);
                }
            }
            for route in &mut self.routes {
                route.mtu = None;
                route.advmss = None;
                route.priority = None;
                route.table = None;
                route.other.remove("scope");
            }
        }
        self
    }

    /// Addresses of one interface of the container.
    ///
    /// An address without an interface, or with an index outside the list, belongs to all interfaces.
    pub fn addresses_of(&self, container_ifname: &str) -> Vec<IpAddr> {
        let belongs = |ip: &&Ip| {
            let interface = ip.interface.and_then(|index| self.interfaces.get(index));
            interface.is_none_or(|interface| {
                interface.is_in_container() && interface.name == container_ifname
            })
        };
        self.ips.iter().filter(belongs).map(|ip| ip.address.ip()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bridge_result() -> Value {
        json!({
            "cniVersion": "0.3.1",
            "interfaces": [
                { "name": "cni0", "mac": "0a:58:0a:f4:00:01" },
                { "name": "veth1", "mac": "7e:6c:aa:23:f9:d4" },
                { "name": "eth0", "mac": "0a:58:0a:f4:00:02", "sandbox": "/run/netns/a" },
            ],
            "ips": [
                { "version": "4", "interface": 2, "address": "10.244.0.2/24", "gateway": "10.244.0.1" },
                { "version": "6", "interface": 2, "address": "fd00::2/64" },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.244.0.1" }, { "dst": "10.244.0.0/16" }],
            "dns": { "nameservers": ["10.96.0.10"] },
            "example.com/unknown": [1, 2],
        })
    }

    fn parse(value: &Value) -> CniResult {
        CniResult::from_value("test", value).unwrap()
    }

    #[test]
    fn a_result_with_unknown_fields_is_unchanged() {
        let value = bridge_result();
        let again = serde_json::to_value(parse(&value).convert(SpecVersion::V0_3_1)).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn newer_versions_have_no_family_in_addresses_and_older_ones_do() {
        let new = parse(&bridge_result()).convert(SpecVersion::V1_0_0);
        let value = serde_json::to_value(&new).unwrap();
        assert_eq!(value["cniVersion"], "1.0.0");
        assert_eq!(value["ips"][0].get("version"), None);
        let old = serde_json::to_value(new.convert(SpecVersion::V0_4_0)).unwrap();
        assert_eq!(
            (&old["ips"][0]["version"], &old["ips"][1]["version"]),
            (&json!("4"), &json!("6"))
        );
    }

    #[test]
    fn fields_of_1_1_0_are_removed_for_older_versions() {
        let value = json!({
            "interfaces": [{ "name": "a", "mtu": 1450, "pciID": "x", "mine": 1 }],
            "routes": [{ "dst": "::/0", "mtu": 1400, "priority": 5, "table": 7, "advmss": 1, "scope": 0 }],
        });
        let new = serde_json::to_value(parse(&value).convert(SpecVersion::V1_1_0)).unwrap();
        assert_eq!((&new["interfaces"], &new["routes"]), (&value["interfaces"], &value["routes"]));
        let old = serde_json::to_value(parse(&value).convert(SpecVersion::V1_0_0)).unwrap();
        assert_eq!(old["interfaces"], json!([{ "name": "a", "mine": 1 }]));
        assert_eq!(old["routes"], json!([{ "dst": "::/0" }]));
    }

    #[test]
    fn addresses_are_those_of_the_interface() {
        let mut result = parse(&bridge_result());
        let addresses = |result: &CniResult| {
            result.addresses_of("eth0").iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&result), ["10.244.0.2", "fd00::2"]);
        result.ips[1].interface = Some(0);
        assert_eq!(addresses(&result), ["10.244.0.2"]);
        result.ips[0].interface = None;
        assert_eq!(addresses(&result), ["10.244.0.2"]);
    }

    #[test]
    fn null_lists_are_empty_and_an_error_names_its_origin() {
        let value =
            json!({ "cniVersion": "1.0.0", "interfaces": null, "ips": null, "routes": null });
        assert_eq!(parse(&value).ips, []);
        let error = CniResult::parse("prevResult", br#"{"ips":[{"address":"x"}]}"#).unwrap_err();
        assert!(error.to_string().contains("prevResult"), "{error}");
    }
}
