//! `lint`: findings on a set of objects.

mod codes;
mod entry;
mod excerpt;
mod fix;
mod github;
mod sarif;

use std::io::{self, Write};

use annotate_snippets::Renderer;
use clap::ValueEnum;
use serde::Serialize;

use netpol_policy::lint::{Level, Scope};
use netpol_policy::model::Object;
use netpol_policy::simulate::without_represented;
use netpol_terminal::{FAILED, FOUND, Terminal};

use crate::input::{self, InputArgs};
use crate::progress::Progress;
pub(crate) use entry::{Entry, entries};
use excerpt::Sources;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  helm template my-chart | netpol lint -f -
  netpol lint -f rendered/ --deny warnings -o sarif
  netpol lint -f rendered/ --fix
  netpol lint --explain NP020";

/// Report mistakes in policies: fields that are not in force as written, and rules that probably do not have the intended effect.
///
/// The checks are listed in docs/lint.md. Checks that compare policies with pods, namespaces or Services need these objects too.
/// The exit code is 0 if there is no finding of the --deny level or above, 1 if there is one, and 2 if the input cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(super) struct LintArgs {
    #[command(flatten)]
    input: InputArgs,
    /// The input is a whole cluster: report selectors of namespaces and pods that it does not contain. Assumed with --cluster, and if the
    /// input contains the namespaces `default` and `kube-system`.
    #[arg(long)]
    complete: bool,
    /// List the checks.
    #[arg(long, group = "objects", exclusive = true)]
    list: bool,
    /// Explain a code, such as NP020.
    #[arg(long, value_name = "CODE", group = "objects", exclusive = true)]
    explain: Option<String>,
    /// Show as a diff the changes that need no decision: missing `policyTypes`, blocks in their usual form; and, as a suggestion,
    /// peers to join. The exit code is 1 if there is one.
    #[arg(long)]
    fix: bool,
    /// With --fix, write the changes to the files. Everything else in them stays as it is, and suggestions are not written.
    #[arg(long, requires = "fix")]
    write: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: LintOutput,
    /// Lowest level of findings that makes the exit code 1.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    deny: DenyLevel,
    /// Suppress findings with this code or name, such as NP031 or `no-dns`.
    #[arg(long, value_name = "CODE")]
    allow: Vec<String>,
}

/// The output format of findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LintOutput {
    /// Each finding with the line that it is about, and advice.
    #[default]
    Text,
    /// One line for each finding.
    Short,
    /// Commands that mark the lines in a pull request (GitHub Actions).
    Github,
    /// A JSON array of objects.
    Json,
    /// SARIF 2.1.0, for code hosts.
    Sarif,
}

/// The lowest level of findings that makes the exit code 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum DenyLevel {
    /// Parts of objects that are not in force as written.
    #[default]
    Errors,
    /// Also probable mistakes.
    Warnings,
    /// Also findings that are often intended.
    Infos,
}

/// Exit codes: 1 if there is a finding of the `--deny` level or above, 2 if a file could not be read completely.
pub(super) fn run(args: LintArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let LintArgs { input, complete, list, explain, fix, write, output, deny, allow } = args;
    if list {
        return codes::list(&mut terminal.stdout);
    }
    if let Some(code) = explain {
        return codes::explain(&code, &mut terminal.stdout);
    }
    let is_live = input.cluster.is_wanted();
    let input = input::read(&input.files, &input.cluster, terminal)?;
    let is_unreadable = input::is_unreadable(&input.manifests);
    let objects = input.objects();
    let n_objects = objects.len();
    let scope = if complete || is_live || has_every_namespace(&objects) {
        Scope::Complete
    } else {
        Scope::Partial
    };
    let progress = Progress::start(format!("checking {}", counted(n_objects, "object")));
    let mut entries = entries(&input, without_represented(objects), scope);
    drop(progress);
    entries.retain(|entry| {
        let is_named = |code: &String| *code == entry.code || Some(code.as_str()) == entry.name;
        !allow.iter().any(is_named)
    });
    if fix {
        let write = if write { fix::Write::Yes } else { fix::Write::No };
        let code = fix::run(&entries, &input.manifests.piped, write, terminal)?;
        return Ok(if is_unreadable { FAILED } else { code });
    }
    match output {
        LintOutput::Text => {
            let renderer = if terminal.is_styled { Renderer::styled() } else { Renderer::plain() };
            let mut sources = Sources::new(&input.manifests.piped, renderer);
            write_text(&entries, Some(&mut sources), &mut terminal.stdout)?;
            write_counts(&entries, n_objects, &mut terminal.stdout)?;
            if let Some(objects) = input::not_evaluated(&input.manifests) {
                writeln!(terminal.stdout, "{objects}")?;
            }
        }
        LintOutput::Short => write_text(&entries, None, &mut terminal.stdout)?,
        LintOutput::Github => github::write(&entries, &mut terminal.stdout)?,
        LintOutput::Json => write_json(&entries, &mut terminal.stdout)?,
        LintOutput::Sarif => write_json(
            &sarif::log(&entries, std::env::current_dir().ok().as_deref()),
            &mut terminal.stdout,
        )?,
    }
    let threshold = match deny {
        DenyLevel::Errors => Level::Error,
        DenyLevel::Warnings => Level::Warning,
        DenyLevel::Infos => Level::Info,
    };
    if is_unreadable {
        return Ok(FAILED);
    }
    Ok(if entries.iter().any(|entry| entry.level >= threshold) { FOUND } else { 0 })
}

/// Whether the objects contain the namespaces that every cluster has.
pub(crate) fn has_every_namespace(objects: &[Object]) -> bool {
    ["default", "kube-system"].into_iter().all(|name| {
        objects
            .iter()
            .any(|object| matches!(object, Object::Namespace(found) if *found.name == *name))
    })
}

/// Writes a line for each finding and, with `sources`, the line that it is about and advice.
fn write_text(
    entries: &[Entry],
    mut sources: Option<&mut Sources<'_>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for entry in entries {
        let Entry {
            code,
            name,
            level,
            location,
            column: _,
            object,
            field,
            message,
            advice,
            fix: _,
        } = entry;
        if let Some(location) = location {
            write!(out, "{location}: ")?;
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
        let Some(sources) = sources.as_deref_mut() else { continue };
        let excerpt = location.as_ref().and_then(|location| sources.excerpt(location, *level));
        if let Some(excerpt) = excerpt {
            writeln!(out, "{excerpt}")?;
        }
        if let Some(advice) = advice {
            writeln!(out, "    {advice}")?;
        }
    }
    Ok(())
}

fn write_counts(entries: &[Entry], n_objects: usize, out: &mut dyn Write) -> io::Result<()> {
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
