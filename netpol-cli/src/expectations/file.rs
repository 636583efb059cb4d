//! The format of test files.
//!
//! In: the text of a file. Out: expectations, each with its line. Whatever is not understood is an error with a line.
//! Must not: read objects, or evaluate policies.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use netpol_policy::model::{PortName, Transport};
use netpol_policy::simulate::PortChoice;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

/// `apiVersion` of a test file.
pub(crate) const API_VERSION: &str = "netpol.dev/v1";
/// `kind` of a test file.
pub(crate) const KIND: &str = "PolicyTest";

/// A test file.
#[derive(Debug)]
pub(super) struct TestFile {
    /// Paths of the objects, relative to the folder of the file; `None` for that folder.
    pub(super) objects: Option<Vec<PathBuf>>,
    /// Namespace of names without one.
    pub(super) namespace: Option<String>,
    /// The expectations, in the order of the file; never empty.
    pub(super) expectations: Vec<Expectation>,
}

/// What a connection is expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Allowed,
    Denied,
}

impl Expected {
    pub(super) const fn opposite(self) -> Self {
        match self {
            Self::Allowed => Self::Denied,
            Self::Denied => Self::Allowed,
        }
    }
}

/// A port with its protocol.
pub(super) type Port = (PortChoice, Transport);

/// One expectation.
#[derive(Debug)]
pub(super) struct Expectation {
    /// Its line, counted from 1.
    pub(super) line: u64,
    pub(super) from: End,
    pub(super) to: End,
    /// The port; `None` for every port, or every declared one if the connection is allowed.
    pub(super) port: Option<Port>,
    pub(super) expected: Expected,
    /// Pods with the opposite verdict, each with its line.
    pub(super) except: Vec<(End, u64)>,
    /// Whether the destination need not declare the port.
    pub(super) is_undeclared: Undeclared,
    /// The connection as written, for reports.
    pub(super) text: String,
}

/// Whether the port may be one that the destination does not declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undeclared {
    Refused,
    Permitted,
}

/// A source or destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `any`: every pod, and every address outside the cluster.
    Any,
    /// `*/*` and `NAMESPACE/*`: every pod, or every one of a namespace.
    Pods { namespace: Option<String> },
    /// A name, an address, a block or `external`.
    Named(String),
}

impl End {
    fn parse(text: &str) -> Self {
        match text.split_once('/') {
            _ if text == "any" => Self::Any,
            Some(("*", "*")) => Self::Pods { namespace: None },
            Some((namespace, "*")) => Self::Pods { namespace: Some(namespace.to_owned()) },
            Some(_) | None => Self::Named(text.to_owned()),
        }
    }

    /// Whether it can stand for several pods.
    pub(super) const fn is_pattern(&self) -> bool {
        matches!(self, Self::Any | Self::Pods { .. })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Pods { namespace } => write!(f, "{}/*", namespace.as_deref().unwrap_or("*")),
            Self::Named(text) => f.write_str(text),
        }
    }
}

/// A mistake in a test file.
#[derive(Debug)]
pub(super) struct Mistake {
    /// The line, counted from 1; 0 if it concerns the whole file.
    pub(super) line: u64,
    pub(super) message: String,
}

impl Mistake {
    pub(super) fn at(line: u64, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    objects: Option<Vec<PathBuf>>,
    namespace: Option<String>,
    expect: Spanned<Vec<WrittenExpectation>>,
}

/// An item of `expect`: a connection with its verdict, and options.
#[derive(Debug)]
struct WrittenExpectation {
    connection: Spanned<String>,
    verdict: Spanned<String>,
    except: Vec<Spanned<String>>,
    undeclared: bool,
    /// The first field that is not understood. An error of serde would have the line of the item.
    mistake: Option<Mistake>,
}

impl<'de> Deserialize<'de> for WrittenExpectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ExpectationVisitor)
    }
}

struct ExpectationVisitor;

impl<'de> Visitor<'de> for ExpectationVisitor {
    type Value = WrittenExpectation;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an expectation such as `shop/front -> shop/redis:6379: allow`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut connection, mut except, mut undeclared) = (None, Vec::new(), false);
        let mut mistake = None;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            match key.value.as_str() {
                "except" => except = map.next_value()?,
                "undeclared" => undeclared = map.next_value()?,
                text if text.contains("->") && connection.is_none() => {
                    connection = Some((key, map.next_value()?));
                }
                other => {
                    let message = if other.contains("->") {
                        "an expectation has one connection: begin another item with `- `".to_owned()
                    } else {
                        format!(
                            "unknown field `{other}`: an expectation has `FROM -> TO[:PORT]`, `except` and `undeclared`"
                        )
                    };
                    mistake.get_or_insert(Mistake::at(key.referenced.line(), message));
                    map.next_value::<de::IgnoredAny>()?;
                }
            }
        }
        if let (None, Some(Mistake { line: _, message })) = (&connection, &mistake) {
            return Err(de::Error::custom(message));
        }
        let (connection, verdict) =
            connection.ok_or_else(|| de::Error::custom("there is no connection `FROM -> TO`"))?;
        Ok(WrittenExpectation { connection, verdict, except, undeclared, mistake })
    }
}

/// Reads a test file.
pub(super) fn parse(text: &str) -> Result<TestFile, Mistake> {
    let written: Written = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        Mistake::at(line, message(&error))
    })?;
    let Written { api_version, kind, objects, namespace, expect } = written;
    for (field, found, expected) in
        [("apiVersion", &api_version, API_VERSION), ("kind", &kind, KIND)]
    {
        if found.value != expected {
            let message = format!("{field} is {:?}, not {expected}", found.value);
            return Err(Mistake::at(found.referenced.line(), message));
        }
    }
    if expect.value.is_empty() {
        return Err(Mistake::at(expect.referenced.line(), "expect contains no expectation"));
    }
    let expectations = expect.value.into_iter().map(expectation).collect::<Result<_, _>>()?;
    Ok(TestFile { objects, namespace, expectations })
}

/// The message of a YAML error, without the lines of the file and the position.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    first.rsplit_once(" at line ").map_or(first, |(message, _)| message).to_owned()
}

fn expectation(written: WrittenExpectation) -> Result<Expectation, Mistake> {
    let WrittenExpectation { connection, verdict, except, undeclared, mistake } = written;
    if let Some(mistake) = mistake {
        return Err(mistake);
    }
    let line = connection.referenced.line();
    let expected = match verdict.value.as_str() {
        "allow" => Expected::Allowed,
        "deny" => Expected::Denied,
        other => {
            let message = format!("{}: {other:?} is neither allow nor deny", connection.value);
            return Err(Mistake::at(verdict.referenced.line(), message));
        }
    };
    let because = |message: String| Mistake::at(line, format!("{}: {message}", connection.value));
    let Some((from, to)) = connection.value.split_once("->") else {
        return Err(because("there is no `->`".to_owned()));
    };
    let (from, to) = (from.trim(), to.trim());
    let (to, port) = split_port(to).map_err(because)?;
    if from.is_empty() || to.is_empty() {
        return Err(because("the source or the destination is missing".to_owned()));
    }
    let (from, to) = (End::parse(from), End::parse(to));
    let except: Vec<(End, u64)> = except
        .into_iter()
        .map(|end| (End::parse(end.value.trim()), end.referenced.line()))
        .collect();
    if let Some((_, line)) = except.first()
        && from.is_pattern() == to.is_pattern()
    {
        let message = "except needs one pattern to make exceptions from, such as `any` or `shop/*`, as source or as destination";
        return Err(Mistake::at(*line, message));
    }
    let mut text = format!("{}: {}", connection.value, verdict.value);
    if !except.is_empty() {
        let names: Vec<String> = except.iter().map(|(end, _)| end.to_string()).collect();
        text = format!("{text} except {}", names.join(", "));
    }
    let is_undeclared = if undeclared { Undeclared::Permitted } else { Undeclared::Refused };
    Ok(Expectation { line, from, to, port, expected, except, is_undeclared, text })
}

/// Splits `TO[:PORT[/PROTOCOL]]`. An IPv6 address with a port is in brackets.
fn split_port(text: &str) -> Result<(&str, Option<Port>), String> {
    if text.parse::<IpAddr>().is_ok() || text.parse::<IpNetwork>().is_ok() {
        return Ok((text, None));
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (end, port) = match bracketed {
        Some((end, "")) => return Ok((end, None)),
        Some((end, rest)) => match rest.strip_prefix(':') {
            Some(port) => (end, port),
            None => return Err(format!("{rest:?} behind the bracket is no port")),
        },
        None => match text.rsplit_once(':') {
            Some(parts) => parts,
            None => return Ok((text, None)),
        },
    };
    let (number, transport) = match port.split_once('/') {
        None => (port, Transport::Tcp),
        Some((number, transport)) => (number, Transport::from_argument(transport)?),
    };
    let choice = PortChoice::from(number);
    let is_valid = match &choice {
        PortChoice::Number(number) => *number != 0,
        PortChoice::Name(name) => PortName::parse(name).is_some(),
    };
    if !is_valid {
        return Err(format!("{number:?} is neither a port number nor a port name"));
    }
    Ok((end, Some((choice, transport))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_port(text: &str, end: &str, port: Option<&str>) {
        let (found, of) = split_port(text).unwrap();
        let of = of.map(|(port, transport)| format!("{port}/{transport}"));
        assert_eq!((found, of.as_deref()), (end, port), "{text}");
    }

    #[test]
    fn a_port_follows_the_last_colon() {
        check_port("shop/redis", "shop/redis", None);
        check_port("shop/redis:6379", "shop/redis", Some("6379/TCP"));
        check_port("dns:53/UDP", "dns", Some("53/UDP"));
        check_port("shop/web:http", "shop/web", Some("http/TCP"));
        check_port("10.0.0.0/8:443", "10.0.0.0/8", Some("443/TCP"));
        check_port("fd00::1", "fd00::1", None);
        check_port("fd00::/8", "fd00::/8", None);
        check_port("[fd00::1]:443", "fd00::1", Some("443/TCP"));
        for text in ["a:0", "a:80/ICMP", "a:http_", "[fd00::1]443"] {
            assert!(split_port(text).is_err(), "{text}");
        }
    }

    #[track_caller]
    fn check_mistake(expectations: &str, line: u64, message: &str) {
        let text = format!("apiVersion: netpol.dev/v1\nkind: PolicyTest\nexpect:\n{expectations}");
        let mistake = parse(&text).unwrap_err();
        assert_eq!((mistake.line, mistake.message.as_str()), (line, message));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        check_mistake("- a -> b: maybe\n", 4, "a -> b: \"maybe\" is neither allow nor deny");
        check_mistake(
            "- a - b: allow\n",
            4,
            "unknown field `a - b`: an expectation has `FROM -> TO[:PORT]`, `except` and `undeclared`",
        );
        check_mistake(
            "- any -> b: deny\n  excep: [a]\n",
            5,
            "unknown field `excep`: an expectation has `FROM -> TO[:PORT]`, `except` and `undeclared`",
        );
        check_mistake(
            "- a -> b: deny\n  except: [c]\n",
            5,
            "except needs one pattern to make exceptions from, such as `any` or `shop/*`, as source or as destination",
        );
        check_mistake(
            "- a -> b: deny\n  c -> d: deny\n",
            5,
            "an expectation has one connection: begin another item with `- `",
        );
        check_mistake(
            "- a -> b:x_: deny\n",
            4,
            "a -> b:x_: \"x_\" is neither a port number nor a port name",
        );
        check_mistake("  []\n", 4, "expect contains no expectation");
        check_mistake(
            "- a -> b: deny\nexpects: []\n",
            5,
            "unknown field `expects`, expected one of apiVersion, kind, objects, namespace, expect",
        );
    }
}
