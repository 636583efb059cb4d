//! The files of a release, from programs in memory.
//!
//! In: programs, licences, the chart, and a way to render manifests. Out: files by name. The same input makes the same bytes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::provenance::Materials;
use super::sbom::Metadata;
use super::{krew, provenance, sbom};
use crate::digest::sha256;
use crate::image::tarball::{Entry, gzip, tar};
use crate::image::{Image, Layout};
use crate::revision::Revision;
use crate::setup::Package;

/// What a release is called, and where it will be.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// The semantic version.
    pub(super) version: String,
    /// The registry with its folder, such as `ghcr.io/owner`.
    pub(super) registry: String,
    /// The address of the folder from which files are downloaded.
    pub(super) downloads: String,
    /// The checkout.
    pub(super) revision: Option<Revision>,
}

impl Release {
    /// The page of the project, if the files belong to a release on GitHub; else the folder of the files.
    pub(super) fn homepage(&self) -> &str {
        self.downloads.split("/releases/").next().unwrap_or(&self.downloads)
    }
}

/// The content of a release.
#[derive(Debug)]
pub(super) struct Content<'a> {
    /// One image for each processor.
    pub(super) images: &'a [Image],
    /// Packages of Debian with which programs are linked.
    pub(super) packages: &'a [Package],
    /// The files of the chart, by path below its folder.
    pub(super) chart: &'a BTreeMap<String, String>,
    /// What cargo says about the packages.
    pub(super) metadata: &'a Metadata,
    /// Cargo.lock.
    pub(super) lock: &'a str,
    /// The pinned toolchain.
    pub(super) toolchain: &'a str,
}

/// All files, by path below the release's folder. `render` makes the manifests: it gets the image with its digest.
///
/// # Errors
/// The chart lacks a line that is replaced, or the manifests cannot be rendered.
pub(super) fn assets(
    release: &Release,
    content: &Content<'_>,
    render: impl FnOnce(&str, &str) -> Result<BTreeMap<String, String>>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let Release { version, registry, downloads, revision: _ } = release;
    let Content { images, packages, chart, metadata, lock, toolchain } = content;
    let name = format!("{registry}/netpol");
    let layout = Layout::new(images, &format!("{name}:{version}"), version)?;
    let mut files = BTreeMap::new();
    files.insert(format!("netpol-{version}.oci.tar"), layout.archive()?);

    for (file, text) in render(&name, &layout.digest)? {
        files.insert(file, text.into_bytes());
    }
    let packed = gzip(&chart_archive(chart, version, &name, &layout.digest)?)?;
    files.insert(format!("netpol-{version}.tgz"), packed);

    let mut plugins = Vec::new();
    let mut programs = BTreeMap::new();
    for image in *images {
        let arch = image.arch.to_string();
        let archive = gzip(&plugin_archive(image)?)?;
        plugins.push((arch.clone(), sha256(&archive)));
        files.insert(krew::archive_name(version, &arch), archive);
        for (path, file) in &image.files {
            if let Some(program) = path.strip_prefix("bin/") {
                programs.insert(format!("{arch}/{program}"), sha256(&file.content));
            }
        }
    }
    let plugins: Vec<_> =
        plugins.iter().map(|(arch, hash)| (arch.as_str(), hash.clone())).collect();
    let krew = krew::manifest(version, (downloads, release.homepage()), &plugins);
    files.insert(krew::INDEX_PATH.to_owned(), krew.clone().into_bytes());
    files.insert("netpol.krew.yaml".to_owned(), krew.into_bytes());

    let bill = sbom::bill(metadata, lock, version, &layout.digest, &programs)?;
    files.insert(format!("netpol-{version}.cdx.json"), pretty(&bill)?);

    let digests = files.iter().map(|(name, content)| (name.clone(), sha256(content))).collect();
    let materials = Materials { lock_digest: &sha256(lock.as_bytes()), toolchain, packages };
    let statement = provenance::statement(release, &materials, &digests);
    files.insert(format!("netpol-{version}.intoto.json"), pretty(&statement)?);

    let sums = files.iter().map(|(name, content)| format!("{}  {name}\n", sha256(content)));
    let sums: String = sums.collect();
    files.insert("SHA256SUMS".to_owned(), sums.into_bytes());
    // The layout as a folder too, for tools that push it. Its files name their own digests.
    files.extend(layout.files.into_iter().map(|(path, content)| (format!("oci/{path}"), content)));
    Ok(files)
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// The plugin and its licence.
fn plugin_archive(image: &Image) -> Result<Vec<u8>> {
    let entry = |(path, name): (&str, &'static str)| -> Result<(&'static str, Entry<'_>)> {
        let file = image.files.get(path).with_context(|| format!("the image has no {path}"))?;
        Ok((name, Entry::File { mode: file.mode, content: &file.content }))
    };
    let plugin = entry(("bin/kubectl-netpol", "kubectl-netpol"))?;
    let licence = entry(("licenses/LICENSE", "LICENSE"))?;
    tar([plugin, licence].into_iter())
}

/// The chart as `helm package` packs it, with the release's version and image.
fn chart_archive(
    chart: &BTreeMap<String, String>,
    version: &str,
    image: &str,
    digest: &str,
) -> Result<Vec<u8>> {
    let mut files: BTreeMap<String, String> =
        chart.iter().map(|(path, text)| (format!("netpol/{path}"), text.clone())).collect();
    let mut replace = |path: &str, start: &str, line: &str| -> Result<()> {
        let text = files.get_mut(path).with_context(|| format!("the chart has no {path}"))?;
        let n_found = text.lines().filter(|found| found.starts_with(start)).count();
        ensure!(n_found == 1, "{path} has {n_found} lines that begin with `{start}`");
        let replaced = |found| if str::starts_with(found, start) { line } else { found };
        *text = text.lines().map(replaced).flat_map(|line| [line, "\n"]).collect();
        Ok(())
    };
    replace("netpol/Chart.yaml", "version: ", &format!("version: {version}"))?;
    replace("netpol/Chart.yaml", "appVersion: ", &format!("appVersion: {version}"))?;
    replace("netpol/values.yaml", "  repository: ", &format!("  repository: {image}"))?;
    replace("netpol/values.yaml", "  digest: ", &format!("  digest: {digest}"))?;
    tar(files
        .iter()
        .map(|(path, text)| (path.as_str(), Entry::File { mode: 0o644, content: text.as_bytes() })))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use oci_spec::image::Arch;
    use serde_json::json;

    use super::*;
    use crate::image::File;

    fn release() -> Release {
        Release {
            version: "1.2.3".to_owned(),
            registry: "r.example/o".to_owned(),
            downloads: "https://d.example/v1.2.3".to_owned(),
            revision: Some(Revision { commit: "0123".to_owned(), time_s: 7, is_dirty: false }),
        }
    }

    fn files() -> BTreeMap<String, Vec<u8>> {
        let image = |arch: Arch| {
            let paths = ["bin/kubectl-netpol", "bin/netpol-agent", "licenses/LICENSE"];
            let file = |path: &str| File { mode: 0o755, content: format!("{arch} {path}").into() };
            Image {
                files: paths.map(|path| (path.to_owned(), file(path))).into(),
                arch: arch.clone(),
                labels: BTreeMap::new(),
                entrypoint: "/bin/netpol-agent".to_owned(),
                search_path: "/bin".to_owned(),
                links: BTreeMap::new(),
            }
        };
        let chart = [
            ("Chart.yaml", "name: netpol\nversion: 0.0.1\nappVersion: 0.0.1\n"),
            ("values.yaml", "image:\n  repository: netpol\n  digest: \"\"\n"),
        ];
        let chart = chart.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let metadata = json!({ "packages": [], "resolve": { "nodes": [] } });
        let content = Content {
            images: &[image(Arch::Amd64), image(Arch::ARM64)],
            packages: &[Package { file: "musl-dev_1_arm64.deb".into(), digest: "89".into() }],
            chart: &chart,
            metadata: &serde_json::from_value(metadata).unwrap(),
            lock: "",
            toolchain: "1.95.0",
        };
        let render = |image: &str, digest: &str| {
            let text = format!("image: {image}@{digest}\n");
            Ok([("netpol-k3s.yaml".to_owned(), text)].into())
        };
        assets(&release(), &content, render).unwrap()
    }

    fn text(files: &BTreeMap<String, Vec<u8>>, name: &str) -> String {
        String::from_utf8(files.get(name).unwrap().clone()).unwrap()
    }

    fn unpacked(content: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(content));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        entries.collect()
    }

    #[test]
    fn the_same_programs_make_the_same_release() {
        assert_eq!(files(), files());
    }

    #[test]
    fn every_file_has_its_digest_in_the_sums_and_in_the_statement() {
        let files = files();
        let sums = text(&files, "SHA256SUMS");
        let statement: Value =
            serde_json::from_str(&text(&files, "netpol-1.2.3.intoto.json")).unwrap();
        let subjects = statement["subject"].as_array().unwrap();
        for (name, content) in &files {
            if name == "SHA256SUMS" || name.starts_with("oci/") {
                continue;
            }
            let digest = sha256(content);
            assert!(sums.contains(&format!("{digest}  {name}\n")), "{name}: {sums}");
            let is_named = subjects.iter().any(|subject| {
                subject["name"] == name.as_str() && subject["digest"]["sha256"] == digest.as_str()
            });
            assert!(is_named || name.ends_with(".intoto.json"), "{name}: {statement:#}");
        }
        assert_eq!(sums.lines().count(), 9, "{sums}");
        let materials = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        assert_eq!(materials[0]["digest"]["gitCommit"], "0123");
        let musl = json!({ "name": "musl-dev_1_arm64.deb", "digest": { "sha256": "89" } });
        assert_eq!(materials[3], musl);
    }

    #[test]
    fn manifest_and_chart_name_the_image_by_the_digest_of_the_layout() {
        let files = files();
        let index: Value = serde_json::from_str(&text(&files, "oci/index.json")).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let image = format!("image: r.example/o/netpol@{digest}\n");
        assert_eq!(text(&files, "netpol-k3s.yaml"), image);
        let chart = unpacked(files.get("netpol-1.2.3.tgz").unwrap());
        let values = chart.get("netpol/values.yaml").unwrap();
        assert_eq!(
            values,
            &format!("image:\n  repository: r.example/o/netpol\n  digest: {digest}\n")
        );
        let about = "name: netpol\nversion: 1.2.3\nappVersion: 1.2.3\n";
        assert_eq!(chart.get("netpol/Chart.yaml").unwrap(), about);
        let names = &index["manifests"][0]["annotations"];
        assert_eq!(names["io.containerd.image.name"], "r.example/o/netpol:1.2.3");
    }

    #[test]
    fn krew_gets_each_processors_archive_by_address_and_digest() {
        let files = files();
        let manifest = text(&files, "netpol.krew.yaml");
        for arch in ["amd64", "arm64"] {
            let name = format!("kubectl-netpol-1.2.3-linux-{arch}.tar.gz");
            let archive = files.get(&name).unwrap();
            let lines = format!(
                "arch: {arch}\n    uri: https://d.example/v1.2.3/{name}\n    sha256: {}\n    bin: kubectl-netpol\n",
                sha256(archive)
            );
            assert!(manifest.contains(&lines), "{manifest}");
            let plugin = unpacked(archive);
            assert_eq!(
                plugin.get("kubectl-netpol").unwrap(),
                &format!("{arch} bin/kubectl-netpol")
            );
            assert!(plugin.contains_key("LICENSE"));
        }
    }
}
