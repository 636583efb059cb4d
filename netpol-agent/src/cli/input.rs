//! Objects from `-f`.

use std::path::PathBuf;

use super::Terminal;
use crate::manifests::{self, Cause, FileCode, Manifests};
use crate::model::{Diagnostic, Object};

/// Reads the files that `-f` names.
pub(super) fn read(paths: &[PathBuf], terminal: &mut Terminal<'_>) -> Manifests {
    manifests::read(paths, &mut *terminal.stdin)
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

/// Tells what was found in the files themselves, and with `wanted` also what was found in those objects.
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

/// The objects without their places.
pub(super) fn objects(manifests: &Manifests) -> Vec<Object> {
    manifests.objects.iter().map(|sourced| sourced.object.clone()).collect()
}
