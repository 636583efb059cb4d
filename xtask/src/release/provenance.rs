//! Where the files of a release come from: an in-toto statement with SLSA's predicate, for a signature outside.
//!
//! In: digests, the revision, the options. Out: JSON without a time and without the name of a machine, which whoever signs adds.
//!
//! Source: in-toto Attestation Framework 1.0, "Statement"; SLSA 1.0, "Provenance".

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::assets::Release;
use crate::revision::Revision;
use crate::setup::Package;

/// What programs are built from, besides the checkout.
#[derive(Debug)]
pub(super) struct Materials<'a> {
    /// SHA-256 of Cargo.lock.
    pub(super) lock_digest: &'a str,
    /// The pinned toolchain.
    pub(super) toolchain: &'a str,
    /// Packages of Debian with which programs are linked. The standard library of such programs is built from the toolchain's
    /// sources.
    pub(super) packages: &'a [Package],
}

/// The statement about these files, by name and digest.
pub(super) fn statement(
    release: &Release,
    materials: &Materials<'_>,
    files: &BTreeMap<String, String>,
) -> Value {
    let Release { version, registry, downloads, revision } = release;
    let Materials { lock_digest, toolchain, packages } = materials;
    let subject: Vec<_> = files
        .iter()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest } }))
        .collect();
    let source = revision.as_ref().map(|Revision { commit, time_s: _, is_dirty }| {
        json!({ "name": "git checkout", "digest": { "gitCommit": commit }, "annotations": { "dirty": is_dirty } })
    });
    let lock = json!({ "name": "Cargo.lock", "digest": { "sha256": lock_digest } });
    let compiler = json!({ "name": "Rust toolchain", "annotations": { "channel": toolchain } });
    let packages = packages
        .iter()
        .map(|Package { file, digest }| json!({ "name": file, "digest": { "sha256": digest } }));
    let materials: Vec<_> = source.into_iter().chain([lock, compiler]).chain(packages).collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "cargo xtask release",
                "externalParameters": { "version": version, "registry": registry, "downloads": downloads },
                "resolvedDependencies": materials,
            },
            "runDetails": { "builder": { "id": "cargo xtask release" } },
        },
    })
}
