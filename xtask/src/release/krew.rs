//! The manifest with which krew installs `kubectl netpol`.
//!
//! In: the digests of the plugin's archives. Out: YAML, for the index of krew or `kubectl krew install --manifest`.

use std::fmt::Write as _;

/// The path of the manifest in krew's index, which refuses a file that is not called as its plugin. A second copy, because a
/// `netpol.yaml` among the files to download would be taken for the manifests of the cluster.
pub(super) const INDEX_PATH: &str = "plugins/netpol.yaml";

/// The name of the plugin's archive for a processor.
pub(super) fn archive_name(version: &str, arch: &str) -> String {
    format!("kubectl-netpol-{version}-linux-{arch}.tar.gz")
}

/// The manifest. `archives` are processor and digest; the files are at `downloads`.
pub(super) fn manifest(
    version: &str,
    (downloads, homepage): (&str, &str),
    archives: &[(&str, String)],
) -> String {
    let mut text = format!(
        "apiVersion: krew.googlecontainertools.github.com/v1alpha2\n\
         kind: Plugin\n\
         metadata:\n\
         \x20 name: netpol\n\
         spec:\n\
         \x20 version: v{version}\n\
         \x20 homepage: {homepage}\n\
         \x20 shortDescription: Explain, check and simulate NetworkPolicies\n\
         \x20 description: |\n\
         \x20   Says why NetworkPolicies allow or deny a connection, finds mistakes in\n\
         \x20   them, and draws who reaches whom, from files or from a cluster. It needs\n\
         \x20   nothing in the cluster.\n\
         \x20 platforms:\n"
    );
    for (arch, digest) in archives {
        let name = archive_name(version, arch);
        // Writing to a String cannot fail.
        write!(
            text,
            "  - selector:\n      matchLabels:\n        os: linux\n        arch: {arch}\n    \
             uri: {downloads}/{name}\n    sha256: {digest}\n    bin: kubectl-netpol\n"
        )
        .ok();
    }
    text
}
