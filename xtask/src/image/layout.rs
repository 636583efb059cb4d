//! Images as an OCI image layout, which as one tar is read by `ctr images import`, `podman load`, and `skopeo`.
//!
//! In: the files of the root file systems, and metadata. Out: bytes that depend on nothing else. Must not: touch the machine.
//!
//! Source: OCI image specification 1.1, "Image Layout".

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder,
    RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;

use super::tarball::{Entry, gzip, tar};
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
pub(crate) struct Image {
    /// The processor architecture.
    pub(crate) arch: Arch,
    /// Annotations, with the specification's keys.
    pub(crate) labels: BTreeMap<String, String>,
    /// The entrypoint.
    pub(crate) entrypoint: String,
    /// The search path of programs.
    pub(crate) search_path: String,
    /// The files, by their path without a leading slash.
    pub(crate) files: BTreeMap<String, File>,
    /// Symbolic links: path without a leading slash, and target.
    pub(crate) links: BTreeMap<String, String>,
}

/// A file of the image.
#[derive(Debug)]
pub(crate) struct File {
    /// Permissions.
    pub(crate) mode: u32,
    /// Content.
    pub(crate) content: Vec<u8>,
}

/// An OCI image layout: files by path.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The files.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The digest of what the name stands for: the image, or the index of the images of several processors.
    pub(crate) digest: String,
}

impl Layout {
    /// A layout with one image for each processor, all under one name: `reference` is the full one, with `tag` at its end.
    ///
    /// # Errors
    /// A path is too long for a tar.
    pub(crate) fn new(images: &[Image], reference: &str, tag: &str) -> Result<Self> {
        let mut blobs = Blobs::default();
        let mut manifests: Vec<Descriptor> =
            images.iter().map(|image| blobs.add_image(image)).collect::<Result<_>>()?;
        let mut named = match manifests.pop() {
            Some(only) if manifests.is_empty() => only,
            last => {
                manifests.extend(last);
                let labels = images.first().map(|image| &image.labels).into_iter().flatten();
                let index = ImageIndexBuilder::default()
                    .schema_version(SCHEMA_VERSION)
                    .media_type(MediaType::ImageIndex)
                    .manifests(manifests)
                    .annotations(
                        labels
                            .map(|(key, value)| (key.clone(), value.clone()))
                            .collect::<HashMap<_, _>>(),
                    )
                    .build()?;
                blobs.add(MediaType::ImageIndex, json(&index)?)?
            }
        };
        named.set_annotations(Some(HashMap::from([
            (FULL_NAME.to_owned(), reference.to_owned()),
            (TAG.to_owned(), tag.to_owned()),
        ])));
        let digest = named.digest().to_string();
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![named])
            .build()?;
        let marker = OciLayoutBuilder::default().image_layout_version(LAYOUT_VERSION).build()?;
        let mut files = blobs.by_path;
        files.insert("index.json".to_owned(), json(&index)?);
        files.insert("oci-layout".to_owned(), json(&marker)?);
        Ok(Self { files, digest })
    }

    /// The layout as one file.
    ///
    /// # Errors
    /// A path is too long for a tar.
    pub(crate) fn archive(&self) -> Result<Vec<u8>> {
        let file = |content| Entry::File { mode: 0o644, content };
        tar(self.files.iter().map(|(path, content)| (path.as_str(), file(content))))
    }
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

    /// Adds layer, configuration and manifest of an image. Returns the manifest's descriptor.
    fn add_image(&mut self, image: &Image) -> Result<Descriptor> {
        let Image { arch, labels, entrypoint, search_path, files, links } = image;
        let files = files.iter().map(|(path, file)| {
            (path.as_str(), Entry::File { mode: file.mode, content: &file.content })
        });
        let links = links.iter().map(|(path, target)| (path.as_str(), Entry::Link { target }));
        let layer = tar(files.chain(links))?;
        let layer_digest = digest(&layer);
        let layer = self.add(MediaType::ImageLayerGzip, gzip(&layer)?)?;

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
        let config = self.add(MediaType::ImageConfig, json(&config)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(vec![layer])
            .annotations(labels)
            .build()?;
        let mut manifest = self.add(MediaType::ImageManifest, json(&manifest)?)?;
        manifest.set_platform(Some(
            PlatformBuilder::default().architecture(arch.clone()).os(Os::Linux).build()?,
        ));
        Ok(manifest)
    }
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

    const NAME: &str = "docker.io/library/netpol:1.2.3";

    fn image() -> Image {
        let file = |content: &str| File { mode: 0o755, content: content.as_bytes().to_vec() };
        Image {
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
        let layout = Layout::new(&[image()], NAME, "1.2.3").unwrap();
        let layout = entries(&layout.archive().unwrap());
        let file = |name: &str| -> Value {
            let (_, _, content) = layout.iter().find(|(path, _, _)| path == name).unwrap();
            serde_json::from_slice(content).unwrap()
        };
        assert_eq!(file("oci-layout")["imageLayoutVersion"], "1.0.0");
        let descriptor = &file("index.json")["manifests"][0];
        assert_eq!(descriptor["platform"]["architecture"], "arm64");
        assert_eq!(descriptor["annotations"][FULL_NAME], NAME);
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
        let archive = || Layout::new(&[image()], NAME, "1.2.3").unwrap().archive().unwrap();
        assert_eq!(archive(), archive());
    }

    #[test]
    fn images_of_several_processors_are_behind_one_name_and_one_digest() {
        let images = [image(), Image { arch: Arch::Amd64, ..image() }];
        let layout = Layout::new(&images, NAME, "1.2.3").unwrap();
        let files = entries(&layout.archive().unwrap());
        let (_, _, index) = files.iter().find(|(path, _, _)| path == "index.json").unwrap();
        let index: Value = serde_json::from_slice(index).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(index["manifests"][0]["digest"], layout.digest.as_str());
        let inner: Value = serde_json::from_slice(&blob(&files, &index["manifests"][0])).unwrap();
        let processors = inner["manifests"].as_array().unwrap().iter().map(|manifest| {
            blob(&files, manifest);
            manifest["platform"]["architecture"].as_str().unwrap()
        });
        assert_eq!(processors.collect::<Vec<_>>(), ["arm64", "amd64"]);
        assert_eq!(inner["annotations"]["d"], "d");
    }
}
