//! The objects in the files of a directory, and the changes since the last scan.
//!
//! In: scans of the directory. Out: deltas, diagnostics, and errors. Valid objects stay as long as possible:
//! * a file or directory that cannot be read keeps its objects; before the first list it delays the list;
//! * a file with a syntax error keeps the objects that it had before the error. At the first scan there are none: then a
//!   truncated policy isolates the pods that it selects and allows nothing;
//! * a missing file keeps its objects until it is also missing in the next scan, because editors move files.
//!
//! Must not: do any IO, or use the time.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netpol_policy::manifests::{Cause, Finding};
use netpol_policy::manifests::{Content, Entry, content, unreadable};
use netpol_policy::model::convert::ListedBackends;
use netpol_policy::model::{Diagnostic, Kind, Object, ObjectName, ObjectRef, ServiceBackend};
use netpol_policy::store::{Delta, List};

/// A scan of the directory.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The files that were found, with their text.
    pub(super) files: BTreeMap<PathBuf, io::Result<String>>,
    /// Files and directories that could not be read.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

/// The changes of a scan.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Changes of objects, in order.
    pub(super) deltas: Vec<Delta>,
    /// The diagnostics of all objects whose diagnostics may have changed.
    pub(super) diagnostics: Vec<(ObjectRef, Vec<Diagnostic>)>,
    /// New findings in files, for the log.
    pub(super) new_findings: Vec<Finding>,
    /// Errors of files that cannot be read now.
    pub(super) problems: Vec<Finding>,
    /// A file is missing: the next scan should follow soon.
    pub(super) is_unsure: bool,
}

/// The state of a directory.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    by_path: BTreeMap<PathBuf, File>,
    standing: BTreeMap<ObjectRef, Standing>,
    is_listed: bool,
    backends: BTreeMap<ObjectName, BTreeSet<ServiceBackend>>,
}

/// Whether the first list has been sent.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No: the objects before this run are not known.
    First,
    /// Yes.
    Later,
}

/// A file as far as it could be read.
#[derive(Debug, Default)]
struct File {
    /// Hash of the text from which the other fields come.
    hash: Option<u64>,
    entries: Vec<Entry>,
    /// The backends of Services that `EndpointSlices` list.
    backends: Vec<ListedBackends>,
    /// Findings on documents without a usable object.
    findings: Vec<Finding>,
    /// Why the file could not be read, or not completely.
    problem: Option<Finding>,
    /// Whether it was missing in the last scan.
    is_missing: bool,
}

/// The current state of one object: the object, unless it is not usable, and its diagnostics.
#[derive(Debug, Default, PartialEq, Eq)]
struct Standing {
    object: Option<Object>,
    diagnostics: Vec<Diagnostic>,
}

impl Catalog {
    /// Applies a scan.
    pub(super) fn apply(&mut self, scan: Scan) -> Step {
        let mut step = Step::default();
        let phase = if self.is_listed { Phase::Later } else { Phase::First };
        let mut found = BTreeSet::new();
        let mut is_complete = scan.unreadable.is_empty();
        for (path, text) in scan.files {
            let file = self.by_path.entry(path.clone()).or_default();
            file.is_missing = false;
            match text {
                Ok(text) => file.read(&Arc::from(path.as_path()), &text, phase, &mut step),
                Err(error) => {
                    // A file that is not text is an error of its author, and does not delay the first list.
                    is_complete &= is_about_content(&error);
                    file.fail(unreadable(Arc::from(path.as_path()), &error), &mut step);
                }
            }
            found.insert(path);
        }
        let hidden = |path: &Path| scan.unreadable.iter().any(|(top, _)| path.starts_with(top));
        self.by_path.retain(|path, file| {
            if found.contains(path) || hidden(path) {
                return true;
            }
            let stays = !std::mem::replace(&mut file.is_missing, true);
            step.is_unsure |= stays;
            stays
        });
        step.problems.extend(self.by_path.values().filter_map(|file| file.problem.clone()));
        for (path, error) in &scan.unreadable {
            step.problems.push(unreadable(Arc::from(path.as_path()), error));
        }
        if self.is_listed || is_complete {
            self.advance(&mut step);
        }
        step
    }

    /// Computes the first list, or the changes since the last scan.
    fn advance(&mut self, step: &mut Step) {
        let before = std::mem::replace(&mut self.standing, standing(self.by_path.values()));
        let mut backends: BTreeMap<ObjectName, BTreeSet<ServiceBackend>> = BTreeMap::new();
        for listed in self.by_path.values().flat_map(|file| &file.backends) {
            let of_service = backends.entry(listed.service.clone()).or_default();
            of_service.extend(listed.backends.iter().cloned());
        }
        if !self.is_listed || self.backends != backends {
            step.deltas.push(Delta::ListedBackends(backends.clone()));
            self.backends = backends;
        }
        if self.is_listed {
            changes(&before, &self.standing, step);
        } else {
            self.is_listed = true;
            first_list(&self.standing, step);
        }
    }
}

impl File {
    /// Parses a text, unless it is the same as before.
    fn read(&mut self, path: &Arc<Path>, text: &str, phase: Phase, step: &mut Step) {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        let failed_before = self.problem.as_ref().is_some_and(|problem| problem.location.line == 0);
        if self.hash == Some(hash) && !failed_before {
            return;
        }
        let Content { entries, workloads: _, backends, findings, unsupported: _, is_broken } =
            content(path, text);
        // The rest of a broken file is not known.
        if is_broken {
            self.backends.extend(backends);
        } else {
            self.backends = backends;
        }
        step.new_findings.extend(findings.iter().cloned());
        self.hash = Some(hash);
        self.problem = findings.first().filter(|_| is_broken).cloned();
        self.findings = findings;
        let (truncated, whole): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.is_truncated);
        let before = std::mem::replace(&mut self.entries, whole);
        if is_broken {
            self.keep(before, truncated, phase);
        }
    }

    /// Keeps the objects of before a syntax error.
    fn keep(&mut self, before: Vec<Entry>, truncated: Vec<Entry>, phase: Phase) {
        let mut known: BTreeSet<ObjectRef> = self.entries.iter().map(Entry::object_ref).collect();
        for entry in before {
            if known.insert(entry.object_ref()) {
                self.entries.push(entry);
            }
        }
        for entry in truncated {
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
            step.new_findings.push(problem.clone());
        }
        self.problem = Some(problem);
    }
}

fn is_about_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge)
}

/// The current objects of all files: for each object the last definition, in the order of paths and lines. Definitions in a
/// missing file count only if there is no other.
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

/// Adds a finding on an object, with its position.
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
    // Removals come last, so that the replacement of an object is there before the object is removed.
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

    /// A scan of these files; `None` stands for one that cannot be read.
    fn scan(files: &[(&str, Option<&str>)]) -> Scan {
        let text = |text: Option<&str>| {
            text.map(str::to_owned).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
        };
        let files = files.iter().map(|(name, t)| (PathBuf::from(name), text(*t))).collect();
        Scan { files, unreadable: Vec::new() }
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
                Delta::UpsertEndpoint(_)
                | Delta::RemoveEndpoint(_)
                | Delta::OwnAddresses(_)
                | Delta::ShortCuts(_)
                | Delta::PublishedAddresses { .. } => "not from a manifest".to_owned(),
                // In every first list.
                Delta::ListedBackends(listed) if listed.is_empty() => continue,
                Delta::ListedBackends(listed) => format!("backends of {}", listed.len()),
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
            Object::ClusterPolicy(_)
            | Object::Pod(_)
            | Object::Namespace(_)
            | Object::Service(_)
            | Object::Node(_) => object.object_ref().to_string(),
        }
    }

    /// Applies one scan after the other and compares the changes of the last one.
    #[track_caller]
    fn check(scans: Vec<Scan>, expected: &Expect) {
        let mut catalog = Catalog::default();
        let steps = scans.into_iter().map(|scan| catalog.apply(scan));
        expected.assert_eq(&render(&steps.last().unwrap()));
    }

    #[test]
    fn the_first_scan_lists_every_kind_and_an_equal_one_changes_nothing() {
        let text = policy("a", "{}");
        let files = [("a.yaml", Some(&*text)), ("b.yaml", Some("{ apiVersion: v1, kind: Pod }"))];
        check(
            vec![scan(&files)],
            &expect![[r#"
                = NetworkPolicy default/a with 0 rules
                = no ClusterNetworkPolicy
                = no Pod
                = no Namespace
                = no Service
                = no Node
                ! Pod default/: metadata.name is missing: the object is left out (b.yaml:1) [malformed]"#]],
        );
        check(vec![scan(&files), scan(&files)], &expect![[""]]);
    }

    #[test]
    fn changes_are_reported_one_by_one_and_diagnostics_are_cleared() {
        let good = policy("a", "{ ingress: [{}] }");
        let bad = policy("a", "{ ingress: [{}, { form: [] }] }");
        let other = policy("b", "{}");
        let both = [("a.yaml", Some(&*good)), ("b.yaml", Some(&*other))];
        check(
            vec![scan(&[("a.yaml", Some(&good))]), scan(&both)],
            &expect![[r#"
            + NetworkPolicy default/b with 0 rules
            ! NetworkPolicy default/b: nothing"#]],
        );
        check(
            vec![scan(&both), scan(&[("a.yaml", Some(&bad)), both[1]])],
            &expect![
                "! NetworkPolicy default/a: spec.ingress[1].form is not a field of the API, which has from, ports here: the rule allows nothing (a.yaml:4) [unknown-field]"
            ],
        );
        check(
            vec![scan(&[("a.yaml", Some(&bad)), both[1]]), scan(&both)],
            &expect!["! NetworkPolicy default/a: nothing"],
        );
    }

    #[test]
    fn a_file_is_removed_when_it_is_missing_twice() {
        let (a, b) = (policy("a", "{}"), policy("b", "{}"));
        let both = [("a.yaml", Some(&*a)), ("b.yaml", Some(&*b))];
        check(vec![scan(&both), scan(&both[..1])], &expect!["unsure"]);
        check(
            vec![scan(&both), scan(&both[..1]), scan(&both[..1])],
            &expect![[r#"
            - NetworkPolicy default/b
            ! NetworkPolicy default/b: nothing"#]],
        );
        check(
            vec![scan(&both), scan(&both[..1]), scan(&both), scan(&both[1..])],
            &expect!["unsure"],
        );
    }

    #[test]
    fn an_unreadable_file_keeps_its_objects_and_delays_the_first_list() {
        let text = policy("a", "{}");
        let readable = || scan(&[("a.yaml", Some(&text))]);
        let unreadable = || scan(&[("a.yaml", None)]);
        check(vec![unreadable()], &expect!["? a.yaml: permission denied [unreadable]"]);
        check(
            vec![unreadable(), readable()],
            &expect![[r#"
                = NetworkPolicy default/a with 0 rules
                = no ClusterNetworkPolicy
                = no Pod
                = no Namespace
                = no Service
                = no Node"#]],
        );
        check(vec![readable(), unreadable()], &expect!["? a.yaml: permission denied [unreadable]"]);
        check(vec![readable(), unreadable(), readable()], &expect![[""]]);
    }

    #[test]
    fn an_unreadable_directory_keeps_its_objects() {
        let text = policy("a", "{}");
        let denied = |path: &str| Scan {
            unreadable: vec![(PathBuf::from(path), io::ErrorKind::PermissionDenied.into())],
            ..Scan::default()
        };
        let files = [("top/sub/a.yaml", Some(&*text))];
        check(vec![denied("top")], &expect!["? top: permission denied [unreadable]"]);
        check(
            vec![scan(&files), denied("top"), denied("top")],
            &expect!["? top: permission denied [unreadable]"],
        );
        check(
            vec![scan(&files), denied("top/other"), denied("top/other")],
            &expect![[r#"
            - NetworkPolicy default/a
            ! NetworkPolicy default/a: nothing
            ? top/other: permission denied [unreadable]"#]],
        );
    }

    #[test]
    fn a_syntax_error_keeps_the_objects_of_before() {
        let good = format!("{}---\n{}", policy("a", "{ ingress: [{}] }"), policy("b", "{}"));
        let broken = format!("{}---\n{}", policy("a", "{ ingress: [{}, {}] }"), policy("b", "[ {"));
        check(
            vec![scan(&[("a.yaml", Some(&good))]), scan(&[("a.yaml", Some(&broken))])],
            &expect![[r#"
                + NetworkPolicy default/a with 2 rules
                ! NetworkPolicy default/a: nothing
                ! NetworkPolicy default/b: is truncated by a syntax error: the version before stays in force (a.yaml:6) [malformed]
                ? a.yaml:9: unclosed bracket '{' [syntax]"#]],
        );
        let fixed = policy("a", "{ ingress: [{}, {}] }");
        let scans = [&good, &broken, &fixed].map(|text| scan(&[("a.yaml", Some(text))]));
        check(
            scans.into(),
            &expect![[r#"
            - NetworkPolicy default/b
            ! NetworkPolicy default/b: nothing"#]],
        );
    }

    #[test]
    fn a_truncated_policy_isolates_at_the_first_scan_and_is_skipped_later() {
        let broken = policy("a", "{ ingress: [{}], egress: [");
        check(
            vec![scan(&[("a.yaml", Some(&broken))])],
            &expect![[r#"
                = NetworkPolicy default/a with 0 rules
                = no ClusterNetworkPolicy
                = no Pod
                = no Namespace
                = no Service
                = no Node
                ! NetworkPolicy default/a: is truncated by a syntax error: the policy isolates the pods that it selects and allows nothing (a.yaml:1) [malformed]
                ? a.yaml:4: unclosed bracket '[' [syntax]"#]],
        );
        check(
            vec![scan(&[]), scan(&[("a.yaml", Some(&broken))])],
            &expect![[r#"
            ! NetworkPolicy default/a: is truncated by a syntax error: the object is ignored (a.yaml:1) [malformed]
            ? a.yaml:4: unclosed bracket '[' [syntax]"#]],
        );
    }

    #[test]
    fn a_file_that_is_not_text_does_not_delay_the_first_list() {
        let mut scan = scan(&[]);
        scan.files.insert(PathBuf::from("a.yaml"), Err(io::ErrorKind::InvalidData.into()));
        check(
            vec![scan],
            &expect![[r#"
                = no NetworkPolicy
                = no ClusterNetworkPolicy
                = no Pod
                = no Namespace
                = no Service
                = no Node
                ? a.yaml: invalid data [unreadable]"#]],
        );
    }

    #[test]
    fn of_two_definitions_the_last_counts_until_it_is_removed() {
        let (first, second) = (policy("a", "{}"), policy("a", "{ ingress: [{}] }"));
        let both = [("a.yaml", Some(&*first)), ("b.yaml", Some(&*second))];
        check(
            vec![scan(&both)],
            &expect![[r#"
                = NetworkPolicy default/a with 1 rules
                = no ClusterNetworkPolicy
                = no Pod
                = no Namespace
                = no Service
                = no Node
                ! NetworkPolicy default/a: is defined again at b.yaml:1: the later definition is used (a.yaml:1) [defined-twice]"#]],
        );
        check(vec![scan(&both), scan(&both[..1]), scan(&both[..1])], &expect![""]);
    }

    #[test]
    fn a_renamed_file_changes_nothing() {
        let text = policy("a", "{}");
        let scans = ["a.yaml", "b.yaml", "b.yaml"].map(|name| scan(&[(name, Some(&text))]));
        check(scans.into(), &expect![""]);
    }
}
