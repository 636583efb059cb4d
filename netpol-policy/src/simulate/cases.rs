//! `simulate --cases`: JSON lines in, JSON lines out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cluster, End, Engine, PortChoice, Probe, Problem, with_implicit_namespaces};
use crate::model::{Code, Diagnostic, Object, ObjectName, ObjectRef, Severity, Transport, convert};

/// The namespace of a pod whose end names none.
const DEFAULT_NAMESPACE: &str = "default";

/// One line of input. Other members are allowed and have no meaning.
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
    from: CaseEnd,
    to: CaseEnd,
    port: CasePort,
    #[serde(default = "tcp")]
    protocol: Transport,
}

const fn tcp() -> Transport {
    Transport::Tcp
}

#[derive(Debug, Deserialize)]
struct CaseEnd {
    namespace: Option<String>,
    pod: Option<String>,
    ip: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a port is a number from 0 to 65535 or a name")]
enum CasePort {
    Number(u16),
    Name(Arc<str>),
}

/// One line of output.
#[derive(Debug, Serialize)]
struct Answers<'a> {
    name: &'a str,
    verdicts: Vec<&'static str>,
    diagnostics: Vec<CaseDiagnostic>,
}

/// A finding on an object of the case or on one of its probes.
#[derive(Debug, Serialize)]
struct CaseDiagnostic {
    code: &'static str,
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Position of the probe, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<usize>,
    message: String,
}

/// The streams of a run of cases.
pub struct CaseStreams<'a> {
    /// Name of the input, for problems.
    pub name: &'a str,
    /// One case a line.
    pub input: &'a mut dyn BufRead,
    /// One line of verdicts for each case, flushed after each: whoever feeds the input line by line may wait for it.
    pub output: &'a mut dyn Write,
    /// Receives problems with single lines.
    pub complain: &'a mut dyn FnMut(&dyn Display),
}

/// Answers all cases of an input. A line that cannot be read is reported and passed over. Returns the number of such lines.
///
/// # Errors
/// The streams fail, or the engine cannot be used.
pub fn answer_cases(streams: CaseStreams<'_>, engine: Engine) -> anyhow::Result<u64> {
    let CaseStreams { name, input, output, complain } = streams;
    let mut answering = Answering { cluster: Cluster::new(engine), sequence: None };
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
                let answers = answering
                    .answer(&case)
                    .with_context(|| format!("{name}:{number}: case {}", case.name))?;
                serde_json::to_writer(&mut *output, &answers).map_err(io::Error::from)?;
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

/// What is wrong with the text, and in which column; the parser believes that every line is the first.
fn without_line(error: &serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    match text.split_once(" at line 1 column ") {
        Some((message, column)) => anyhow::anyhow!("column {column}: {message}"),
        None => anyhow::anyhow!(text),
    }
}

/// A case whose probes make sense.
struct ReadableCase<'a> {
    name: Cow<'a, str>,
    sequence: Option<String>,
    objects: Vec<Value>,
    probes: Vec<Probe>,
}

fn read(case: Case<'_>) -> anyhow::Result<ReadableCase<'_>> {
    let Case { name, sequence, objects, probes } = case;
    let probes = probes
        .into_iter()
        .enumerate()
        .map(|(index, probe)| {
            let CaseProbe { from, to, port, protocol } = probe;
            let from = end(from).with_context(|| format!("probes[{index}].from"))?;
            let to = end(to).with_context(|| format!("probes[{index}].to"))?;
            let port = match port {
                CasePort::Number(number) => PortChoice::Number(number),
                CasePort::Name(name) => PortChoice::Name(name),
            };
            Ok(Probe { from, to, port, transport: protocol })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(ReadableCase { name, sequence: sequence.map(Cow::into_owned), objects, probes })
}

fn end(end: CaseEnd) -> anyhow::Result<End> {
    match end {
        CaseEnd { namespace, pod: Some(pod), ip } => {
            let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
            Ok(End::Pod { name: ObjectName::new(namespace, &pod), address: ip })
        }
        CaseEnd { namespace: None, pod: None, ip: Some(address) } => Ok(End::Address(address)),
        CaseEnd { namespace: _, pod: None, ip: _ } => {
            anyhow::bail!("an end is {{\"namespace\", \"pod\"}} or {{\"ip\"}}")
        }
    }
}

/// The cluster, from case to case.
struct Answering {
    cluster: Cluster,
    sequence: Option<String>,
}

impl Answering {
    fn answer<'a>(&mut self, case: &'a ReadableCase<'_>) -> anyhow::Result<Answers<'a>> {
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
            let answer = self.cluster.probe(probe)?;
            verdicts.push(if answer.is_allowed { "allow" } else { "deny" });
            diagnostics.extend(answer.problem.map(|problem| about_probe(index, &problem)));
        }
        Ok(Answers { name: &case.name, verdicts, diagnostics })
    }
}

/// The objects of a case; of an object that is there twice the later definition counts, as in files.
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
                    message: "is defined more than once: the last definition counts".to_owned(),
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
