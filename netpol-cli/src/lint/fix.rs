//! `lint --fix`: changes of files that a finding asks for and that need no decision of the author.
//!
//! In: findings with the places to change. Out: a diff, or with `--write` the changed files. Must not: change what a policy means, or
//! a byte besides the changes.
//!
//! A change that alters what is allowed, such as joining two peers, is shown as a suggestion and never written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use netpol_policy::manifests::{Location, parse};
use netpol_policy::model::{Object, ObjectName, Policy, convert};
use netpol_terminal::{FOUND, Terminal};
use similar::TextDiff;

use super::counted;
use super::entry::Entry;

/// Lines around a change in a diff.
const N_CONTEXT_LINES: usize = 3;

/// A change that a finding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fix {
    /// Write the block at the location of the finding in its usual form.
    CanonicalBlock,
    /// Write `policyTypes` before the field at this location.
    PolicyTypes(Location),
    /// Join the peer at this location and the next one, at the location of the finding.
    JoinPeers(Location),
}

impl Fix {
    /// Whether the policy means the same afterwards.
    const fn keeps_meaning(&self) -> bool {
        match self {
            Self::CanonicalBlock | Self::PolicyTypes(_) => true,
            Self::JoinPeers(_) => false,
        }
    }

    /// The change, where `at` is the location of the finding. `None` if the text is not as expected.
    fn edit(&self, text: &Text<'_>, at: &Location) -> Option<Edit> {
        match self {
            Self::CanonicalBlock => canonical_block(text.content, text.offset(at)?),
            Self::PolicyTypes(before) => policy_types(text.content, text.offset(before)?),
            Self::JoinPeers(first) => {
                join_peers(text.content, text.offset(first)?, text.offset(at)?)
            }
        }
    }
}

/// A replacement of some bytes of a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edit {
    start: usize,
    end: usize,
    by: String,
}

/// A text and where its lines begin.
struct Text<'a> {
    content: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Text<'a> {
    fn new(content: &'a str) -> Self {
        let mark = if content.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let others = content.match_indices('\n').map(|(at, _)| at.saturating_add(1));
        Self { content, line_starts: [mark].into_iter().chain(others).collect() }
    }

    /// The byte at a location.
    fn offset(&self, at: &Location) -> Option<usize> {
        let start = *self.line_starts.get(at.line.checked_sub(1)?)?;
        let line = self.content.get(start..)?;
        let (column, _) = line.char_indices().nth(at.column.checked_sub(1)?)?;
        Some(start.saturating_add(column))
    }
}

/// Shows the changes as a diff, or writes them. Exit codes: 1 if a change is shown, 0 if there is none or it is written.
pub(super) fn run(
    entries: &[Entry],
    piped: &BTreeMap<PathBuf, String>,
    write: Write,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let mut by_file: BTreeMap<&Arc<Path>, Vec<(&Fix, &Location)>> = BTreeMap::new();
    for entry in entries {
        if let (Some(fix), Some(location)) = (&entry.fix, &entry.location) {
            by_file.entry(&location.file).or_default().push((fix, location));
        }
    }
    let mut is_shown = false;
    for (file, fixes) in by_file {
        let text = piped.get(&**file);
        let is_piped = text.is_some();
        let content = match text {
            Some(text) => text.to_owned(),
            None => fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?,
        };
        let text = Text::new(&content);
        let (mechanical, suggested): (Vec<_>, Vec<_>) =
            fixes.into_iter().partition(|(fix, _)| fix.keeps_meaning());
        let edits = |fixes: &[(&Fix, &Location)]| -> Vec<Edit> {
            fixes.iter().filter_map(|(fix, at)| fix.edit(&text, at)).collect()
        };
        let (changed, n_changes) = apply_safely(&content, edits(&mechanical));
        if write == Write::Yes && !is_piped && n_changes > 0 {
            fs::write(file, &changed)
                .with_context(|| format!("cannot write {}", file.display()))?;
            let n = counted(n_changes, "change");
            writeln!(terminal.stdout, "{}: {n} written", file.display())?;
        } else if n_changes > 0 {
            is_shown = true;
            write_diff(file, &content, &changed, terminal)?;
        }
        let (joined, n_joined) = apply(&content, edits(&suggested));
        if n_joined > 0 {
            is_shown |= write == Write::No;
            writeln!(
                terminal.stdout,
                "# A suggestion that is not written, because it changes what the policy allows:"
            )?;
            write_diff(file, &content, &joined, terminal)?;
        }
    }
    Ok(if is_shown { FOUND } else { 0 })
}

/// Whether files are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Yes.
    Yes,
    /// No: the changes are shown.
    No,
}

fn write_diff(
    file: &Path,
    before: &str,
    after: &str,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let name = file.display();
    let diff = TextDiff::from_lines(before, after);
    let mut unified = diff.unified_diff();
    unified.context_radius(N_CONTEXT_LINES).header(&format!("a/{name}"), &format!("b/{name}"));
    write!(terminal.stdout, "{unified}")?;
    Ok(())
}

/// Applies the changes after which every policy means what it meant. Returns their number too.
fn apply_safely(before: &str, mut edits: Vec<Edit>) -> (String, usize) {
    let meaning = policies(before);
    let (after, n_changes) = apply(before, edits.clone());
    if policies(&after) == meaning {
        return (after, n_changes);
    }
    // One of them is wrong.
    edits.retain(|edit| policies(&apply(before, vec![edit.clone()]).0) == meaning);
    let (after, n_changes) = apply(before, edits);
    if policies(&after) == meaning { (after, n_changes) } else { (before.to_owned(), 0) }
}

/// What the policies of a text mean. The name of an object that has none depends on its line.
fn policies(text: &str) -> Vec<Policy> {
    let objects = parse("", text).objects.into_iter();
    let policies = objects.filter_map(|read| match read.object {
        Object::Policy(policy) => Some(Policy { name: ObjectName::new("", ""), ..policy }),
        Object::Pod(_)
        | Object::Namespace(_)
        | Object::Service(_)
        | Object::Node(_)
        | Object::ClusterPolicy(_) => None,
    });
    policies.collect()
}

/// Applies changes that do not overlap; of those that do, the first.
fn apply(before: &str, mut edits: Vec<Edit>) -> (String, usize) {
    edits.sort();
    edits.dedup();
    let mut after = String::with_capacity(before.len());
    let (mut copied, mut n_changes) = (0, 0);
    for Edit { start, end, by } in edits {
        let Some(kept) = before.get(copied..start) else { continue };
        after.push_str(kept);
        after.push_str(&by);
        copied = end;
        n_changes += 1;
    }
    after.push_str(before.get(copied..).unwrap_or_default());
    (after, n_changes)
}

/// The change of a block, which is the value of `cidr` or an item of a list.
fn canonical_block(text: &str, at: usize) -> Option<Edit> {
    let rest = text.get(at..)?;
    let mut value = rest.trim_start_matches(['"', '\'']);
    if let Some(after_key) = value.strip_prefix("cidr") {
        let after_key = after_key.trim_start_matches(['"', '\'']).trim_start();
        value = after_key.strip_prefix(':')?.trim_start().trim_start_matches(['"', '\'']);
    }
    let is_of_block = |letter: char| letter.is_ascii_hexdigit() || ":./".contains(letter);
    let len = value.find(|letter| !is_of_block(letter)).unwrap_or(value.len());
    let written = value.get(..len)?;
    let by = convert::canonical_block(written).filter(|canonical| canonical != written)?;
    let start = text.len().checked_sub(value.len())?;
    Some(Edit { start, end: start.saturating_add(len), by })
}

/// The insertion of `policyTypes` before a field of the same mapping.
fn policy_types(text: &str, at: usize) -> Option<Edit> {
    let before = text.get(..at)?;
    let line_start = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
    let indent = before.get(line_start..)?;
    let is_json = text.get(at..)?.starts_with('"');
    let is_in_braces = before.trim_end().ends_with(['{', ',']);
    let is_alone = indent.trim().is_empty();
    let field = if is_json {
        r#""policyTypes": ["Ingress", "Egress"]"#
    } else {
        "policyTypes: [Ingress, Egress]"
    };
    let line_end = if before.ends_with("\r\n") || before.contains("\r\n") { "\r\n" } else { "\n" };
    let by = match (is_in_braces, is_alone) {
        (true, true) => format!("{field},{line_end}{indent}"),
        (true, false) => format!("{field}, "),
        (false, true) => format!("{field}{line_end}{indent}"),
        (false, false) => return None,
    };
    Some(Edit { start: at, end: at, by })
}

/// The removal of the dash of the second of two peers, each on lines of its own.
fn join_peers(text: &str, first: usize, second: usize) -> Option<Edit> {
    let [first, second] = [first, second].map(|at| {
        let before = text.get(..at)?;
        let line_start = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
        let indent = before.get(line_start..)?;
        let dash = indent.find('-')?;
        let is_item = indent.trim() == "-" && indent.ends_with(' ');
        is_item.then_some((line_start.saturating_add(dash), indent))
    });
    let ((_, indent_of_first), (dash, indent)) = (first?, second?);
    let end = dash.saturating_add(1);
    (indent_of_first == indent).then(|| Edit { start: dash, end, by: " ".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text after a change at the place that `@` marks.
    #[track_caller]
    fn check(edit: impl Fn(&str, usize) -> Option<Edit>, marked: &str, expected: &str) {
        let at = marked.find('@').unwrap();
        let text = marked.replace('@', "");
        let edits: Vec<Edit> = edit(&text, at).into_iter().collect();
        assert_eq!(apply(&text, edits).0, expected);
    }

    #[test]
    fn a_block_is_replaced_in_its_quotes() {
        for (marked, expected) in [
            ("@cidr: 10.1.2.3/8 # x", "cidr: 10.0.0.0/8 # x"),
            ("{ @cidr: '010.0.0.0/8' }", "{ cidr: '10.0.0.0/8' }"),
            (r#"{"@cidr" : "::ffff:10.0.0.1/104"}"#, r#"{"cidr" : "10.0.0.0/8"}"#),
            (r#"[@"10.0.0.1/8","x"]"#, r#"["10.0.0.0/8","x"]"#),
            ("- @fd00:0::1/64\r\n", "- fd00::/64\r\n"),
            ("@cidr:\n  10.1.2.3/8", "cidr:\n  10.0.0.0/8"),
            ("@cidr: 10.0.0.0/8", "cidr: 10.0.0.0/8"),
            ("@cidr: *alias", "cidr: *alias"),
        ] {
            check(canonical_block, marked, expected);
        }
    }

    #[test]
    fn policy_types_get_the_form_of_the_fields_around_them() {
        for (marked, expected) in [
            ("spec:\n  @egress: []\n", "spec:\n  policyTypes: [Ingress, Egress]\n  egress: []\n"),
            (
                "spec:\r\n  @egress: []\r\n",
                "spec:\r\n  policyTypes: [Ingress, Egress]\r\n  egress: []\r\n",
            ),
            ("spec: { @egress: [] }", "spec: { policyTypes: [Ingress, Egress], egress: [] }"),
            (
                "{\"spec\": {\n  @\"egress\": []}}",
                "{\"spec\": {\n  \"policyTypes\": [\"Ingress\", \"Egress\"],\n  \"egress\": []}}",
            ),
            ("? a\n: @egress: []", "? a\n: egress: []"),
        ] {
            check(policy_types, marked, expected);
        }
    }

    #[test]
    fn the_second_dash_is_removed() {
        let text = "from:\n- namespaceSelector: {}\n# why\n- podSelector: {}\n";
        let joined = join_peers(text, 8, text.find("podSelector").unwrap());
        let after = apply(text, joined.into_iter().collect()).0;
        assert_eq!(after, "from:\n- namespaceSelector: {}\n# why\n  podSelector: {}\n");
        let text = "[{ namespaceSelector: {} }, { podSelector: {} }]";
        assert_eq!(join_peers(text, 3, 31), None);
    }

    #[test]
    fn a_change_that_alters_a_policy_is_left_out() {
        let text = "{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: { name: a }, spec: { podSelector: {}, \
                    egress: [] } }";
        let at = text.find("egress").unwrap();
        let wrong = Edit { start: at, end: at, by: "policyTypes: [Egress], ".to_owned() };
        let broken = Edit { start: at, end: at, by: "{".to_owned() };
        let right = policy_types(text, at).unwrap();
        for edit in [wrong, broken] {
            assert_eq!(apply_safely(text, vec![edit]), (text.to_owned(), 0));
        }
        let egress = text.replace("egress: []", "egress: [{}]");
        assert_eq!(apply_safely(&egress, vec![right]).1, 1);
    }
}
