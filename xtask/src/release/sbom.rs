//! The bill of materials: every crate that is part of a program of the image, and the programs themselves, as `CycloneDX` 1.6.
//!
//! In: what `cargo metadata` and Cargo.lock say, and the programs' digests. Out: JSON without a time. The crate `cyclonedx-bom` would
//! do it too, with twenty more crates in xtask, which everybody compiles first.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// The packages whose dependencies are in the image. `netpol-ebpf` is no dependency of any, because a build script compiles it.
const ROOTS: [&str; 4] = ["netpol-agent", "netpol-cni", "netpol-cli", "netpol-ebpf"];

/// The used part of `cargo metadata`.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a package of this workspace.
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// `None` for a dependency of the program, else `build` or `dev`.
    kind: Option<String>,
}

/// The bill. `programs` are the digests of the files of the image, by `ARCH/NAME`.
///
/// # Errors
/// Cargo's output names a package that it does not describe.
pub(super) fn bill(
    metadata: &Metadata,
    lock: &str,
    version: &str,
    image_digest: &str,
    programs: &BTreeMap<String, String>,
) -> Result<Value> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let package = |id: &str| packages.get(id).copied().with_context(|| format!("no package {id}"));
    let edges = edges(metadata);
    let checksums = checksums(lock);
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for (id, targets) in &edges {
        let found = package(id)?;
        components.push(component(found, version, &checksums));
        let targets: BTreeSet<String> = targets
            .iter()
            .map(|id| package(id).map(|found| reference(found, version)))
            .collect::<Result<_>>()?;
        dependencies.push(json!({ "ref": reference(found, version), "dependsOn": targets }));
    }
    for (name, digest) in programs {
        components.push(json!({
            "type": "file", "bom-ref": format!("file:{name}"), "name": name, "version": version,
            "hashes": [{ "alg": "SHA-256", "content": digest }],
        }));
    }
    let digest = image_digest.strip_prefix("sha256:").unwrap_or(image_digest);
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": {
            "type": "container", "bom-ref": "image", "name": "netpol", "version": version,
            "hashes": [{ "alg": "SHA-256", "content": digest }],
            "licenses": [{ "expression": "Apache-2.0 AND (MIT OR GPL-2.0-only)" }],
        } },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// The dependencies of every package that is reached from the roots, by id.
fn edges(metadata: &Metadata) -> BTreeMap<&str, Vec<&str>> {
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let is_root =
        |package: &&Package| package.source.is_none() && ROOTS.contains(&package.name.as_str());
    let mut waiting: Vec<&str> =
        metadata.packages.iter().filter(is_root).map(|package| package.id.as_str()).collect();
    let mut edges = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        let Some(node) = nodes.get(id).filter(|_| !edges.contains_key(id)) else { continue };
        let is_linked =
            |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let targets: Vec<&str> =
            node.deps.iter().filter(is_linked).map(|dependency| dependency.pkg.as_str()).collect();
        waiting.extend(&targets);
        edges.insert(id, targets);
    }
    edges
}

/// A package of this workspace has the version of the release.
fn version_of<'a>(package: &'a Package, release: &'a str) -> &'a str {
    if package.source.is_none() { release } else { &package.version }
}

fn reference(package: &Package, release: &str) -> String {
    format!("pkg:cargo/{}@{}", package.name, version_of(package, release))
}

fn component(package: &Package, release: &str, checksums: &BTreeMap<(&str, &str), &str>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package, release),
        "name": package.name,
        "version": version_of(package, release),
    });
    if let Some(fields) = component.as_object_mut() {
        if let Some(licence) = &package.license {
            // The older form of Cargo's manual.
            let expression = licence.replace('/', " OR ");
            fields.insert("licenses".to_owned(), json!([{ "expression": expression }]));
        }
        if package.source.is_some() {
            fields.insert("purl".to_owned(), json!(reference(package, release)));
        }
        if let Some(hash) = checksums.get(&(package.name.as_str(), package.version.as_str())) {
            fields.insert("hashes".to_owned(), json!([{ "alg": "SHA-256", "content": hash }]));
        }
    }
    component
}

/// The checksums of the registry's packages in Cargo.lock, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let checksum = |package| {
        Some(((field(package, "name")?, field(package, "version")?), field(package, "checksum")?))
    };
    lock.split("[[package]]").filter_map(checksum).collect()
}

/// The value of a line `name = "value"`.
fn field<'a>(package: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"');
    package.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"c0ffee\"\n";

    fn metadata() -> Metadata {
        let package = |id: &str, source| json!({ "id": id, "name": id, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source });
        let depends =
            |pkg: &str, kind: Value| json!({ "pkg": pkg, "dep_kinds": [{ "kind": kind }] });
        serde_json::from_value(json!({
            "packages": [
                package("netpol-cni", Value::Null), package("a", json!("registry")),
                package("b", json!("registry")), package("c", json!("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "netpol-cni", "deps": [depends("a", Value::Null), depends("b", json!("dev"))] },
                { "id": "a", "deps": [] },
                { "id": "b", "deps": [] },
                { "id": "c", "deps": [depends("a", Value::Null)] },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn only_what_a_program_is_linked_with_is_in_the_bill() {
        let programs = [("amd64/netpol-cni".to_owned(), "f00d".to_owned())].into();
        let bill = bill(&metadata(), LOCK, "2.0.0", "sha256:abcd", &programs).unwrap();
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            ["pkg:cargo/a@1.0.0", "pkg:cargo/netpol-cni@2.0.0", "file:amd64/netpol-cni"]
        );
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "c0ffee");
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["dependencies"][1]["dependsOn"], json!(["pkg:cargo/a@1.0.0"]));
        assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], "abcd");
    }
}
