//! The `CNI_*` environment variables.
//!
//! In: the environment as values. Out: the verb, the attachment, the pod. No other module reads
//! the environment. Other plugins get it unchanged except for `CNI_COMMAND`.
//!
//! Source: CNI specification 1.1.0, "Parameters".

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use netpol_proto::{Attachment, PodRef};

/// Longest interface name, in bytes. Source: Linux `IFNAMSIZ` without the terminating zero.
const MAX_IFNAME_BYTES: usize = 15;

/// The operation that the runtime requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Connect a container.
    Add,
    /// Disconnect a container; succeeds if there is nothing to remove.
    Del,
    /// Check that a container is still connected as ADD connected it.
    Check,
    /// Remove the resources that belong to no valid attachment.
    Gc,
    /// Check that an ADD could be served now.
    Status,
    /// List the supported versions of the specification.
    Version,
}

impl Verb {
    const ALL: [Self; 6] =
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// The value of `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// Why a variable is unusable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not set, or empty.
    #[error(
        "environment variable {name} is not set: netpol-cni {} is a CNI plugin, run by a container runtime",
        netpol_proto::build::version()
    )]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// Its value is not one that the specification allows.
    #[error("environment variable {name} is invalid: {reason}, got `{value}`")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it is set to.
        value: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// `CNI_ARGS` does not name the pod, so its policies cannot be found.
    #[error("environment variable CNI_ARGS has no {key}: netpol-cni serves only Kubernetes pods")]
    NotAPod {
        /// The missing key.
        key: &'static str,
    },
}

/// The variables of the process.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// From name and value pairs, such as those of [`std::env::vars_os`].
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { variables: variables.into_iter().collect() }
    }

    /// All variables, for the environment of another plugin.
    pub fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// The verb.
    ///
    /// # Errors
    /// [`Error::Missing`], or [`Error::Invalid`] for a verb that no version of the specification has.
    pub fn verb(&self) -> Result<Verb, Error> {
        let name = "CNI_COMMAND";
        let value = self.required(name)?;
        Verb::ALL.into_iter().find(|verb| verb.as_str() == value).ok_or_else(|| {
            invalid(name, value, "must be one of ADD, DEL, CHECK, GC, STATUS, VERSION")
        })
    }

    /// Container id and interface name.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Invalid`].
    pub fn attachment(&self) -> Result<Attachment, Error> {
        let name = "CNI_CONTAINERID";
        let container_id = self.required(name)?;
        if !is_identifier(container_id) {
            let reason = "must be letters, digits, `_`, `.` and `-`, with a letter or digit first";
            return Err(invalid(name, container_id, reason));
        }
        let name = "CNI_IFNAME";
        let ifname = self.required(name)?;
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > MAX_IFNAME_BYTES
            || ifname == "."
            || ifname == ".."
            || ifname.contains(forbidden)
        {
            let reason =
                "must be an interface name of at most 15 bytes without `/`, `:` and spaces";
            return Err(invalid(name, ifname, reason));
        }
        Ok(Attachment { container_id: container_id.into(), container_ifname: ifname.into() })
    }

    /// Path of the container's network namespace; `None` if the runtime has removed it.
    pub fn netns(&self) -> Option<PathBuf> {
        self.variables
            .get(OsStr::new("CNI_NETNS"))
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// As [`Self::netns`], for the verbs that need it.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn required_netns(&self) -> Result<PathBuf, Error> {
        self.netns().ok_or(Error::Missing { name: "CNI_NETNS" })
    }

    /// Whether the container's network namespace may be the plugin's own.
    pub fn allows_own_netns(&self) -> bool {
        self.variables
            .get(OsStr::new("CNI_NETNS_OVERRIDE"))
            .is_some_and(|value| !value.is_empty() && value != "0")
    }

    /// The pod, from the pairs of `CNI_ARGS`. Other keys are ignored.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Invalid`] for `CNI_ARGS` itself, [`Error::NotAPod`] if it does not name a pod.
    pub fn pod(&self) -> Result<PodRef, Error> {
        let name = "CNI_ARGS";
        let args = self.required(name)?;
        let mut pairs = BTreeMap::new();
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(name, args, "must be `KEY=VALUE` pairs between `;`"))?;
            pairs.insert(key.trim(), value);
        }
        let mut take = |key| pairs.remove(key).filter(|value| !value.is_empty()).map(String::from);
        let mut required = |key| take(key).ok_or(Error::NotAPod { key });
        Ok(PodRef {
            namespace: required("K8S_POD_NAMESPACE")?,
            name: required("K8S_POD_NAME")?,
            uid: take("K8S_POD_UID"),
        })
    }

    /// The directories that are searched for other plugins, in order.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn plugin_dirs(&self) -> Result<Vec<PathBuf>, Error> {
        let value = self.variables.get(OsStr::new("CNI_PATH")).filter(|value| !value.is_empty());
        let value = value.ok_or(Error::Missing { name: "CNI_PATH" })?;
        Ok(std::env::split_paths(value).filter(|dir| !dir.as_os_str().is_empty()).collect())
    }

    fn required(&self, name: &'static str) -> Result<&str, Error> {
        let value = self.variables.get(OsStr::new(name)).filter(|value| !value.is_empty());
        let value = value.ok_or(Error::Missing { name })?;
        value.to_str().ok_or_else(|| invalid(name, &value.to_string_lossy(), "must be valid UTF-8"))
    }
}

fn invalid(name: &'static str, value: &str, reason: &'static str) -> Error {
    Error::Invalid { name, value: value.into(), reason }
}

/// Whether the text is a valid container id or network name by the specification.
pub(crate) fn is_identifier(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(pairs.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn an_attachment_needs_an_id_and_a_kernel_interface_name() {
        let check = |id: &str, ifname: &str| {
            environment(&[("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname)]).attachment().is_ok()
        };
        assert!(check("a", "eth0"));
        assert!(check("0_.-z", "abcdefghijklmno"));
        for id in ["", "-a", ".a", "a/b", "a b", "ä"] {
            assert!(!check(id, "eth0"), "{id}");
        }
        for ifname in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "abcdefghijklmnop"] {
            assert!(!check("a", ifname), "{ifname}");
        }
    }

    #[test]
    fn the_pod_comes_from_cni_args() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u=1;";
        let pod = environment(&[("CNI_ARGS", args)]).pod().unwrap();
        let expected =
            PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("u=1".into()) };
        assert_eq!(pod, expected);
    }

    #[test]
    fn an_attachment_that_names_no_pod_is_refused() {
        for (args, expected) in [
            ("", "CNI_ARGS is not set"),
            ("K8S_POD_NAME=a", "has no K8S_POD_NAMESPACE"),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=", "has no K8S_POD_NAME"),
            ("K8S_POD_NAMESPACE", "must be `KEY=VALUE`"),
        ] {
            let error = environment(&[("CNI_ARGS", args)]).pod().unwrap_err().to_string();
            assert!(error.contains(expected), "{args}: {error}");
        }
    }

    #[test]
    fn an_unknown_verb_is_named() {
        let error = environment(&[("CNI_COMMAND", "EAT")]).verb().unwrap_err();
        assert!(error.to_string().contains("EAT"), "{error}");
        assert_eq!(environment(&[("CNI_COMMAND", "GC")]).verb().unwrap(), Verb::Gc);
    }

    #[test]
    fn empty_directories_are_skipped() {
        let dirs =
            environment(&[("CNI_PATH", "/opt/cni/bin::/usr/lib/cni")]).plugin_dirs().unwrap();
        assert_eq!(dirs, [PathBuf::from("/opt/cni/bin"), "/usr/lib/cni".into()]);
    }
}
