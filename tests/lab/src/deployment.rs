//! The manifests in `deploy`, as `kubectl apply -k` would send them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::repository;

/// The folder of the manifests.
pub fn folder() -> PathBuf {
    repository::path("deploy")
}

/// The objects of a kustomization; needs kubectl.
///
/// # Errors
/// kubectl cannot be started, or prints an error or a warning.
pub fn kustomize(name: &str) -> Result<Vec<Value>> {
    build(name, &folder().join(name))
}

/// As [`kustomize`], with components that an operator adds.
///
/// # Errors
/// As [`kustomize`], and if the copy of the manifests cannot be written.
pub fn kustomize_with(name: &str, components: &[&str]) -> Result<Vec<Value>> {
    kustomize_copy(|_| Ok(format!("../{name}")), components)
}

/// The objects of another project's manifest with components of ours.
///
/// # Errors
/// As [`kustomize_with`].
pub fn kustomize_manifest(manifest: &str, components: &[&str]) -> Result<Vec<Value>> {
    let write = |folder: &Path| {
        fs::write(folder.join("manifest.yaml"), manifest)?;
        Ok("manifest.yaml".to_owned())
    };
    kustomize_copy(write, components)
}

/// Builds a kustomization in a copy of the manifests. `resource` gets its folder, and returns its resource.
fn kustomize_copy(
    resource: impl FnOnce(&Path) -> Result<String>,
    components: &[&str],
) -> Result<Vec<Value>> {
    // kubectl accepts no absolute paths.
    let copy = tempfile::tempdir()?;
    let copied = Command::new("cp").arg("-r").arg(folder()).arg(copy.path()).status()?;
    ensure!(copied.success(), "the manifests cannot be copied");
    let changed = copy.path().join("deploy/with");
    fs::create_dir(&changed)?;
    let components: Vec<_> = components.iter().map(|name| format!("../{name}")).collect();
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [resource(&changed)?],
        "components": components,
    });
    fs::write(changed.join("kustomization.yaml"), kustomization.to_string())?;
    build("a kustomization of an operator", &changed)
}

fn build(name: &str, kustomization: &Path) -> Result<Vec<Value>> {
    let output = Command::new("kubectl").arg("kustomize").arg(kustomization).output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && errors.is_empty(), "{name}: {errors}");
    objects(&String::from_utf8(output.stdout)?)
}

/// The objects of a YAML text.
///
/// # Errors
/// It is no YAML.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    text.split("\n---\n").map(|document| Ok(serde_saphyr::from_str(document)?)).collect()
}

/// The first object of a kind.
///
/// # Errors
/// There is none.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| at(object, "/kind") == kind).with_context(|| format!("no {kind}"))
}

/// The value at a path, null if there is none.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

/// The items of a list; none if the value is no list.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The texts in a list.
pub fn texts(value: &Value) -> BTreeSet<&str> {
    items(value).filter_map(Value::as_str).collect()
}

/// The containers of a DaemonSet, init containers included.
pub fn containers(daemon_set: &Value) -> impl Iterator<Item = &Value> {
    let pod = at(daemon_set, "/spec/template/spec");
    items(at(pod, "/initContainers")).chain(items(at(pod, "/containers")))
}

/// The host path of a DaemonSet's volume.
pub fn host_path<'a>(daemon_set: &'a Value, volume: &str) -> Option<&'a str> {
    let volumes = at(daemon_set, "/spec/template/spec/volumes");
    let volume = items(volumes).find(|found| at(found, "/name") == volume)?;
    at(volume, "/hostPath/path").as_str()
}
