//! `lint`: findings on a whole set of objects.

mod sarif;

use std::io::{self, Write};

use serde::Serialize;

use netpol_policy::lint::{self, Level};
use netpol_policy::manifests::{self, Cause, Place};
use netpol_policy::model::{Diagnostic, Object, Severity};
use netpol_policy::store::{ClusterState, Delta};
use netpol_terminal::{FAILED, FOUND, Terminal};

use crate::args::{DenyLevel, LintArgs, LintOutput};
use crate::input::{self, Input};

/// A finding of any origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    level: Level,
    /// File and line.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
    /// Kind, namespace and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

/// Exit codes: 1 if there is a finding that is denied, 2 if something could not be read.
pub(super) fn run(args: LintArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let LintArgs { files, cluster, output, deny, allow } = args;
    anyhow::ensure!(!files.is_empty() || cluster.is_asked(), input::NO_OBJECTS);
    let input = input::read(&files, &cluster, terminal)?;
    let is_incomplete = input::is_incomplete(&input.manifests);
    let objects = input.objects();
    let n_objects = objects.len();
    let mut entries = entries(&input, objects);
    entries.retain(|entry| {
        let is_named = |known: &String| *known == entry.code || Some(known.as_str()) == entry.name;
        !allow.iter().any(is_named)
    });
    match output {
        LintOutput::Text => write_text(&entries, n_objects, &mut terminal.stdout)?,
        LintOutput::Json => write_json(&entries, &mut terminal.stdout)?,
        LintOutput::Sarif => write_json(&sarif::log(&entries), &mut terminal.stdout)?,
    }
    let threshold = match deny {
        DenyLevel::Errors => Level::Error,
        DenyLevel::Warnings => Level::Warning,
        DenyLevel::Infos => Level::Info,
    };
    if is_incomplete {
        return Ok(FAILED);
    }
    Ok(if entries.iter().any(|entry| entry.level >= threshold) { FOUND } else { 0 })
}

/// All findings, by place.
fn entries(input: &Input, objects: Vec<Object>) -> Vec<Entry> {
    let Input { manifests, live_diagnostics, .. } = input;
    let mut state = ClusterState::default();
    for object in objects {
        drop(state.apply(Delta::Upsert(object)));
    }
    let mut entries: Vec<Entry> = manifests.findings.iter().map(from_file).collect();
    entries.extend(live_diagnostics.iter().map(|diagnostic| from_object(diagnostic, None)));
    for finding in lint::lint(&state) {
        let lint::Finding { check, level, object, field, message } = finding;
        entries.push(Entry {
            code: check.code,
            name: Some(check.name),
            level,
            place: manifests.place_of(&object, &field),
            object: Some(object.to_string()),
            field: Some(field),
            message,
            advice: Some(check.advice),
        });
    }
    entries.sort_by(|one, other| one.place.cmp(&other.place));
    entries
}

fn from_file(finding: &manifests::Finding) -> Entry {
    let place = Some(finding.place.clone());
    match &finding.cause {
        Cause::File { code, message } => Entry {
            code: code.as_str(),
            name: None,
            level: level(code.severity()),
            place,
            object: None,
            field: None,
            message: message.clone(),
            advice: None,
        },
        Cause::Object(diagnostic) => from_object(diagnostic, place),
    }
}

fn from_object(diagnostic: &Diagnostic, place: Option<Place>) -> Entry {
    let Diagnostic { code, object, field, message } = diagnostic;
    Entry {
        code: code.as_str(),
        name: None,
        level: level(code.severity()),
        place,
        object: Some(object.to_string()),
        field: Some(field.clone()),
        message: message.clone(),
        advice: None,
    }
}

const fn level(severity: Severity) -> Level {
    match severity {
        Severity::Error => Level::Error,
        Severity::Warning => Level::Warning,
    }
}

fn write_text(entries: &[Entry], n_objects: usize, out: &mut dyn Write) -> io::Result<()> {
    for entry in entries {
        let Entry { code, name, level, place, object, field, message, advice } = entry;
        if let Some(place) = place {
            write!(out, "{place}: ")?;
        }
        write!(out, "{level} {code}")?;
        if let Some(name) = name {
            write!(out, " {name}")?;
        }
        if let Some(object) = object {
            write!(out, ": {object}")?;
        }
        match field {
            Some(field) if !field.is_empty() => writeln!(out, ": {field} {message}")?,
            Some(_) | None => writeln!(out, ": {message}")?,
        }
        if let Some(advice) = advice {
            writeln!(out, "    {advice}")?;
        }
    }
    let count = |wanted: Level| {
        let n = entries.iter().filter(|entry| entry.level == wanted).count();
        counted(n, wanted.as_str())
    };
    let [errors, warnings, infos] = [Level::Error, Level::Warning, Level::Info].map(count);
    writeln!(out, "{}: {errors}, {warnings}, {infos}", counted(n_objects, "object"))
}

fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn write_json(value: &(impl Serialize + ?Sized), out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
