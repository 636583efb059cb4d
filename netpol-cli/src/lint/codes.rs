//! `lint --list` and `lint --explain`: the meaning of the codes.

use std::io::Write;

use netpol_policy::lint::{CHECKS, Level};
use netpol_policy::manifests::FileCode;
use netpol_policy::model::{Code, Severity};

use super::entry::level;

/// One code of any origin.
struct Known {
    code: &'static str,
    name: Option<&'static str>,
    level: Level,
    finds: &'static str,
    advice: Option<&'static str>,
}

fn known() -> impl Iterator<Item = Known> {
    let checks = CHECKS.iter().map(|check| Known {
        code: check.code,
        name: Some(check.name),
        level: check.level,
        finds: check.finds,
        advice: Some(check.advice),
    });
    let other = |code, severity: Severity, finds| Known {
        code,
        name: None,
        level: level(severity),
        finds,
        advice: None,
    };
    let of_objects =
        Code::ALL.iter().map(move |code| other(code.as_str(), code.severity(), code.meaning()));
    let of_files =
        FileCode::ALL.iter().map(move |code| other(code.as_str(), code.severity(), code.meaning()));
    checks.chain(of_objects).chain(of_files)
}

/// Writes a line for each code.
pub(super) fn list(out: &mut dyn Write) -> anyhow::Result<u8> {
    for Known { code, name, level, finds, advice: _ } in known() {
        let name = name.map(|name| format!(" {name}")).unwrap_or_default();
        writeln!(out, "{code}{name} ({level}): {finds}")?;
    }
    Ok(0)
}

/// Writes what a code or a name of a check means.
pub(super) fn explain(wanted: &str, out: &mut dyn Write) -> anyhow::Result<u8> {
    let is_wanted =
        |known: &Known| known.code.eq_ignore_ascii_case(wanted) || known.name == Some(wanted);
    let Some(Known { code, name, level, finds, advice }) = known().find(is_wanted) else {
        let codes = known().flat_map(|known| [Some(known.code), known.name]).flatten();
        let nearest = codes.min_by_key(|code| strsim::osa_distance(code, wanted));
        let hint = nearest.map(|code| format!(" (did you mean {code}?)")).unwrap_or_default();
        anyhow::bail!("there is no code {wanted}{hint}");
    };
    let name = name.map(|name| format!(" {name}")).unwrap_or_default();
    writeln!(out, "{code}{name} ({level})\n\n{finds}")?;
    if let Some(advice) = advice {
        writeln!(out, "\n{advice}")?;
    }
    Ok(0)
}
