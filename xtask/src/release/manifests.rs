//! One file for each platform, which `kubectl apply -f` installs, and one that removes it again.
//!
//! In: the overlays of `deploy`, and the image with its digest. Out: YAML by file name, as kubectl's kustomize writes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::shell;
use crate::workspace::Workspace;

/// Renders all overlays and removals.
///
/// # Errors
/// kubectl is missing, or refuses a kustomization.
pub(super) fn render(image: &str, digest: &str, version: &str) -> Result<BTreeMap<String, String>> {
    let target = Workspace::read()?.target_directory;
    // Tests render at the same time.
    let folder = target.join(format!("release-kustomization-{}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut files = BTreeMap::new();
    let deploy = shell::root().join("deploy");
    for (group, prefix) in [("overlays", "netpol"), ("uninstall", "netpol-uninstall")] {
        for platform in platforms(&deploy)? {
            let source = deploy.join(group).join(&platform);
            let text = kustomization(&relative(&folder, &source), image, digest, version);
            fs::write(folder.join("kustomization.yaml"), text)?;
            let rendered = shell::stdout(shell::command("kubectl").arg("kustomize").arg(&folder))
                .with_context(|| format!("rendering {}", source.display()))?;
            files.insert(format!("{prefix}-{platform}.yaml"), rendered);
        }
    }
    fs::remove_dir_all(&folder)?;
    Ok(files)
}

/// The names of the overlays, sorted.
fn platforms(deploy: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(deploy.join("overlays"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A kustomization (JSON is YAML) that sets image and version.
fn kustomization(resource: &Path, image: &str, digest: &str, version: &str) -> String {
    json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [resource],
        "images": [{ "name": "netpol", "newName": image, "digest": digest }],
        "labels": [{ "pairs": { "app.kubernetes.io/version": version }, "includeTemplates": true }],
    })
    .to_string()
}

/// The path from a folder to another one, because kustomize takes no absolute paths.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Path::new(".."));
    let down = to.components().skip(shared).map(|part| Path::new(part.as_os_str()));
    up.chain(down).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_from_one_folder_to_another() {
        let path = relative(Path::new("/a/target/x"), Path::new("/a/deploy/overlays/k3s"));
        assert_eq!(path, Path::new("../../deploy/overlays/k3s"));
    }

    #[test]
    fn the_manifest_of_a_release_names_image_and_version_everywhere() {
        // Where tests must run, this one fails without kubectl.
        if shell::find_program("kubectl").is_none() && std::env::var_os("CI").is_none() {
            return;
        }
        let digest = format!("sha256:{}", "1".repeat(64));
        let files = render("r.example/netpol", &digest, "9.8.7").unwrap();
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert!(names.contains(&"netpol-k3s.yaml") && names.contains(&"netpol-uninstall-k3s.yaml"));
        for (name, text) in &files {
            let n_images = text.matches(&format!("image: r.example/netpol@{digest}\n")).count();
            assert_eq!(n_images, text.matches(" image: ").count(), "{name}");
            assert!(n_images > 0 && !text.contains("version: 0."), "{name}: {text}");
        }
    }
}
