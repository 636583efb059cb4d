//! Running another plugin: IPAM, or the main plugin in delegate mode.
//!
//! In: its type, a verb, a configuration. Out: its standard output, or its error. It inherits netpol-cni's environment with
//! the verb in `CNI_COMMAND`, and its standard error.
//!
//! A plugin that refuses the configuration's version is called with VERSION, and then again
//! with the newest version that both support, so that an older IPAM plugin works with a newer configuration.
//!
//! Source: CNI specification 1.1.0, "Delegated Plugin protocol".

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use netpol_proto::ErrorCode;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::environment::{Environment, Verb};
use crate::error::CniError;
use crate::result::{self, CniResult};
use crate::version::SpecVersion;

/// Why the other plugin did not serve the call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file of that name in `CNI_PATH`.
    #[error("plugin {plugin_type} not found in CNI_PATH ({})", join(directories))]
    NotFound {
        /// Its type, which is the file's name.
        plugin_type: String,
        /// The directories that were searched.
        directories: Vec<PathBuf>,
    },
    /// It could not be started, or its standard streams failed.
    #[error("cannot run plugin {path}")]
    Run {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// It failed with a CNI error.
    #[error("plugin {plugin_type} failed on {verb}: {message}")]
    Failed {
        /// Its type.
        plugin_type: String,
        /// The verb.
        verb: &'static str,
        /// The code of its error.
        code: ErrorCode,
        /// The message of its error.
        message: String,
        /// The details of its error; may be empty.
        details: String,
    },
    /// It failed without a CNI error, by a signal for example.
    #[error(
        "plugin {plugin_type} failed on {verb} with {status} and no CNI error, output `{output}`"
    )]
    Garbled {
        /// Its type.
        plugin_type: String,
        /// The verb.
        verb: &'static str,
        /// Exit status of the process.
        status: std::process::ExitStatus,
        /// The first 200 characters of its standard output.
        output: String,
    },
    /// It supports no version from 0.3.0 to the configuration's.
    #[error("plugin {plugin_type} supports no CNI version from 0.3.0 to {version}")]
    NoCommonVersion {
        /// Its type.
        plugin_type: String,
        /// The configuration's.
        version: SpecVersion,
    },
    /// The newest version that it supports lacks the verb.
    #[error("plugin {plugin_type} supports CNI {version}, which does not have {verb}")]
    VerbTooNew {
        /// Its type.
        plugin_type: String,
        /// The newest version that both support.
        version: SpecVersion,
        /// The verb.
        verb: &'static str,
    },
}

fn join(directories: &[PathBuf]) -> String {
    directories.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":")
}

impl Error {
    /// The CNI error code. The code of the other plugin's error is kept.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Failed { code, .. } => *code,
            Self::NotFound { .. } | Self::Run { .. } | Self::Garbled { .. } => ErrorCode::PLUGIN,
            Self::NoCommonVersion { .. } | Self::VerbTooNew { .. } => {
                ErrorCode::INCOMPATIBLE_VERSION
            }
        }
    }
}

impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        let code = error.code();
        match error {
            Error::Failed { ref details, .. } => {
                Self { code, msg: error.to_string(), details: details.clone() }
            }
            Error::NotFound { .. }
            | Error::Run { .. }
            | Error::Garbled { .. }
            | Error::NoCommonVersion { .. }
            | Error::VerbTooNew { .. } => Self::caused(code, &error),
        }
    }
}

/// Another plugin and its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Plugin<'a> {
    /// The environment of netpol-cni.
    pub environment: &'a Environment,
    /// The configuration's version of the specification.
    pub version: SpecVersion,
    /// Its type, checked to be the name of a file.
    pub plugin_type: &'a str,
    /// Its configuration. `cniVersion` is replaced for each call.
    pub config: &'a Map<String, Value>,
}

impl Plugin<'_> {
    /// Calls ADD. Returns the result in the form of the configuration's version.
    ///
    /// # Errors
    /// All variants of [`Error`] but `VerbTooNew`; a result that cannot be read is [`ErrorCode::DECODE`].
    pub fn add(&self) -> Result<CniResult, CniError> {
        let output = self.call(Verb::Add)?;
        let result =
            CniResult::parse(&format!("the answer of plugin {}", self.plugin_type), &output);
        Ok(result.map_err(|error: result::Error| error)?.convert(self.version))
    }

    /// Calls DEL.
    ///
    /// # Errors
    /// All variants of [`Error`] but `VerbTooNew`.
    pub fn del(&self) -> Result<(), Error> {
        self.call(Verb::Del).map(drop)
    }

    /// Calls CHECK, GC or STATUS. Succeeds if the plugin is too old for the verb.
    ///
    /// # Errors
    /// All variants of [`Error`] but `VerbTooNew`.
    pub fn call_if_known(&self, verb: Verb) -> Result<(), Error> {
        match self.call(verb) {
            Err(Error::VerbTooNew { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn call(&self, verb: Verb) -> Result<Vec<u8>, Error> {
        let path = self.find()?;
        let failure = match self.run(&path, verb, self.version) {
            // A plugin older than the verb reports `CNI_COMMAND` as invalid.
            Err(failure @ Error::Failed { code, .. })
                if code == ErrorCode::INCOMPATIBLE_VERSION
                    || code == ErrorCode::INVALID_ENVIRONMENT =>
            {
                failure
            }
            other => return other,
        };
        let version = self.newest_common_version(&path)?;
        if version < first_version_with(verb) {
            let plugin_type = self.plugin_type.into();
            return Err(Error::VerbTooNew { plugin_type, version, verb: verb.as_str() });
        }
        if version == self.version {
            return Err(failure);
        }
        self.run(&path, verb, version)
    }

    /// The first file of that name, in the order of `CNI_PATH`.
    fn find(&self) -> Result<PathBuf, Error> {
        // Without CNI_PATH no plugin is found, and the error shows the empty list of directories.
        let directories = self.environment.plugin_dirs().unwrap_or_default();
        let found =
            directories.iter().map(|dir| dir.join(self.plugin_type)).find(|path| path.is_file());
        found.ok_or_else(|| Error::NotFound { plugin_type: self.plugin_type.into(), directories })
    }

    fn newest_common_version(&self, path: &Path) -> Result<SpecVersion, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Versions {
            #[serde(default)]
            supported_versions: Vec<String>,
        }
        let output = self.run(path, Verb::Version, self.version)?;
        let versions: Versions =
            serde_json::from_slice(&output).unwrap_or(Versions { supported_versions: Vec::new() });
        let known = versions.supported_versions.iter().filter_map(|text| SpecVersion::parse(text));
        known.filter(|version| *version <= self.version).max().ok_or_else(|| {
            Error::NoCommonVersion { plugin_type: self.plugin_type.into(), version: self.version }
        })
    }

    fn run(&self, path: &Path, verb: Verb, version: SpecVersion) -> Result<Vec<u8>, Error> {
        let mut config = self.config.clone();
        config.insert("cniVersion".into(), version.as_str().into());
        // The previous result has the form of the configuration's version.
        if let Some(previous) = config.get_mut("prevResult")
            && let Ok(result) = CniResult::from_value("prevResult", previous)
            && let Ok(converted) = serde_json::to_value(result.convert(version))
        {
            *previous = converted;
        }
        let run_error = |source| Error::Run { path: path.into(), source };
        let config = serde_json::to_vec(&config).map_err(|error| run_error(error.into()))?;
        let output = execute(path, verb, self.environment, &config).map_err(run_error)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.failure(verb, &output))
    }

    fn failure(&self, verb: Verb, output: &Output) -> Error {
        #[derive(Deserialize)]
        struct Json {
            code: ErrorCode,
            #[serde(default)]
            msg: String,
            #[serde(default)]
            details: String,
        }
        let plugin_type = self.plugin_type.into();
        let verb = verb.as_str();
        match serde_json::from_slice(&output.stdout) {
            Ok(Json { code, msg: message, details }) => {
                Error::Failed { plugin_type, verb, code, message, details }
            }
            Err(_not_json) => {
                let output_text =
                    String::from_utf8_lossy(&output.stdout).trim().chars().take(200).collect();
                Error::Garbled { plugin_type, verb, status: output.status, output: output_text }
            }
        }
    }
}

/// The first version of the specification with this verb.
pub fn first_version_with(verb: Verb) -> SpecVersion {
    match verb {
        Verb::Add | Verb::Del | Verb::Version => SpecVersion::V0_3_0,
        Verb::Check => SpecVersion::V0_4_0,
        Verb::Gc | Verb::Status => SpecVersion::V1_1_0,
    }
}

/// Runs the file and waits for it to exit.
fn execute(
    path: &Path,
    verb: Verb,
    environment: &Environment,
    config: &[u8],
) -> io::Result<Output> {
    let mut child = Command::new(path)
        .env_clear()
        .envs(environment.variables())
        .env("CNI_COMMAND", verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let stdin = child.stdin.take();
    // On a separate thread, because a plugin may write before it has read all of its input.
    std::thread::scope(|scope| {
        let writer = std::thread::Builder::new().spawn_scoped(scope, move || match stdin {
            Some(mut stdin) => stdin.write_all(config),
            None => Ok(()),
        })?;
        let output = child.wait_with_output();
        match writer.join() {
            // A plugin need not read its configuration, for example for VERSION.
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Ok(_) => output,
            Err(_panic) => Err(io::Error::other("configuration not written")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Calls a plugin that is a shell script.
    fn call(script: &str, verb: Verb, version: SpecVersion) -> Result<String, Error> {
        call_with(&json!({ "name": "n", "mine": 1 }), script, verb, version)
    }

    fn call_with(
        config: &Value,
        script: &str,
        verb: Verb,
        version: SpecVersion,
    ) -> Result<String, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ipam");
        // Written by another process: the child of a parallel test could inherit our descriptor, and the file would be
        // busy when it is executed.
        let write = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\n%s\n' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"])
            .args([path.as_os_str(), script.as_ref()])
            .status();
        assert!(write.unwrap().success());
        let environment = Environment::new([
            ("PATH".into(), std::env::var_os("PATH").unwrap()),
            ("CNI_PATH".into(), directory.path().into()),
            ("CNI_COMMAND".into(), "ADD".into()),
        ]);
        let config = config.as_object().unwrap();
        let plugin = Plugin { environment: &environment, version, plugin_type: "ipam", config };
        plugin.call(verb).map(|output| String::from_utf8(output).unwrap())
    }

    #[test]
    fn the_plugin_gets_the_configuration_and_the_verb() {
        let output = call("cat; echo $CNI_COMMAND", Verb::Del, SpecVersion::V1_0_0).unwrap();
        assert_eq!(output, "{\"cniVersion\":\"1.0.0\",\"mine\":1,\"name\":\"n\"}DEL\n");
    }

    #[test]
    fn a_plugin_that_does_not_read_its_configuration_is_fine() {
        assert_eq!(call("exec <&-; echo {}", Verb::Add, SpecVersion::V1_0_0).unwrap(), "{}\n");
    }

    #[test]
    fn an_older_plugin_is_called_with_its_own_version() {
        let script = r#"
            config=$(cat)
            case "$CNI_COMMAND $config" in
            VERSION*) echo '{"supportedVersions":["0.2.0","0.4.0","1.0.0","9.0.0"]}' ;;
            STATUS*) echo '{"code":4,"msg":"unknown CNI_COMMAND"}'; exit 1 ;;
            *1.1.0*) echo '{"code":1,"msg":"too new"}'; exit 1 ;;
            *) echo "$CNI_COMMAND $config" ;;
            esac"#;
        let output = call(script, Verb::Add, SpecVersion::V1_1_0).unwrap();
        assert_eq!(output, "ADD {\"cniVersion\":\"1.0.0\",\"mine\":1,\"name\":\"n\"}\n");
        for verb in [Verb::Gc, Verb::Status] {
            let error = call(script, verb, SpecVersion::V1_1_0).unwrap_err();
            let too_new = matches!(error, Error::VerbTooNew { version: SpecVersion::V1_0_0, .. });
            assert!(too_new, "{error}");
        }
    }

    #[test]
    fn the_previous_result_is_passed_in_the_plugins_version() {
        let config = json!({ "prevResult": { "cniVersion": "1.1.0", "ips": [{ "address": "10.0.0.2/24" }] } });
        let output = call_with(&config, "cat", Verb::Check, SpecVersion::V0_4_0).unwrap();
        let given: Value = serde_json::from_str(&output).unwrap();
        let expected =
            json!({ "cniVersion": "0.4.0", "ips": [{ "address": "10.0.0.2/24", "version": "4" }] });
        assert_eq!(given["prevResult"], expected);
    }

    #[test]
    fn an_error_that_is_not_about_the_version_is_returned() {
        let script = r#"
            [ $CNI_COMMAND != VERSION ] || { echo '{"supportedVersions":["1.0.0"]}'; exit; }
            echo '{"code":4,"msg":"unknown args"}'; exit 1"#;
        let error = call(script, Verb::Add, SpecVersion::V1_0_0).unwrap_err();
        assert_eq!(error.to_string(), "plugin ipam failed on ADD: unknown args");
    }

    #[test]
    fn its_error_is_returned_and_invalid_output_is_shown() {
        let error =
            call(r#"echo '{"code":42,"msg":"full"}'; exit 1"#, Verb::Add, SpecVersion::V1_0_0);
        let error = error.unwrap_err();
        assert_eq!(error.code(), ErrorCode(42));
        assert_eq!(error.to_string(), "plugin ipam failed on ADD: full");
        let error = call("echo oops; kill -9 $$", Verb::Add, SpecVersion::V1_0_0).unwrap_err();
        assert!(
            error.to_string().contains("signal: 9") && error.to_string().contains("oops"),
            "{error}"
        );
        let nothing_common =
            r#"[ $CNI_COMMAND = VERSION ] || { echo '{"code":1}'; exit 1; }; echo '{}'"#;
        let error = call(nothing_common, Verb::Add, SpecVersion::V1_0_0).unwrap_err();
        assert_eq!(error.code(), ErrorCode::INCOMPATIBLE_VERSION);
    }

    #[test]
    fn a_missing_plugin_is_named_with_the_places_searched() {
        let environment = Environment::new([("CNI_PATH".into(), "/nonexistent:/none".into())]);
        let config = Map::new();
        let version = SpecVersion::LATEST;
        let plugin =
            Plugin { environment: &environment, version, plugin_type: "ipam", config: &config };
        let error = plugin.del().unwrap_err().to_string();
        assert_eq!(error, "plugin ipam not found in CNI_PATH (/nonexistent:/none)");
    }
}
