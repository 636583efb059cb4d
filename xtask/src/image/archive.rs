//! An image as one file: a tar of an OCI image layout, as read by `ctr images import`, `podman load`, and `skopeo`.
//!
//! In: the files of the root file system, and metadata. Out: bytes that depend on nothing else: no time, no user, entries
//! sorted by name. Must not: touch the machine.
//!
//! Source: OCI image specification 1.1, "Image Layout".

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder,
    RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use tar::{EntryType, Header};

use crate::digest::sha256;

/// The version of the layout, in its marker file.
const LAYOUT_VERSION: &str = "1.0.0";
/// Annotation with the image's full name, for containerd and podman. Kubernetes writes `netpol:0.1.0` for
/// `docker.io/library/netpol:0.1.0`.
const FULL_NAME: &str = "io.containerd.image.name";
/// Annotation with the image's tag, of the specification.
const TAG: &str = "org.opencontainers.image.ref.name";

/// The parts of an image.
#[derive(Debug)]
pub(super) struct Image {
    /// Its name, without a registry.
    pub(super) name: String,
    /// Its tag.
    pub(super) tag: String,
    /// The processor architecture.
    pub(super) arch: Arch,
    /// Annotations, with the specification's keys.
    pub(super) labels: BTreeMap<String, String>,
    /// The entrypoint.
    pub(super) entrypoint: String,
    /// The search path of programs.
    pub(super) search_path: String,
    /// The files, by their path without a leading slash.
    pub(super) files: BTreeMap<String, File>,
    /// Symbolic links: path without a leading slash, and target.
    pub(super) links: BTreeMap<String, String>,
}

/// A file of the image.
#[derive(Debug)]
pub(super) struct File {
    /// Permissions.
    pub(super) mode: u32,
    /// Content.
    pub(super) content: Vec<u8>,
}

/// The image as a tar.
///
/// # Errors
/// A path is too long for a tar.
pub(super) fn archive(image: &Image) -> Result<Vec<u8>> {
    let Image { name, tag, arch, labels, entrypoint, search_path, files, links } = image;
    let mut blobs = Blobs::default();

    let files = files.iter().map(|(path, file)| {
        (path.as_str(), Entry::File { mode: file.mode, content: &file.content })
    });
    let links = links.iter().map(|(path, target)| (path.as_str(), Entry::Link { target }));
    let layer = tar(files.chain(links))?;
    let layer_digest = digest(&layer);
    // No name and no time in the gzip header.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&layer)?;
    let layer = blobs.add(MediaType::ImageLayerGzip, gzip.finish()?)?;

    let labels: HashMap<String, String> =
        labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let run = ConfigBuilder::default()
        // Root, because the pod limits capabilities; by number, because there is no /etc/passwd.
        .user("0:0")
        .env(vec![format!("PATH={search_path}")])
        .entrypoint(vec![entrypoint.clone()])
        .working_dir("/")
        .labels(labels.clone())
        .build()?;
    let layers = RootFsBuilder::default().typ("layers").diff_ids(vec![layer_digest]).build()?;
    let config = ImageConfigurationBuilder::default()
        .architecture(arch.clone())
        .os(Os::Linux)
        .config(run)
        .rootfs(layers)
        .build()?;
    let config = blobs.add(MediaType::ImageConfig, json(&config)?)?;

    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer])
        .annotations(labels.clone())
        .build()?;
    let mut manifest = blobs.add(MediaType::ImageManifest, json(&manifest)?)?;
    manifest.set_platform(Some(
        PlatformBuilder::default().architecture(arch.clone()).os(Os::Linux).build()?,
    ));
    manifest.set_annotations(Some(HashMap::from([
        (FULL_NAME.to_owned(), format!("docker.io/library/{name}:{tag}")),
        (TAG.to_owned(), tag.clone()),
    ])));
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    let marker = OciLayoutBuilder::default().image_layout_version(LAYOUT_VERSION).build()?;

    let mut layout = blobs.by_path;
    layout.insert("index.json".to_owned(), json(&index)?);
    layout.insert("oci-layout".to_owned(), json(&marker)?);
    tar(layout.iter().map(|(path, content)| (path.as_str(), Entry::File { mode: 0o644, content })))
}

/// The blobs of an image, named by digest.
#[derive(Debug, Default)]
struct Blobs {
    by_path: BTreeMap<String, Vec<u8>>,
}

impl Blobs {
    fn add(&mut self, media_type: MediaType, content: Vec<u8>) -> Result<Descriptor> {
        let hex = sha256(&content);
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .size(u64::try_from(content.len())?)
            .digest(hex.parse::<Sha256Digest>()?)
            .build()?;
        self.by_path.insert(format!("blobs/sha256/{hex}"), content);
        Ok(descriptor)
    }
}

/// An entry of a tar.
#[derive(Clone, Copy, Debug)]
enum Entry<'a> {
    Folder,
    File { mode: u32, content: &'a [u8] },
    Link { target: &'a str },
}

/// Files, links, and their parent folders, owned by root, with time 0, sorted by path.
fn tar<'a>(files: impl Iterator<Item = (&'a str, Entry<'a>)>) -> Result<Vec<u8>> {
    let mut entries: BTreeMap<String, Entry<'_>> = BTreeMap::new();
    for (path, entry) in files {
        for (end, _) in path.match_indices('/') {
            let folder = path.get(..=end).unwrap_or_default();
            entries.insert(folder.to_owned(), Entry::Folder);
        }
        entries.insert(path.to_owned(), entry);
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = Header::new_ustar();
        let (kind, mode, content) = match entry {
            Entry::Folder => (EntryType::Directory, 0o755, [].as_slice()),
            Entry::File { mode, content } => (EntryType::Regular, mode, content),
            Entry::Link { target } => {
                header.set_link_name(target)?;
                (EntryType::Symlink, 0o777, [].as_slice())
            }
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(content.len())?);
        tar.append_data(&mut header, &path, content)
            .with_context(|| format!("adding {path} to the archive"))?;
    }
    Ok(tar.into_inner()?)
}

/// Serialises through a `Value`, which sorts keys, because the order of a `HashMap` is random.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", sha256(content))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use serde_json::Value;

    use super::*;

    fn image() -> Image {
        let file = |content: &str| File { mode: 0o755, content: content.as_bytes().to_vec() };
        Image {
            name: "netpol".to_owned(),
            tag: "1.2.3".to_owned(),
            arch: Arch::ARM64,
            labels: ["a", "b", "c", "d"].map(|key| (key.to_owned(), key.to_owned())).into(),
            entrypoint: "/bin/one".to_owned(),
            search_path: "/bin".to_owned(),
            files: [("bin/two", "2"), ("bin/one", "1")]
                .map(|(path, content)| (path.to_owned(), file(content)))
                .into(),
            links: [("bin/uno".to_owned(), "one".to_owned())].into(),
        }
    }

    /// Path, mode and content of each entry.
    fn entries(tar: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 0);
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), header.mode().unwrap(), content)
        });
        entries.collect()
    }

    fn blob(layout: &[(String, u32, Vec<u8>)], descriptor: &Value) -> Vec<u8> {
        let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = format!("blobs/sha256/{hex}");
        let (_, _, content) = layout.iter().find(|(found, _, _)| *found == path).unwrap();
        assert_eq!(descriptor["size"], content.len());
        assert_eq!(sha256(content), hex);
        content.clone()
    }

    #[test]
    fn everything_is_found_from_the_index() {
        let layout = entries(&archive(&image()).unwrap());
        let file = |name: &str| -> Value {
            let (_, _, content) = layout.iter().find(|(path, _, _)| path == name).unwrap();
            serde_json::from_slice(content).unwrap()
        };
        assert_eq!(file("oci-layout")["imageLayoutVersion"], "1.0.0");
        let descriptor = &file("index.json")["manifests"][0];
        assert_eq!(descriptor["platform"]["architecture"], "arm64");
        assert_eq!(descriptor["annotations"][FULL_NAME], "docker.io/library/netpol:1.2.3");
        let manifest: Value = serde_json::from_slice(&blob(&layout, descriptor)).unwrap();
        assert_eq!(manifest["annotations"]["d"], "d");
        let config: Value = serde_json::from_slice(&blob(&layout, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/bin/one");
        assert_eq!(config["config"]["Labels"]["d"], "d");
        assert_eq!(config["created"], Value::Null);

        let packed = blob(&layout, &manifest["layers"][0]);
        let mut layer = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        let files: Vec<_> = entries(&layer)
            .into_iter()
            .map(|(path, mode, content)| (path, mode, String::from_utf8(content).unwrap()))
            .collect();
        let expected = [
            ("bin/", 0o755, ""),
            ("bin/one", 0o755, "1"),
            ("bin/two", 0o755, "2"),
            ("bin/uno", 0o777, ""),
        ];
        let expected = expected.map(|(path, mode, text)| (path.to_owned(), mode, text.to_owned()));
        assert_eq!(files, expected);
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        assert_eq!(archive(&image()).unwrap(), archive(&image()).unwrap());
    }
}
