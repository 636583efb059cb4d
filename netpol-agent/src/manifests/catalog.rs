//! What the files of a directory say now, and what changed since the last look.
//!
//! In: looks at the directory. Out: deltas, diagnostics, and what could not be read. What was good stays:
//! * a file or directory that cannot be read keeps its objects, and before the first list it withholds the list;
//! * a document with a syntax error keeps the objects that the file had before. At the first look nothing
//!   was before: then a policy that is cut off isolates what it selects and allows nothing;
//! * a file that is gone counts as there until it is still gone at the next look, because editors move files.
//!
//! Must not: do any IO, or know the time.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netpol_policy::manifests::{Cause, Finding};
use netpol_policy::manifests::{Content, Entry, content, unreadable};
use netpol_policy::model::{Diagnostic, Kind, Object, ObjectRef};
use netpol_policy::store::{Delta, List};

/// A look at the directory.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The files that were found, with their text.
    pub(super) files: BTreeMap<PathBuf, io::Result<String>>,
    /// Files and directories that could not be looked at.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

/// What a look changed.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// What changed, in order.
    pub(super) deltas: Vec<Delta>,
    /// The diagnostics of objects for which they may have changed.
    pub(super) diagnostics: Vec<(ObjectRef, Vec<Diagnostic>)>,
    /// New findings on files, for the log.
    pub(super) news: Vec<Finding>,
    /// What cannot be read at present.
    pub(super) problems: Vec<Finding>,
    /// A file is missing: look again soon.
    pub(super) is_unsure: bool,
}

/// The state of a directory.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    by_path: BTreeMap<PathBuf, File>,
    standing: BTreeMap<ObjectRef, Standing>,
    is_listed: bool,
}

/// Whether anything has been told before.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No: what was in force before is not known.
    First,
    /// Yes.
    Later,
}

/// A file as far as it could be read.
#[derive(Debug, Default)]
struct File {
    /// Of the text that the rest comes from.
    hash: Option<u64>,
    entries: Vec<Entry>,
    /// Findings on what is no usable object.
    findings: Vec<Finding>,
    /// Why it is not, or not wholly, read.
    problem: Option<Finding>,
    /// It was missing at the last look.
    is_missing: bool,
}

/// What counts for one object. Without an object there are only findings on it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Standing {
    object: Option<Object>,
    diagnostics: Vec<Diagnostic>,
}

impl Catalog {
    /// Takes over a look.
    pub(super) fn apply(&mut self, look: Look) -> Step {
        let mut step = Step::default();
        let phase = if self.is_listed { Phase::Later } else { Phase::First };
        let mut found = BTreeSet::new();
        let mut is_complete = look.unreadable.is_empty();
        for (path, text) in look.files {
            let file = self.by_path.entry(path.clone()).or_default();
            file.is_missing = false;
            match text {
                Ok(text) => file.read(&Arc::from(path.as_path()), &text, phase, &mut step),
                Err(error) => {
                    // What is no text is a mistake in the file, not in the file system.
                    is_complete &= is_about_content(&error);
                    file.fail(unreadable(Arc::from(path.as_path()), &error), &mut step);
                }
            }
            found.insert(path);
        }
        let hidden = |path: &Path| look.unreadable.iter().any(|(top, _)| path.starts_with(top));
        self.by_path.retain(|path, file| {
            if found.contains(path) || hidden(path) {
                return true;
            }
            let stays = !std::mem::replace(&mut file.is_missing, true);
            step.is_unsure |= stays;
            stays
        });
        step.problems.extend(self.by_path.values().filter_map(|file| file.problem.clone()));
        for (path, error) in &look.unreadable {
            step.problems.push(unreadable(Arc::from(path.as_path()), error));
        }
        if self.is_listed || is_complete {
            self.advance(&mut step);
        }
        step
    }

    /// Tells what counts now, as the first list or as changes.
    fn advance(&mut self, step: &mut Step) {
        let before = std::mem::replace(&mut self.standing, standing(self.by_path.values()));
        if self.is_listed {
            changes(&before, &self.standing, step);
        } else {
            self.is_listed = true;
            first_list(&self.standing, step);
        }
    }
}

impl File {
    /// Takes over a text, unless it is the same as before.
    fn read(&mut self, path: &Arc<Path>, text: &str, phase: Phase, step: &mut Step) {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        let failed_before = self.problem.as_ref().is_some_and(|problem| problem.location.line == 0);
        if self.hash == Some(hash) && !failed_before {
            return;
        }
        let Content { entries, findings, unsupported: _, is_broken } = content(path, text);
        step.news.extend(findings.iter().cloned());
        self.hash = Some(hash);
        self.problem = findings.first().filter(|_| is_broken).cloned();
        self.findings = findings;
        let (partial, whole): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.is_truncated);
        let before = std::mem::replace(&mut self.entries, whole);
        if is_broken {
            self.keep(before, partial, phase);
        }
    }

    /// Keeps what was good before a syntax error.
    fn keep(&mut self, before: Vec<Entry>, partial: Vec<Entry>, phase: Phase) {
        let mut known: BTreeSet<ObjectRef> = self.entries.iter().map(Entry::object_ref).collect();
        for entry in before {
            if known.insert(entry.object_ref()) {
                self.entries.push(entry);
            }
        }
        for entry in partial {
            let deny_all = match phase {
                Phase::First => entry.as_deny_all(),
                Phase::Later => None,
            };
            if !known.insert(entry.object_ref()) {
                self.findings.push(entry.truncated("the version before stays in force"));
            } else if let Some(deny_all) = deny_all {
                self.entries.push(deny_all);
            } else {
                self.findings.push(entry.truncated("the object is ignored"));
            }
        }
    }

    fn fail(&mut self, problem: Finding, step: &mut Step) {
        if self.problem.as_ref() != Some(&problem) {
            step.news.push(problem.clone());
        }
        self.problem = Some(problem);
    }
}

fn is_about_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge)
}

/// What counts of all files: for each object the last definition, in the order of paths and lines. A file
/// that is missing has no say beside others.
fn standing<'a>(files: impl Iterator<Item = &'a File> + Clone) -> BTreeMap<ObjectRef, Standing> {
    let mut standing: BTreeMap<ObjectRef, Standing> = BTreeMap::new();
    let mut definitions: BTreeMap<ObjectRef, &Entry> = BTreeMap::new();
    for file in files.clone().filter(|file| file.is_missing) {
        definitions.extend(file.entries.iter().map(|entry| (entry.object_ref(), entry)));
    }
    let mut present = BTreeSet::new();
    for file in files.filter(|file| !file.is_missing) {
        for entry in &file.entries {
            let object_ref = entry.object_ref();
            let is_first = present.insert(object_ref.clone());
            if let Some(earlier) = definitions.insert(object_ref, entry)
                && !is_first
            {
                add(&mut standing, &earlier.overridden(&entry.object.location));
            }
        }
        for finding in &file.findings {
            add(&mut standing, finding);
        }
    }
    for (object_ref, entry) in definitions {
        standing.entry(object_ref).or_default().object = Some(entry.object.object.clone());
        for finding in &entry.findings {
            add(&mut standing, finding);
        }
    }
    standing
}

/// Adds a finding on an object, with its place.
fn add(standing: &mut BTreeMap<ObjectRef, Standing>, finding: &Finding) {
    let Cause::Object(diagnostic) = &finding.cause else { return };
    let mut diagnostic = diagnostic.clone();
    diagnostic.message = format!("{} ({})", diagnostic.message, finding.location);
    standing.entry(diagnostic.object.clone()).or_default().diagnostics.push(diagnostic);
}

fn first_list(standing: &BTreeMap<ObjectRef, Standing>, step: &mut Step) {
    for kind in Kind::ALL {
        let of_kind = standing.iter().filter(|(object_ref, _)| object_ref.kind == kind);
        let objects = of_kind.filter_map(|(_, standing)| standing.object.clone()).collect();
        step.deltas.push(Delta::Replace(List::new(kind, objects, Vec::new())));
    }
    for (object_ref, Standing { diagnostics, .. }) in standing {
        if !diagnostics.is_empty() {
            step.diagnostics.push((object_ref.clone(), diagnostics.clone()));
        }
    }
}

fn changes(
    before: &BTreeMap<ObjectRef, Standing>,
    now: &BTreeMap<ObjectRef, Standing>,
    step: &mut Step,
) {
    let nothing = Standing::default();
    let mut removed = Vec::new();
    let both: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    for object_ref in both {
        let was = before.get(object_ref).unwrap_or(&nothing);
        let is = now.get(object_ref).unwrap_or(&nothing);
        if was == is {
            continue;
        }
        step.diagnostics.push((object_ref.clone(), is.diagnostics.clone()));
        match (&was.object, &is.object) {
            (was, Some(is)) if was.as_ref() != Some(is) => {
                step.deltas.push(Delta::Upsert(is.clone()));
            }
            (Some(_), None) => {
                removed.push(Delta::Remove { object: object_ref.clone(), uid: None });
            }
            (Some(_), Some(_)) | (None, _) => {}
        }
    }
    // What is new comes first, so that what replaces an object is there when it goes.
    step.deltas.append(&mut removed);
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name} }}\nspec: {spec}\n"
        )
    }

    /// A look at these files; `None` stands for one that cannot be read.
    fn look(files: &[(&str, Option<&str>)]) -> Look {
        let text = |text: Option<&str>| {
            text.map(str::to_owned).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
        };
        let files = files.iter().map(|(name, t)| (PathBuf::from(name), text(*t))).collect();
        Look { files, unreadable: Vec::new() }
    }

    fn render(step: &Step) -> String {
        let mut lines = Vec::new();
        for delta in &step.deltas {
            let line = match delta {
                Delta::Upsert(object) => format!("+ {}", render_object(object)),
                Delta::Remove { object, .. } => format!("- {object}"),
                Delta::Replace(list) if list.objects().is_empty() => {
                    format!("= no {}", list.kind())
                }
                Delta::Replace(list) => {
                    let objects: Vec<_> = list.objects().iter().map(render_object).collect();
                    format!("= {}", objects.join(", "))
                }
                Delta::UpsertEndpoint(_) | Delta::RemoveEndpoint(_) | Delta::OwnAddresses(_) => {
                    "what no manifest says".to_owned()
                }
            };
            lines.push(line);
        }
        for (object_ref, diagnostics) in &step.diagnostics {
            if diagnostics.is_empty() {
                lines.push(format!("! {object_ref}: nothing"));
            }
            lines.extend(diagnostics.iter().map(|diagnostic| format!("! {diagnostic}")));
        }
        lines.extend(step.problems.iter().map(|problem| format!("? {problem}")));
        if step.is_unsure {
            lines.push("unsure".to_owned());
        }
        lines.join("\n")
    }

    fn render_object(object: &Object) -> String {
        match object {
            Object::Policy(policy) => {
                format!("{} with {} rules", object.object_ref(), policy.ingress.len())
            }
            Object::Pod(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_) => {
                object.object_ref().to_string()
            }
        }
    }

    /// Applies one look after the other and compares what the last one changed.
    #[track_caller]
    fn check(looks: Vec<Look>, expected: &Expect) {
        let mut catalog = Catalog::default();
        let steps = looks.into_iter().map(|look| catalog.apply(look));
        expected.assert_eq(&render(&steps.last().unwrap()));
    }

    #[test]
    fn the_first_look_lists_every_kind_and_an_equal_one_changes_nothing() {
        let text = policy("a", "{}");
        let files = [("a.yaml", Some(&*text)), ("b.yaml", Some("{ apiVersion: v1, kind: Pod }"))];
        check(
            vec![look(&files)],
            &expect![[r#"
            = NetworkPolicy default/a with 0 rules
            = no Pod
            = no Namespace
            = no Service
            = no Node
            ! Pod default/: metadata.name is missing: the object is left out (b.yaml:1) [malformed]"#]],
        );
        check(vec![look(&files), look(&files)], &expect![[""]]);
    }

    #[test]
    fn changes_are_told_one_by_one_and_diagnostics_come_and_go() {
        let good = policy("a", "{ ingress: [{}] }");
        let bad = policy("a", "{ ingress: [{}, { form: [] }] }");
        let other = policy("b", "{}");
        let both = [("a.yaml", Some(&*good)), ("b.yaml", Some(&*other))];
        check(
            vec![look(&[("a.yaml", Some(&good))]), look(&both)],
            &expect![[r#"
            + NetworkPolicy default/b with 0 rules
            ! NetworkPolicy default/b: nothing"#]],
        );
        check(
            vec![look(&both), look(&[("a.yaml", Some(&bad)), both[1]])],
            &expect![
                "! NetworkPolicy default/a: spec.ingress[1].form is not a field of the API, which has from, ports here: the rule allows nothing (a.yaml:4) [unknown-field]"
            ],
        );
        check(
            vec![look(&[("a.yaml", Some(&bad)), both[1]]), look(&both)],
            &expect!["! NetworkPolicy default/a: nothing"],
        );
    }

    #[test]
    fn a_file_is_gone_when_it_is_missing_twice() {
        let (a, b) = (policy("a", "{}"), policy("b", "{}"));
        let both = [("a.yaml", Some(&*a)), ("b.yaml", Some(&*b))];
        check(vec![look(&both), look(&both[..1])], &expect!["unsure"]);
        check(
            vec![look(&both), look(&both[..1]), look(&both[..1])],
            &expect![[r#"
            - NetworkPolicy default/b
            ! NetworkPolicy default/b: nothing"#]],
        );
        check(
            vec![look(&both), look(&both[..1]), look(&both), look(&both[1..])],
            &expect!["unsure"],
        );
    }

    #[test]
    fn an_unreadable_file_keeps_its_objects_and_withholds_the_first_list() {
        let text = policy("a", "{}");
        let readable = || look(&[("a.yaml", Some(&text))]);
        let unreadable = || look(&[("a.yaml", None)]);
        check(vec![unreadable()], &expect!["? a.yaml: permission denied [unreadable]"]);
        check(
            vec![unreadable(), readable()],
            &expect![[r#"
            = NetworkPolicy default/a with 0 rules
            = no Pod
            = no Namespace
            = no Service
            = no Node"#]],
        );
        check(vec![readable(), unreadable()], &expect!["? a.yaml: permission denied [unreadable]"]);
        check(vec![readable(), unreadable(), readable()], &expect![[""]]);
    }

    #[test]
    fn an_unreadable_directory_keeps_what_is_in_it() {
        let text = policy("a", "{}");
        let denied = |path: &str| Look {
            unreadable: vec![(PathBuf::from(path), io::ErrorKind::PermissionDenied.into())],
            ..Look::default()
        };
        let files = [("top/sub/a.yaml", Some(&*text))];
        check(vec![denied("top")], &expect!["? top: permission denied [unreadable]"]);
        check(
            vec![look(&files), denied("top"), denied("top")],
            &expect!["? top: permission denied [unreadable]"],
        );
        check(
            vec![look(&files), denied("top/other"), denied("top/other")],
            &expect![[r#"
            - NetworkPolicy default/a
            ! NetworkPolicy default/a: nothing
            ? top/other: permission denied [unreadable]"#]],
        );
    }

    #[test]
    fn a_syntax_error_keeps_what_the_file_said_before() {
        let good = format!("{}---\n{}", policy("a", "{ ingress: [{}] }"), policy("b", "{}"));
        let broken = format!("{}---\n{}", policy("a", "{ ingress: [{}, {}] }"), policy("b", "[ {"));
        check(
            vec![look(&[("a.yaml", Some(&good))]), look(&[("a.yaml", Some(&broken))])],
            &expect![[r#"
                + NetworkPolicy default/a with 2 rules
                ! NetworkPolicy default/a: nothing
                ! NetworkPolicy default/b: is truncated by a syntax error: the version before stays in force (a.yaml:6) [malformed]
                ? a.yaml:9: unclosed bracket '{' [syntax]"#]],
        );
        let fixed = policy("a", "{ ingress: [{}, {}] }");
        let looks = [&good, &broken, &fixed].map(|text| look(&[("a.yaml", Some(text))]));
        check(
            looks.into(),
            &expect![[r#"
            - NetworkPolicy default/b
            ! NetworkPolicy default/b: nothing"#]],
        );
    }

    #[test]
    fn a_policy_that_is_cut_off_at_the_first_look_isolates_and_later_it_is_left_out() {
        let broken = policy("a", "{ ingress: [{}], egress: [");
        check(
            vec![look(&[("a.yaml", Some(&broken))])],
            &expect![[r#"
            = NetworkPolicy default/a with 0 rules
            = no Pod
            = no Namespace
            = no Service
            = no Node
            ! NetworkPolicy default/a: is truncated by a syntax error: the policy isolates the pods that it selects and allows nothing (a.yaml:1) [malformed]
            ? a.yaml:4: unclosed bracket '[' [syntax]"#]],
        );
        check(
            vec![look(&[]), look(&[("a.yaml", Some(&broken))])],
            &expect![[r#"
            ! NetworkPolicy default/a: is truncated by a syntax error: the object is ignored (a.yaml:1) [malformed]
            ? a.yaml:4: unclosed bracket '[' [syntax]"#]],
        );
    }

    #[test]
    fn what_is_no_text_does_not_withhold_the_first_list() {
        let mut look = look(&[]);
        look.files.insert(PathBuf::from("a.yaml"), Err(io::ErrorKind::InvalidData.into()));
        check(
            vec![look],
            &expect![[r#"
            = no NetworkPolicy
            = no Pod
            = no Namespace
            = no Service
            = no Node
            ? a.yaml: invalid data [unreadable]"#]],
        );
    }

    #[test]
    fn of_two_definitions_the_last_counts_until_it_is_gone() {
        let (first, second) = (policy("a", "{}"), policy("a", "{ ingress: [{}] }"));
        let both = [("a.yaml", Some(&*first)), ("b.yaml", Some(&*second))];
        check(
            vec![look(&both)],
            &expect![[r#"
            = NetworkPolicy default/a with 1 rules
            = no Pod
            = no Namespace
            = no Service
            = no Node
            ! NetworkPolicy default/a: is defined again at b.yaml:1: the later definition is used (a.yaml:1) [defined-twice]"#]],
        );
        check(vec![look(&both), look(&both[..1]), look(&both[..1])], &expect![""]);
    }

    #[test]
    fn a_renamed_file_changes_nothing() {
        let text = policy("a", "{}");
        let looks = ["a.yaml", "b.yaml", "b.yaml"].map(|name| look(&[(name, Some(&text))]));
        check(looks.into(), &expect![""]);
    }
}
