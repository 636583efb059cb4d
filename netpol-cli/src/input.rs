//! The objects that a command judges: those in files, those of a live cluster, or these under those.

use std::collections::BTreeSet;
use std::path::PathBuf;

use netpol_policy::manifests::{self, Cause, FileCode, Manifests};
use netpol_policy::model::{Diagnostic, Object};
use netpol_terminal::Terminal;

use crate::args::ClusterArgs;
use crate::cluster;

/// There is nothing to judge.
pub(super) const NO_OBJECTS: &str = "give objects with -f or --cluster";

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// From files.
    pub(super) manifests: Manifests,
    /// From the cluster, without those that a file replaces.
    live: Vec<Object>,
    /// Findings on objects of the cluster.
    pub(super) live_diagnostics: Vec<Diagnostic>,
}

/// Reads the files that `-f` names, and with `--cluster` the objects of the cluster.
///
/// # Errors
/// The cluster cannot be asked. What is wrong with files is in the findings.
pub(super) fn read(
    paths: &[PathBuf],
    cluster: &ClusterArgs,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<Input> {
    let manifests = read_files(paths, terminal);
    let mut input = live(cluster, terminal)?;
    let replaced: BTreeSet<_> =
        manifests.objects.iter().map(|read| read.object.object_ref()).collect();
    input.live.retain(|object| !replaced.contains(&object.object_ref()));
    input.live_diagnostics.retain(|diagnostic| !replaced.contains(&diagnostic.object));
    Ok(Input { manifests, ..input })
}

/// Reads files only.
pub(super) fn read_files(paths: &[PathBuf], terminal: &mut Terminal<'_>) -> Manifests {
    manifests::read(paths, &mut *terminal.stdin)
}

fn live(cluster: &ClusterArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<Input> {
    let ClusterArgs { cluster, kubeconfig } = cluster;
    if !cluster {
        return Ok(Input::default());
    }
    let cluster::Live { objects, diagnostics, missing } = cluster::read(kubeconfig.as_deref())?;
    for sentence in missing {
        terminal.complain(&sentence);
    }
    Ok(Input { manifests: Manifests::default(), live: objects, live_diagnostics: diagnostics })
}

impl Input {
    /// All objects.
    pub(super) fn objects(&self) -> Vec<Object> {
        let in_files = self.manifests.objects.iter().map(|read| read.object.clone());
        self.live.iter().cloned().chain(in_files).collect()
    }

    /// The findings on objects.
    pub(super) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let in_files = self.manifests.findings.iter().filter_map(|finding| match &finding.cause {
            Cause::Object(diagnostic) => Some(diagnostic),
            Cause::File { .. } => None,
        });
        self.live_diagnostics.iter().chain(in_files)
    }

    /// Tells what was found in files and objects.
    pub(super) fn tell_findings(&self, terminal: &mut Terminal<'_>) {
        for diagnostic in &self.live_diagnostics {
            terminal.complain(diagnostic);
        }
        tell_findings(&self.manifests, terminal, |_| true);
    }
}

/// Whether something is missing that was meant to be there: then the answer can be wrong.
pub(super) fn is_incomplete(manifests: &Manifests) -> bool {
    manifests.findings.iter().any(|finding| match &finding.cause {
        Cause::File { code, message: _ } => match code {
            FileCode::Unreadable | FileCode::Syntax | FileCode::TooLarge => true,
            FileCode::RepeatedKey | FileCode::InvalidValue | FileCode::NoKind => false,
        },
        Cause::Object(_) => false,
    })
}

/// Tells what was found in the files themselves, and also what was found in the objects that are `wanted`.
pub(super) fn tell_findings(
    manifests: &Manifests,
    terminal: &mut Terminal<'_>,
    wanted: impl Fn(&Diagnostic) -> bool,
) {
    for finding in &manifests.findings {
        let is_wanted = match &finding.cause {
            Cause::File { .. } => true,
            Cause::Object(diagnostic) => wanted(diagnostic),
        };
        if is_wanted {
            terminal.complain(finding);
        }
    }
}
