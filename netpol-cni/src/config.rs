//! The network configuration.
//!
//! In: the JSON on standard input. Out: [`Config`], with the plugin's own fields checked and all other fields kept
//! for the plugins that it calls. Must not: access files; a file that is named here is read elsewhere.
//!
//! Source: CNI specification 1.1.0, "Plugin configuration objects".

use std::path::PathBuf;

use netpol_proto::{Attachment, ErrorCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::environment::is_identifier;
use crate::version::SpecVersion;

/// Longest network name, in bytes, because the alias of the host's interface contains it and holds 255 bytes.
const MAX_NAME_BYTES: usize = 200;

/// Smallest MTU, in bytes, that IPv4 works with. Source: RFC 791.
const MIN_MTU_BYTES: u32 = 68;

/// Largest MTU of a veth, in bytes. Source: Linux `ETH_MAX_MTU`.
const MAX_MTU_BYTES: u32 = 65_535;

/// Why the configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not JSON.
    #[error("network configuration is not valid JSON")]
    Json(#[source] serde_json::Error),
    /// It is JSON, but not an object.
    #[error("network configuration is not a JSON object")]
    NotAnObject,
    /// Standard input could not be read.
    #[error("cannot read the network configuration from standard input")]
    Read(#[source] std::io::Error),
    /// Its version of the specification is not supported.
    #[error(
        "cniVersion `{found}` is not supported: netpol-cni supports 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0"
    )]
    Version {
        /// Value of `cniVersion`; empty if it is missing.
        found: String,
    },
    /// The configuration's version does not have the verb.
    #[error("cniVersion {version} does not have {verb}")]
    VerbTooNew {
        /// The configuration's version.
        version: SpecVersion,
        /// The verb.
        verb: &'static str,
    },
    /// A required field is missing.
    #[error("field `{field}` is missing: {reason}")]
    Missing {
        /// Its name.
        field: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
    /// A field has the wrong JSON type.
    #[error("field `{field}` is invalid")]
    Type {
        /// Its name.
        field: &'static str,
        /// The expected type.
        #[source]
        source: serde_json::Error,
    },
    /// A field has an invalid value.
    #[error("field `{field}` is invalid: {reason}, got `{value}`")]
    Value {
        /// Its name.
        field: &'static str,
        /// The value.
        value: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Two fields exclude each other.
    #[error("field `{field}` is invalid: {reason}")]
    Conflict {
        /// The field to remove.
        field: &'static str,
        /// The reason, which names the other field.
        reason: &'static str,
    },
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Read(_) => ErrorCode::IO,
            Self::Json(_) | Self::NotAnObject => ErrorCode::DECODE,
            Self::Version { .. } | Self::VerbTooNew { .. } => ErrorCode::INCOMPATIBLE_VERSION,
            Self::Missing { .. }
            | Self::Type { .. }
            | Self::Value { .. }
            | Self::Conflict { .. } => ErrorCode::INVALID_CONFIG,
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `cniVersion`: the version of the answers.
    pub version: SpecVersion,
    /// `name` of the network.
    pub network: String,
    /// `agentSocket`: the agent's socket. Default: [`netpol_proto::SOCKET_PATH`].
    pub agent_socket: PathBuf,
    /// The plugin's mode in this network.
    pub mode: Mode,
    /// Whether no later plugin shapes the interface, for which it would claim the ingress of the host's end: with
    /// `capabilities.bandwidth` the runtime passes limits in `runtimeConfig.bandwidth`, and it has passed none.
    pub is_unshaped: bool,
    /// `prevResult`, if the runtime passed one. Parsed only by the verbs that need it, because DEL must not fail if it is
    /// invalid.
    pub prev_result: Option<Value>,
    /// The unchanged configuration, for IPAM plugins and for the fields that only GC has.
    pub raw: Map<String, Value>,
}

/// The plugin's mode in a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// Chained after a main plugin, which created the interface.
    Chained,
    /// netpol-cni creates the interface. Selected by `ipam` or `subnetFile`.
    Main(Main),
    /// netpol-cni runs the main plugin. Selected by `delegate`.
    Delegate(Delegate),
}

/// How to create the interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Main {
    /// `ipam.type`. Default with `subnetFile`: `host-local`.
    pub ipam_type: String,
    /// `ipam`, with all fields of the IPAM plugin.
    pub ipam: Map<String, Value>,
    /// `subnetFile`: the subnet file of flanneld, usually `/run/flannel/subnet.env`.
    pub subnet_file: Option<PathBuf>,
    /// `mtu` of both ends in bytes. `None` (also for 0): from `subnetFile`, else the kernel's default.
    pub mtu: Option<u32>,
}

/// The main plugin that netpol-cni runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegate {
    /// `delegate.type`.
    pub plugin_type: String,
    /// Its configuration: `delegate` and the fields that the runtime adds for every plugin.
    pub config: Map<String, Value>,
}

impl Config {
    /// Parses and checks a configuration.
    ///
    /// # Errors
    /// All variants of [`Error`] but [`Error::VerbTooNew`] and [`Error::Read`].
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(json).map_err(Error::Json)?;
        let Value::Object(raw) = value else { return Err(Error::NotAnObject) };
        let version = version(&raw)?;
        let network: String = required(&raw, "name", "every network has a name")?;
        if !is_identifier(&network) || network.len() > MAX_NAME_BYTES {
            let reason = "must be at most 200 letters, digits, `_`, `.` and `-`, with a letter or digit first";
            return Err(Error::Value { field: "name", value: network, reason });
        }
        let agent_socket = absolute_path(&raw, "agentSocket")?
            .unwrap_or_else(|| PathBuf::from(netpol_proto::SOCKET_PATH));
        let mode = mode(&raw)?;
        let prev_result = optional(&raw, "prevResult")?;
        let is_unshaped = is_unshaped(&raw);
        Ok(Self { version, network, agent_socket, mode, is_unshaped, prev_result, raw })
    }

    /// `cni.dev/valid-attachments`, which the runtime adds for GC. `null` is an empty list, as Go writes it.
    ///
    /// # Errors
    /// [`Error::Missing`], because without the list every attachment would be removed; [`Error::Type`].
    pub fn valid_attachments(&self) -> Result<Vec<Attachment>, Error> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        let field = "cni.dev/valid-attachments";
        let value = self
            .raw
            .get(field)
            .ok_or(Error::Missing { field, reason: "GC needs the list of valid attachments" })?;
        let list: Option<Vec<Valid>> =
            Deserialize::deserialize(value).map_err(|source| Error::Type { field, source })?;
        let attachment =
            |Valid { container_id, ifname }| Attachment { container_id, container_ifname: ifname };
        Ok(list.unwrap_or_default().into_iter().map(attachment).collect())
    }
}

fn version(raw: &Map<String, Value>) -> Result<SpecVersion, Error> {
    let found: String = optional(raw, "cniVersion")?.unwrap_or_default();
    SpecVersion::parse(&found).ok_or(Error::Version { found })
}

fn is_unshaped(raw: &Map<String, Value>) -> bool {
    let bandwidth = |field: &str| raw.get(field).and_then(|value| value.get("bandwidth"));
    let limit = bandwidth("runtimeConfig").filter(|limit| !limit.is_null());
    bandwidth("capabilities") == Some(&Value::Bool(true)) && limit.is_none()
}

fn mode(raw: &Map<String, Value>) -> Result<Mode, Error> {
    let ipam: Option<Map<String, Value>> = optional(raw, "ipam")?;
    let delegate: Option<Map<String, Value>> = optional(raw, "delegate")?;
    let subnet_file = absolute_path(raw, "subnetFile")?;
    let mtu = mtu(raw)?;
    match (ipam, delegate) {
        (Some(_), Some(_)) => Err(Error::Conflict {
            field: "ipam",
            reason: "with `delegate` it belongs inside `delegate`",
        }),
        (None, Some(_)) if subnet_file.is_some() => Err(Error::Conflict {
            field: "subnetFile",
            reason: "with `delegate` the other plugin creates the interface",
        }),
        (None, Some(_)) if mtu.is_some() => Err(Error::Conflict {
            field: "mtu",
            reason: "with `delegate` it belongs inside `delegate`",
        }),
        (None, Some(delegate)) => Ok(Mode::Delegate(Delegate::from_raw(raw, delegate)?)),
        (None, None) if subnet_file.is_none() => match mtu {
            None => Ok(Mode::Chained),
            Some(_) => Err(Error::Conflict {
                field: "mtu",
                reason: "without `ipam` or `subnetFile` another plugin creates the interface",
            }),
        },
        (ipam, None) => {
            let ipam = ipam.unwrap_or_default();
            let ipam_type =
                match optional(&ipam, "type").map_err(|error| rename(error, "ipam.type"))? {
                    Some(ipam_type) => ipam_type,
                    None if subnet_file.is_some() => String::from("host-local"),
                    None => {
                        let reason = "without `subnetFile` there is no default";
                        return Err(Error::Missing { field: "ipam.type", reason });
                    }
                };
            check_plugin_type("ipam.type", &ipam_type)?;
            if subnet_file.is_some() {
                if ipam.contains_key("ranges") {
                    let reason = "`subnetFile` fills it";
                    return Err(Error::Conflict { field: "ipam.ranges", reason });
                }
                if ipam.contains_key("subnet") {
                    let reason = "`subnetFile` fills `ipam.ranges`";
                    return Err(Error::Conflict { field: "ipam.subnet", reason });
                }
            }
            Ok(Mode::Main(Main { ipam_type, ipam, subnet_file, mtu }))
        }
    }
}

impl Delegate {
    /// Adds the fields that the runtime would pass to the delegate.
    fn from_raw(raw: &Map<String, Value>, mut config: Map<String, Value>) -> Result<Self, Error> {
        let type_error = |error| rename(error, "delegate.type");
        let plugin_type: String =
            required(&config, "type", "it names the plugin to run").map_err(type_error)?;
        check_plugin_type("delegate.type", &plugin_type)?;
        if raw.get("type").and_then(Value::as_str) == Some(plugin_type.as_str()) {
            let reason = "must be another plugin";
            return Err(Error::Value { field: "delegate.type", value: plugin_type, reason });
        }
        for (field, value) in raw {
            let from_runtime = matches!(
                field.as_str(),
                "cniVersion" | "name" | "runtimeConfig" | "args" | "prevResult"
            ) || field.starts_with("cni.dev/");
            if from_runtime {
                config.insert(field.clone(), value.clone());
            }
        }
        Ok(Self { plugin_type, config })
    }
}

/// A plugin's type is used as a file name, so it must not name a path outside the directory.
fn check_plugin_type(field: &'static str, plugin_type: &str) -> Result<(), Error> {
    if plugin_type.is_empty()
        || plugin_type.contains(['/', '\\', '\0'])
        || plugin_type.starts_with('.')
    {
        let reason = "must be the name of a file in CNI_PATH";
        return Err(Error::Value { field, value: plugin_type.into(), reason });
    }
    Ok(())
}

fn mtu(raw: &Map<String, Value>) -> Result<Option<u32>, Error> {
    let field = "mtu";
    match optional(raw, field)? {
        None | Some(0) => Ok(None),
        Some(mtu @ MIN_MTU_BYTES..=MAX_MTU_BYTES) => Ok(Some(mtu)),
        Some(mtu) => {
            let reason = "must be 68 to 65535 bytes, or 0 for the default";
            Err(Error::Value { field, value: mtu.to_string(), reason })
        }
    }
}

fn absolute_path(raw: &Map<String, Value>, field: &'static str) -> Result<Option<PathBuf>, Error> {
    let path: Option<PathBuf> = optional(raw, field)?;
    match path {
        Some(path) if !path.is_absolute() => {
            let reason = "must be an absolute path";
            Err(Error::Value { field, value: path.display().to_string(), reason })
        }
        path => Ok(path),
    }
}

/// The value of a field; `None` if it is missing or `null`.
fn optional<T: DeserializeOwned>(
    raw: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<T>, Error> {
    match raw.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            T::deserialize(value).map(Some).map_err(|source| Error::Type { field, source })
        }
    }
}

fn required<T: DeserializeOwned>(
    raw: &Map<String, Value>,
    field: &'static str,
    reason: &'static str,
) -> Result<T, Error> {
    optional(raw, field)?.ok_or(Error::Missing { field, reason })
}

/// Replaces the field of an error by its full path, for fields of inner objects.
fn rename(error: Error, field: &'static str) -> Error {
    match error {
        Error::Missing { field: _, reason } => Error::Missing { field, reason },
        Error::Type { field: _, source } => Error::Type { field, source },
        other @ (Error::Json(_)
        | Error::NotAnObject
        | Error::Read(_)
        | Error::Version { .. }
        | Error::VerbTooNew { .. }
        | Error::Value { .. }
        | Error::Conflict { .. }) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(extra: Value) -> Result<Config, Error> {
        let mut value = json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "netpol-cni" });
        let Value::Object(extra) = extra else { panic!("{extra}") };
        value.as_object_mut().unwrap().extend(extra);
        Config::parse(value.to_string().as_bytes())
    }

    fn check_error(extra: &Value, code: ErrorCode, field: &str) {
        let error = parse(extra.clone()).unwrap_err();
        assert_eq!(error.code(), code, "{extra}: {error}");
        assert!(error.to_string().contains(&format!("`{field}`")), "{extra}: {error}");
    }

    #[test]
    fn without_ipam_and_delegate_the_mode_is_chained_and_the_socket_is_the_default() {
        let config = parse(json!({ "unknown": { "a": 1 }, "ipam": null })).unwrap();
        assert_eq!(config.mode, Mode::Chained);
        assert_eq!(config.agent_socket, PathBuf::from("/run/netpol/cni.sock"));
        assert_eq!(config.raw["unknown"], json!({ "a": 1 }));
        let config = parse(json!({ "agentSocket": "/tmp/a.sock" })).unwrap();
        assert_eq!(config.agent_socket, PathBuf::from("/tmp/a.sock"));
    }

    #[test]
    fn an_interface_is_unshaped_if_the_runtime_passes_limits_and_passed_none() {
        let capabilities = json!({ "bandwidth": true });
        let limit = json!({ "bandwidth": { "ingressRate": 1000 } });
        let check = |extra: Value, expected: bool| {
            assert_eq!(parse(extra.clone()).unwrap().is_unshaped, expected, "{extra}");
        };
        check(json!({}), false);
        check(json!({ "capabilities": { "bandwidth": false } }), false);
        check(json!({ "capabilities": capabilities }), true);
        check(json!({ "capabilities": capabilities, "runtimeConfig": { "mac": "x" } }), true);
        check(
            json!({ "capabilities": capabilities, "runtimeConfig": { "bandwidth": null } }),
            true,
        );
        check(json!({ "capabilities": capabilities, "runtimeConfig": limit }), false);
    }

    #[test]
    fn ipam_selects_the_main_mode_and_keeps_the_fields_of_the_ipam_plugin() {
        let config =
            parse(json!({ "ipam": { "type": "host-local", "dataDir": "/d" }, "mtu": 1400 }))
                .unwrap();
        let Mode::Main(Main { ipam_type, ipam, subnet_file, mtu }) = config.mode else { panic!() };
        assert_eq!((ipam_type.as_str(), &ipam["dataDir"]), ("host-local", &json!("/d")));
        assert_eq!((subnet_file, mtu), (None, Some(1400)));
    }

    #[test]
    fn subnet_file_alone_means_host_local() {
        let config = parse(json!({ "subnetFile": "/run/flannel/subnet.env", "mtu": 0 })).unwrap();
        let Mode::Main(Main { ipam_type, mtu, .. }) = config.mode else { panic!() };
        assert_eq!((ipam_type.as_str(), mtu), ("host-local", None));
    }

    #[test]
    fn a_delegate_gets_the_fields_that_a_runtime_adds_and_no_others() {
        let config = parse(json!({
            "delegate": { "type": "bridge", "bridge": "cni0" },
            "runtimeConfig": { "mac": "x" }, "args": {}, "prevResult": {}, "cni.dev/x": 1,
            "agentSocket": "/a", "mine": 1,
        }))
        .unwrap();
        let Mode::Delegate(Delegate { plugin_type, config }) = config.mode else { panic!() };
        assert_eq!(plugin_type, "bridge");
        let expected = json!({
            "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "bridge": "cni0",
            "runtimeConfig": { "mac": "x" }, "args": {}, "prevResult": {}, "cni.dev/x": 1,
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn invalid_values_name_their_field() {
        let invalid = ErrorCode::INVALID_CONFIG;
        check_error(&json!({ "name": null }), invalid, "name");
        check_error(&json!({ "name": "a/b" }), invalid, "name");
        check_error(&json!({ "name": "n".repeat(201) }), invalid, "name");
        check_error(&json!({ "agentSocket": 5 }), invalid, "agentSocket");
        check_error(&json!({ "agentSocket": "run/x" }), invalid, "agentSocket");
        check_error(&json!({ "ipam": [] }), invalid, "ipam");
        check_error(&json!({ "ipam": {} }), invalid, "ipam.type");
        check_error(&json!({ "ipam": { "type": 1 } }), invalid, "ipam.type");
        check_error(&json!({ "ipam": { "type": "../sh" } }), invalid, "ipam.type");
        check_error(&json!({ "ipam": { "type": "x" }, "mtu": 67 }), invalid, "mtu");
        check_error(&json!({ "ipam": { "type": "x" }, "mtu": -1 }), invalid, "mtu");
        check_error(&json!({ "mtu": 1400 }), invalid, "mtu");
        check_error(&json!({ "subnetFile": "x" }), invalid, "subnetFile");
        check_error(
            &json!({ "subnetFile": "/x", "ipam": { "ranges": [] } }),
            invalid,
            "ipam.ranges",
        );
        check_error(
            &json!({ "subnetFile": "/x", "ipam": { "subnet": "" } }),
            invalid,
            "ipam.subnet",
        );
        check_error(&json!({ "delegate": {} }), invalid, "delegate.type");
        check_error(&json!({ "delegate": { "type": "" } }), invalid, "delegate.type");
        check_error(&json!({ "delegate": { "type": "netpol-cni" } }), invalid, "delegate.type");
        check_error(&json!({ "delegate": { "type": "a" }, "ipam": {} }), invalid, "ipam");
        check_error(&json!({ "delegate": { "type": "a" }, "mtu": 1400 }), invalid, "mtu");
        check_error(
            &json!({ "delegate": { "type": "a" }, "subnetFile": "/x" }),
            invalid,
            "subnetFile",
        );
    }

    #[test]
    fn other_versions_and_other_input_have_their_own_codes() {
        check_error(&json!({ "cniVersion": "0.2.0" }), ErrorCode::INCOMPATIBLE_VERSION, "0.2.0");
        check_error(&json!({ "cniVersion": null }), ErrorCode::INCOMPATIBLE_VERSION, "");
        assert_eq!(Config::parse(b"{").unwrap_err().code(), ErrorCode::DECODE);
        assert_eq!(Config::parse(b"[]").unwrap_err().code(), ErrorCode::DECODE);
    }

    /// Any JSON, a few levels deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z/.0-9-]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 4, |inner| {
            let key = prop_oneof!["type", "ranges", "subnet", "name", "[a-z]{1,4}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_of_any_field_is_accepted_or_refused_with_a_code_of_the_specification(
            field in prop_oneof![
                Just("name"), Just("cniVersion"), Just("type"), Just("ipam"), Just("delegate"), Just("mtu"),
                Just("subnetFile"), Just("agentSocket"), Just("prevResult"), Just("cni.dev/valid-attachments"),
            ],
            value in any_json(),
        ) {
            match parse(json!({ field: value })) {
                Ok(config) => {
                    if let Err(error) = config.valid_attachments() {
                        prop_assert_eq!(error.code(), ErrorCode::INVALID_CONFIG);
                    }
                }
                Err(error) => {
                    let known = [ErrorCode::INCOMPATIBLE_VERSION, ErrorCode::INVALID_CONFIG];
                    prop_assert!(known.contains(&error.code()), "{}", error);
                }
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Config::parse(&bytes).is_err());
        }
    }

    #[test]
    fn gc_needs_its_list_and_null_is_an_empty_one() {
        let field = "cni.dev/valid-attachments";
        let attachments = |extra| parse(extra).unwrap().valid_attachments();
        assert!(matches!(attachments(json!({})), Err(Error::Missing { .. })));
        assert!(matches!(
            attachments(json!({ field: [{ "ifname": "a" }] })),
            Err(Error::Type { .. })
        ));
        assert_eq!(attachments(json!({ field: null })).unwrap(), []);
        let one = Attachment { container_id: "c".into(), container_ifname: "eth0".into() };
        let list = json!({ field: [{ "containerID": "c", "ifname": "eth0" }] });
        assert_eq!(attachments(list).unwrap(), [one]);
    }
}
