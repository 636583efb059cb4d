//! `simulate --cases`.
//!
//! In: cases, one JSON object a line. Out: verdicts and diagnostics, one JSON object a line. Must not: open files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::Cluster;
use super::namespaces::with_implicit_namespaces;
use super::probe::{PodOrIp, PortChoice, Probe, Problem};
use crate::model::{Code, Diagnostic, Object, ObjectName, ObjectRef, Severity, Transport, convert};

/// The namespace of a source or destination that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// One line of input. Unknown members are ignored.
#[derive(Debug, Deserialize)]
struct Case<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    sequence: Option<Cow<'a, str>>,
    objects: Vec<Value>,
    probes: Vec<CaseProbe>,
}

#[derive(Debug, Deserialize)]
struct CaseProbe {
    from: CasePodOrIp,
    to: CasePodOrIp,
    port: CasePort,
    #[serde(default = "tcp")]
    protocol: Transport,
}

const fn tcp() -> Transport {
    Transport::Tcp
}

#[derive(Debug, Deserialize)]
struct CasePodOrIp {
    namespace: Option<String>,
    pod: Option<String>,
    ip: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a port must be a number from 0 to 65535 or a name")]
enum CasePort {
    Number(u16),
    Name(Arc<str>),
}

/// One line of output.
#[derive(Debug, Serialize)]
struct CaseResult<'a> {
    name: &'a str,
    verdicts: Vec<&'static str>,
    diagnostics: Vec<CaseDiagnostic>,
}

/// A finding on an object or a probe of the case.
#[derive(Debug, Serialize)]
struct CaseDiagnostic {
    code: &'static str,
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Index of the probe in `probes`, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<usize>,
    message: String,
}

/// The streams of a run of cases.
pub struct CaseStreams<'a> {
    /// Name of the input in problem messages.
    pub name: &'a str,
    /// One case a line.
    pub input: &'a mut dyn BufRead,
    /// Receives one line for each case, flushed after each line, because the writer of the input may wait for it.
    pub output: &'a mut dyn Write,
    /// Receives problems with single lines of the input.
    pub complain: &'a mut dyn FnMut(&dyn Display),
}

/// Evaluates all cases of an input. A line that cannot be read is reported and skipped. Returns the number of such lines.
///
/// # Errors
/// A stream cannot be read or written, or the engine fails.
pub fn run_cases(streams: CaseStreams<'_>, cluster: Cluster) -> anyhow::Result<u64> {
    let CaseStreams { name, input, output, complain } = streams;
    let mut runner = CaseRunner { cluster, sequence: None };
    let mut n_unreadable = 0_u64;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_until(b'\n', &mut line).with_context(|| format!("cannot read {name}"))? == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let case = serde_json::from_slice::<Case<'_>>(&line).map_err(|error| without_line(&error));
        match case.and_then(read) {
            Ok(case) => {
                let result = runner
                    .run(&case)
                    .with_context(|| format!("{name}:{number}: case {}", case.name))?;
                serde_json::to_writer(&mut *output, &result).map_err(io::Error::from)?;
                output.write_all(b"\n")?;
                output.flush()?;
            }
            Err(error) => {
                n_unreadable += 1;
                complain(&format_args!("{name}:{number}: {error:#}"));
            }
        }
    }
    if n_unreadable > 0 {
        complain(&format_args!("{name}: {n_unreadable} lines could not be read"));
    }
    Ok(n_unreadable)
}

/// The parser's error with its column only: the parser counts every line as line 1.
fn without_line(error: &serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    match text.split_once(" at line 1 column ") {
        Some((message, column)) => anyhow::anyhow!("column {column}: {message}"),
        None => anyhow::anyhow!(text),
    }
}

/// A case whose probes are valid.
struct ValidCase<'a> {
    name: Cow<'a, str>,
    sequence: Option<String>,
    objects: Vec<Value>,
    probes: Vec<Probe>,
}

fn read(case: Case<'_>) -> anyhow::Result<ValidCase<'_>> {
    let Case { name, sequence, objects, probes } = case;
    let probes = probes
        .into_iter()
        .enumerate()
        .map(|(index, probe)| {
            let CaseProbe { from, to, port, protocol } = probe;
            let from = pod_or_ip(from).with_context(|| format!("probes[{index}].from"))?;
            let to = pod_or_ip(to).with_context(|| format!("probes[{index}].to"))?;
            let port = match port {
                CasePort::Number(number) => PortChoice::Number(number),
                CasePort::Name(name) => PortChoice::Name(name),
            };
            Ok(Probe { from, to, port, transport: protocol })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(ValidCase { name, sequence: sequence.map(Cow::into_owned), objects, probes })
}

fn pod_or_ip(given: CasePodOrIp) -> anyhow::Result<PodOrIp> {
    match given {
        CasePodOrIp { namespace, pod: Some(pod), ip } => {
            let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
            Ok(PodOrIp::Pod { name: ObjectName::new(namespace, &pod), address: ip })
        }
        CasePodOrIp { namespace: None, pod: None, ip: Some(address) } => {
            Ok(PodOrIp::Address(address))
        }
        CasePodOrIp { namespace: _, pod: None, ip: _ } => {
            anyhow::bail!("must have the members \"namespace\" and \"pod\", or \"ip\"")
        }
    }
}

/// The simulated cluster, and the sequence of the case before.
struct CaseRunner {
    cluster: Cluster,
    sequence: Option<String>,
}

impl CaseRunner {
    fn run<'a>(&mut self, case: &'a ValidCase<'_>) -> anyhow::Result<CaseResult<'a>> {
        if case.sequence.is_none() || case.sequence != self.sequence {
            self.cluster.forget_objects();
        }
        self.sequence.clone_from(&case.sequence);

        let (objects, mut diagnostics) = read_objects(&case.objects);
        let (objects, _) = with_implicit_namespaces(objects);
        self.cluster.set(objects)?;
        diagnostics.extend(self.cluster.findings().into_iter().map(about_object));

        let mut verdicts = Vec::with_capacity(case.probes.len());
        for (index, probe) in case.probes.iter().enumerate() {
            let result = self.cluster.probe(probe)?;
            verdicts.push(if result.is_allowed { "allow" } else { "deny" });
            diagnostics.extend(result.problem.map(|problem| about_probe(index, &problem)));
        }
        Ok(CaseResult { name: &case.name, verdicts, diagnostics })
    }
}

/// The objects of a case. Of an object that is defined twice, the last definition is used, as in files.
fn read_objects(values: &[Value]) -> (Vec<Object>, Vec<CaseDiagnostic>) {
    let mut objects: BTreeMap<ObjectRef, Object> = BTreeMap::new();
    let mut diagnostics = Vec::new();
    for value in values {
        for (_, value) in convert::expand(value.clone()) {
            let converted = convert::object(&value);
            diagnostics.extend(converted.diagnostics.into_iter().map(about_object));
            let Some(object) = converted.object else { continue };
            let reference = object.object_ref();
            if objects.insert(reference.clone(), object).is_some() {
                diagnostics.push(about_object(Diagnostic {
                    code: Code::DefinedTwice,
                    object: reference,
                    field: String::new(),
                    message: "is defined more than once: the last definition is used".to_owned(),
                }));
            }
        }
    }
    (objects.into_values().collect(), diagnostics)
}

fn about_object(diagnostic: Diagnostic) -> CaseDiagnostic {
    let severity = diagnostic.severity();
    let Diagnostic { code, object, field, message } = diagnostic;
    CaseDiagnostic {
        code: code.as_str(),
        severity,
        object: Some(object.to_string()),
        field: Some(field),
        probe: None,
        message,
    }
}

fn about_probe(index: usize, problem: &Problem) -> CaseDiagnostic {
    CaseDiagnostic {
        code: problem.code(),
        severity: Severity::Warning,
        object: None,
        field: None,
        probe: Some(index),
        message: problem.to_string(),
    }
}
