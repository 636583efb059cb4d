//! The verbs and their dispatch.
//!
//! In: environment and standard input as values. Out: the standard output, and the exit code.

mod add;
mod check;
mod del;
mod gc;
mod status;

use std::io::{Read, Write};

use netpol_netlink::Netlink;
use netpol_proto::ErrorCode;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{self, Config, Main};
use crate::environment::{Environment, Verb};
use crate::error::CniError;
use crate::plugin::{Plugin, first_version_with};
use crate::subnet_file::Subnets;
use crate::version::SpecVersion;

/// Exit code of a failure; the JSON has the error.
const FAILURE: u8 = 1;

/// The input that all verbs except VERSION need.
struct Call<'a> {
    environment: &'a Environment,
    config: &'a Config,
}

/// Serves one call and returns the exit code.
///
/// A failure is written to `stdout` as the specification's JSON, in the version of the configuration.
pub fn run(environment: &Environment, stdin: impl Read, mut stdout: impl Write) -> u8 {
    let (version, outcome) = serve(environment, stdin);
    let (output, code) = match outcome {
        Ok(output) => (Ok(output), 0),
        Err(error) => (error.to_json(version), FAILURE),
    };
    let written = output.map_err(Into::into).and_then(|mut output| {
        if !output.is_empty() {
            output.push(b'\n');
        }
        stdout.write_all(&output).and_then(|()| stdout.flush())
    });
    // The runtime could not read the result, so the call failed.
    if written.is_ok() { code } else { FAILURE }
}

/// The version of the answer, and the answer.
fn serve(environment: &Environment, stdin: impl Read) -> (SpecVersion, Result<Vec<u8>, CniError>) {
    let verb = match environment.verb() {
        Ok(Verb::Version) => return (SpecVersion::LATEST, version(stdin)),
        Ok(verb) => verb,
        Err(error) => return (SpecVersion::LATEST, Err(error.into())),
    };
    match read(stdin).and_then(|json| Ok(Config::parse(&json)?)) {
        Ok(config) => (config.version, dispatch(verb, &Call { environment, config: &config })),
        Err(error) => (SpecVersion::LATEST, Err(error)),
    }
}

fn dispatch(verb: Verb, call: &Call<'_>) -> Result<Vec<u8>, CniError> {
    let version = call.config.version;
    if version < first_version_with(verb) {
        return Err(config::Error::VerbTooNew { version, verb: verb.as_str() }.into());
    }
    match verb {
        Verb::Add => to_json(&add::add(call)?),
        Verb::Del => del::del(call).map(|()| Vec::new()),
        Verb::Check => check::check(call).map(|()| Vec::new()),
        Verb::Gc => gc::gc(call).map(|()| Vec::new()),
        Verb::Status => status::status(call).map(|()| Vec::new()),
        // VERSION has no configuration and is answered before it is parsed.
        Verb::Version => to_json(&Versions::new(version.as_str().into())),
    }
}

/// Answer of VERSION.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    cni_version: String,
    supported_versions: [SpecVersion; 5],
}

impl Versions {
    fn new(cni_version: String) -> Self {
        Self { cni_version, supported_versions: SpecVersion::ALL }
    }
}

/// VERSION: answers with the caller's version, if it names one.
fn version(stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let input: Option<Map<String, Value>> = serde_json::from_slice(&read(stdin)?).ok();
    let asked = input.as_ref().and_then(|input| input.get("cniVersion")).and_then(Value::as_str);
    to_json(&Versions::new(asked.unwrap_or(SpecVersion::LATEST.as_str()).into()))
}

fn read(mut stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let mut json = Vec::new();
    stdin.read_to_end(&mut json).map_err(config::Error::Read)?;
    Ok(json)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, CniError> {
    serde_json::to_vec(value).map_err(|error| CniError::caused(ErrorCode::DECODE, &error))
}

/// Opens rtnetlink in the host's namespace.
fn host_netlink() -> Result<Netlink, CniError> {
    Netlink::open().map_err(|error| {
        CniError::new(ErrorCode::KERNEL, "cannot open a netlink socket")
            .with_details(&error.to_string())
    })
}

/// The configuration for an IPAM plugin: the plugin's own, with the effective `ipam` section.
fn ipam_config(call: &Call<'_>, main: &Main, subnets: Option<&Subnets>) -> Map<String, Value> {
    let mut ipam = main.ipam.clone();
    ipam.insert("type".into(), main.ipam_type.as_str().into());
    if let Some(subnets) = subnets {
        subnets.fill(&mut ipam);
    }
    let mut config = call.config.raw.clone();
    config.insert("ipam".into(), ipam.into());
    config
}

impl Call<'_> {
    /// Another plugin, in this call's environment and version.
    fn plugin<'a>(&'a self, plugin_type: &'a str, config: &'a Map<String, Value>) -> Plugin<'a> {
        Plugin { environment: self.environment, version: self.config.version, plugin_type, config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: Option<&str>, stdin: &str) -> (u8, Value) {
        let command = command.map(|command| ("CNI_COMMAND".into(), command.into()));
        let mut stdout = Vec::new();
        let code = run(&Environment::new(command), stdin.as_bytes(), &mut stdout);
        (code, serde_json::from_slice(&stdout).unwrap())
    }

    #[test]
    fn version_answers_with_the_version_of_the_caller() {
        for (stdin, expected) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"1.2.0"}"#, "1.2.0"),
            ("", "1.1.0"),
            ("nonsense", "1.1.0"),
        ] {
            let (code, answer) = check(Some("VERSION"), stdin);
            assert_eq!((code, &answer["cniVersion"]), (0, &expected.into()), "{stdin}");
            let supported = serde_json::json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
            assert_eq!(answer["supportedVersions"], supported);
        }
    }

    #[test]
    fn errors_are_json_in_the_configurations_version() {
        let config = r#"{"cniVersion":"0.4.0","name":"n","type":"netpol-cni"}"#;
        let (code, error) = check(Some("ADD"), config);
        assert_eq!((code, &error["cniVersion"], &error["code"]), (1, &"0.4.0".into(), &4.into()));
        assert!(error["msg"].as_str().unwrap().contains("CNI_CONTAINERID"), "{error}");
    }

    #[test]
    fn without_a_command_the_error_explains_that_this_is_a_cni_plugin() {
        let (code, error) = check(None, "");
        assert_eq!((code, &error["code"]), (1, &4.into()));
        assert!(error["msg"].as_str().unwrap().contains("is a CNI plugin"), "{error}");
    }

    #[test]
    fn a_verb_newer_than_the_configuration_is_an_incompatible_version() {
        for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")] {
            let config = format!(r#"{{"cniVersion":"{version}","name":"n"}}"#);
            let (code, error) = check(Some(verb), &config);
            assert_eq!((code, &error["code"]), (1, &1.into()), "{verb}");
        }
    }

    #[test]
    fn an_output_that_cannot_be_written_is_a_failure() {
        let environment = Environment::new([("CNI_COMMAND".into(), "VERSION".into())]);
        assert_eq!(run(&environment, &b""[..], &mut [0_u8; 3][..]), FAILURE);
    }
}
