//! The examples in `deploy/cni` are valid configurations of the plugin.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "this file is a test, also outside of test functions"
)]

use std::collections::BTreeMap;
use std::path::Path;

use netpol_cni::config::{Config, Mode};
use serde_json::{Value, json};

/// Parses the netpol-cni entry of a configuration list as a runtime would pass it.
fn our_config(conflist: &Path) -> Config {
    let list: Value = serde_json::from_slice(&std::fs::read(conflist).unwrap()).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    let ours = plugins.iter().find(|plugin| plugin["type"] == "netpol-cni").unwrap();
    let mut ours = ours.clone();
    ours["name"] = list["name"].clone();
    ours["cniVersion"] = list["cniVersion"].clone();
    let is_first = plugins[0]["type"] == "netpol-cni";
    if !is_first {
        ours["prevResult"] = json!({ "cniVersion": list["cniVersion"] });
    }
    let config = Config::parse(ours.to_string().as_bytes()).unwrap();
    assert_eq!(is_first, config.mode != Mode::Chained, "{}", conflist.display());
    config
}

#[test]
fn every_example_is_valid_and_shows_its_mode() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cni");
    let mut modes = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "conflist") {
            let mode = match our_config(&path).mode {
                Mode::Chained => "chained",
                Mode::Main(main) if main.subnet_file.is_some() => "main with a subnet file",
                Mode::Main(_) => "main with ipam",
                Mode::Delegate(_) => "delegate",
            };
            modes.insert(path.file_name().unwrap().to_owned(), mode);
        }
    }
    let expected = [
        ("10-flannel-netpol.conflist", "chained"),
        ("10-netpol-delegate.conflist", "delegate"),
        ("10-netpol-ipam.conflist", "main with ipam"),
        ("10-netpol.conflist", "main with a subnet file"),
    ];
    assert_eq!(modes, expected.map(|(name, mode)| (name.into(), mode)).into());
}
