//! Tests: a release with made-up programs, but with the chart, the manifests and the packages of this checkout, before validators.
//!
//! The programs of a real release differ in their content only, so this is what `cargo xtask release --check` compares of the
//! packing, without two builds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use oci_spec::image::Arch;
use serde::Deserialize;

use super::*;
use crate::image::File;

/// What a test needs is there, or the test is skipped; where tests must run, it fails.
fn met(needs: &[(&str, bool)]) -> bool {
    for (name, is_there) in needs {
        if !is_there {
            let must_run = ["CI", "NETPOL_REQUIRE_PRIVILEGES"];
            assert!(must_run.iter().all(|name| std::env::var_os(name).is_none()), "no {name}");
            println!("SKIP: there is no {name}");
            return false;
        }
    }
    true
}

fn tool(name: &str) -> PathBuf {
    Workspace::read().unwrap().target_directory.join("tools").join(name)
}

fn kubectl() -> (&'static str, bool) {
    ("kubectl", shell::find_program("kubectl").is_some())
}

fn release() -> BTreeMap<String, Vec<u8>> {
    let image = |arch: Arch| {
        let paths =
            ["bin/kubectl-netpol", "bin/netpol-agent", "bin/netpol-cni", "licenses/LICENSE"];
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
    let release = Release {
        version: "1.2.3".to_owned(),
        registry: "ghcr.io/o".to_owned(),
        downloads: downloads_of("ghcr.io/o", "1.2.3").unwrap(),
        revision: None,
    };
    let render = |image: &str, digest: &str| manifests::render(image, digest, &release.version);
    files(&release, &[image(Arch::Amd64), image(Arch::ARM64)], &[], render).unwrap()
}

#[test]
fn the_same_programs_make_the_same_release_with_the_manifests_and_packages_of_this_checkout() {
    if met(&[kubectl()]) {
        assert_eq!(release(), release());
    }
}

/// Validates standard input against the schema in a folder. Only the named files are schemas, so nothing is downloaded.
const VALIDATE: &str = "
import json, pathlib, sys, jsonschema
folder = pathlib.Path(sys.argv[1])
files = {file.name: json.loads(file.read_text()) for file in folder.glob('*.json')}
store = {'http://cyclonedx.org/schema/' + name: schema for name, schema in files.items()}
schema = files['bom-1.6.SNAPSHOT.schema.json']
resolver = jsonschema.RefResolver.from_schema(schema, store=store)
validator = jsonschema.Draft7Validator(schema, resolver=resolver, format_checker=jsonschema.FormatChecker())
for error in validator.iter_errors(json.load(sys.stdin)):
    print(list(error.absolute_path), error.message[:300])
";

#[test]
fn the_bill_of_materials_is_valid_by_the_schema_of_cyclonedx() {
    let python = "/usr/bin/python3";
    let has_library = Command::new(python).args(["-c", "import jsonschema"]).status();
    let needs = [
        kubectl(),
        ("schema of CycloneDX in target/tools", tool("cyclonedx").is_dir()),
        ("python3-jsonschema", has_library.is_ok_and(|status| status.success())),
    ];
    if !met(&needs) {
        return;
    }
    let files = release();
    let bill = files.get("netpol-1.2.3.cdx.json").unwrap();
    let file = std::env::temp_dir().join(format!("netpol-bill-{}.json", std::process::id()));
    let validate = |bill: &[u8]| {
        fs::write(&file, bill).unwrap();
        let mut validator = Command::new(python);
        validator.args(["-W", "ignore", "-c", VALIDATE]).arg(tool("cyclonedx"));
        let output = validator.stdin(fs::File::open(&file).unwrap()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(validate(bill), "");
    let wrong = String::from_utf8(bill.clone()).unwrap().replace("\"SHA-256\"", "\"SHA-257\"");
    assert!(validate(wrong.as_bytes()).contains("SHA-257"), "the validator accepts everything");
    fs::remove_file(&file).unwrap();
}

/// A manifest as krew reads it: unknown fields are errors.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    api_version: String,
    kind: String,
    metadata: BTreeMap<String, String>,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    version: String,
    homepage: String,
    short_description: String,
    description: String,
    platforms: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    selector: Selector,
    uri: String,
    sha256: String,
    bin: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

/// What krew checks when it reads a manifest, and its index before it takes one over: API version and kind; a name of letters, digits,
/// `-` and `_`; a version that begins with `v`; a short description of one line, up to 70 characters, and lines of the long one
/// up to 80; for each platform an address, 64 hexadecimal digits, a program, and a selector of `os` and `arch` that no other
/// platform has.
///
/// Source: kubernetes-sigs/krew, `internal/index/validation` and `cmd/validate-krew-manifest`.
#[test]
fn the_krew_manifest_keeps_the_rules_of_krew_and_names_an_archive_with_its_program() {
    if !met(&[kubectl()]) {
        return;
    }
    let files = release();
    let text = std::str::from_utf8(files.get("netpol.krew.yaml").unwrap()).unwrap();
    // The index compares the name of the file with that of the plugin.
    assert_eq!(files.get("plugins/netpol.yaml").map(Vec::as_slice), Some(text.as_bytes()));
    let manifest: Manifest = serde_saphyr::from_str(text).unwrap();
    assert_eq!(manifest.api_version, "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!(manifest.kind, "Plugin");
    assert_eq!(manifest.metadata, [("name".to_owned(), "netpol".to_owned())].into());
    let Spec { version, homepage, short_description, description, platforms } = manifest.spec;
    assert!(version.strip_prefix('v').is_some_and(is_version), "{version}");
    assert_eq!(homepage, "https://github.com/o/netpol");
    assert!(!short_description.contains('\n') && short_description.len() <= 70);
    assert!(description.lines().all(|line| line.len() <= 80), "{description}");
    let selectors: BTreeSet<_> =
        platforms.iter().map(|platform| &platform.selector.match_labels).collect();
    assert!(selectors.len() == platforms.len() && platforms.len() == 2);
    for Target { selector, uri, sha256, bin } in &platforms {
        let keys: Vec<_> = selector.match_labels.keys().map(String::as_str).collect();
        assert_eq!(keys, ["arch", "os"]);
        let (_, name) = uri.rsplit_once('/').unwrap();
        let archive = files.get(name).unwrap_or_else(|| panic!("{uri} is no file of the release"));
        assert_eq!(*sha256, crate::digest::sha256(archive));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice()));
        let mut entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().into_owned(), entry.header().mode().unwrap())
        });
        assert!(entries.any(|(path, mode)| path.as_os_str() == &**bin && mode == 0o755));
    }
}

#[test]
fn helm_installs_the_packed_chart_with_the_image_of_the_release() {
    let helm = tool("helm");
    if !met(&[kubectl(), ("helm in target/tools", helm.exists())]) {
        return;
    }
    let files = release();
    let chart = std::env::temp_dir().join(format!("netpol-chart-{}.tgz", std::process::id()));
    fs::write(&chart, files.get("netpol-1.2.3.tgz").unwrap()).unwrap();
    let helm = |args: &[&str]| {
        let output = Command::new(&helm).args(args).arg(&chart).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    helm(&["lint", "--strict"]);
    let index: serde_json::Value =
        serde_json::from_slice(files.get("oci/index.json").unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let rendered = helm(&["template", "netpol", "--set", "platform=k3s"]);
    let n_images = rendered.matches(&format!("image: ghcr.io/o/netpol@{digest}")).count();
    assert!(n_images > 0 && n_images == rendered.matches(" image: ").count(), "{rendered}");
    assert!(rendered.contains("app.kubernetes.io/version: \"1.2.3\""), "{rendered}");
    fs::remove_file(&chart).unwrap();
}

#[test]
fn the_workflow_has_no_mistakes_that_actionlint_finds() {
    let actionlint = tool("actionlint");
    if !met(&[("actionlint in target/tools", actionlint.exists())]) {
        return;
    }
    let workflow = shell::root().join(".github/workflows/release.yaml");
    let check = |file: &Path| Command::new(&actionlint).arg(file).output().unwrap();
    let output = check(&workflow);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let wrong = std::env::temp_dir().join(format!("netpol-workflow-{}.yaml", std::process::id()));
    let text =
        fs::read_to_string(&workflow).unwrap().replace("${{ github.token }}", "${{ githu }}");
    fs::write(&wrong, text).unwrap();
    assert!(!check(&wrong).status.success(), "actionlint accepts everything");
    fs::remove_file(&wrong).unwrap();
}
