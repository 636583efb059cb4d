//! Other programs that write the same directory, and other forms of its files.

use serde_json::{Value, json};

use super::*;

/// A network whose plugins are files in a folder of its name, in the form of libcni 1.3.
const FOLDER_LIST: &str = r#"{"cniVersion":"1.0.0","name":"podnet"}"#;
const FOLDER_BRIDGE: &str =
    r#"{"type":"bridge","bridge":"cni0","ipam":{"type":"host-local","subnet":"10.1.0.0/24"}}"#;
const OTHER_LIST: &str = r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"ptp"}]}"#;

fn ending(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

impl Node {
    fn with_folder(files: &[(&str, &str)], folder: &[(&str, &str)]) -> Self {
        let node = Self::new(files);
        fs::create_dir(node.directory.join("podnet")).unwrap();
        for (name, text) in folder {
            node.write(&format!("podnet/{name}"), text);
        }
        node
    }

    /// The types of the plugins that libcni 1.3 runs, in their order, with the first file in which it finds a network.
    fn chain(&self) -> Vec<String> {
        let lists = self.names().into_iter().filter(|name| name.ends_with(".conflist"));
        let list: Value = serde_json::from_str(&self.read(&lists.min().unwrap())).unwrap();
        let mut plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        let folder = list["name"].as_str().unwrap();
        if list["loadOnlyInlinedPlugins"] != true
            && let Ok(entries) = fs::read_dir(self.directory.join(folder))
        {
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for name in names.iter().filter_map(|name| name.to_str()) {
                if ending(name) == "conf" {
                    let text = self.read(&format!("{folder}/{name}"));
                    plugins.push(serde_json::from_str(&text).unwrap());
                }
            }
        }
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_network_with_a_folder_of_plugins_gets_a_file_behind_the_first_one() {
    let files = [("10-net.conflist", FOLDER_LIST), ("20-other.conflist", OTHER_LIST)];
    let plugins = [("10-bridge.conf", FOLDER_BRIDGE), ("20-tuning.conf", r#"{"type":"tuning"}"#)];
    let node = Node::with_folder(&files, &plugins);
    let report = node.install();
    assert_eq!(texts(&report), [""; 0]);
    assert_eq!(report.file, Some(node.directory.join("podnet/10-bridge.netpol.conf")));
    assert_eq!(node.chain(), ["bridge", "netpol-cni", "tuning"]);
    assert_eq!(node.install().steps, []);
    let elsewhere = Entry { socket: "/run/else.sock".into() };
    assert_eq!(install(&node.directory, &elsewhere).unwrap().steps.len(), 1);
    assert_eq!(node.chain(), ["bridge", "netpol-cni", "tuning"]);

    // The network gets another main plugin, before which ours must not run.
    fs::remove_file(node.directory.join("podnet/10-bridge.conf")).unwrap();
    node.write("podnet/15-ptp.conf", r#"{"type":"ptp"}"#);
    assert_eq!(node.install().steps.len(), 2);
    assert_eq!(node.chain(), ["ptp", "netpol-cni", "tuning"]);

    drop(node.uninstall());
    assert_eq!(node.chain(), ["ptp", "tuning"]);
    assert_eq!(node.uninstall().steps, []);
    assert_eq!(node.names(), ["10-net.conflist", "20-other.conflist", "podnet"]);
    assert_eq!(node.read("10-net.conflist"), FOLDER_LIST);
    assert_eq!(node.read("20-other.conflist"), OTHER_LIST);
}

#[test]
fn a_list_with_plugins_of_its_own_gets_the_entry_once_beside_its_folder() {
    let list = OTHER_LIST.replace("other", "podnet");
    let inline = Node::with_folder(&[("a.conflist", &list)], &[("b.conf", FOLDER_BRIDGE)]);
    drop(inline.install());
    assert_eq!(inline.chain(), ["ptp", "netpol-cni", "bridge"]);
    let ours = r#"{"type":"netpol-cni"}"#;
    let by_hand = Node::with_folder(&[("a.conflist", &list)], &[("b.conf", ours)]);
    assert_eq!(by_hand.install().steps, []);
    assert_eq!(by_hand.chain(), ["ptp", "netpol-cni"]);
    assert!(texts(&by_hand.uninstall())[0].contains("podnet/b.conf: names netpol-cni"));
    let only = list.replace("{\"cni", "{\"loadOnlyInlinedPlugins\":true,\"cni");
    let ignored = Node::with_folder(&[("a.conflist", &only)], &[("b.conf", ours)]);
    drop(ignored.install());
    assert_eq!(ignored.chain(), ["ptp", "netpol-cni"]);
}

#[test]
fn an_empty_folder_is_a_flaw_and_the_next_network_gets_the_entry() {
    let files = [("10-net.conflist", FOLDER_LIST), ("20-other.conflist", OTHER_LIST)];
    let node = Node::with_folder(&files, &[]);
    let report = node.install();
    assert!(texts(&report)[0].ends_with("no plugin in the folder podnet"), "{report:?}");
    assert_eq!(report.file, Some(node.directory.join("20-other.conflist")));
}

/// The file that Multus' thin entrypoint and its daemon take as the default network.
fn multus_master(node: &Node) -> String {
    let is_configuration = |name: &String| matches!(ending(name), "conf" | "conflist");
    let mut names = node.names().into_iter().filter(is_configuration);
    names.find(|name| !name.starts_with("00-multus.conf")).unwrap()
}

/// Writes the configuration of Multus as its thin entrypoint does each second: with a copy of the default network.
fn run_thin_multus(node: &Node) {
    let master: Value = serde_json::from_str(&node.read(&multus_master(node))).unwrap();
    let conf = json!({
        "cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus", "delegates": [master],
    });
    node.write("00-multus.conf", &conf.to_string());
}

/// As the daemon of thick Multus does: with the path of the default network.
fn run_thick_multus(node: &Node) {
    let master = format!("/host/etc/cni/net.d/{}", multus_master(node));
    let conf = json!({
        "cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim", "clusterNetwork": master,
    });
    node.write("00-multus.conf", &conf.to_string());
}

#[track_caller]
fn check_multus(run: impl Fn(&Node), files: &[(&str, &str)], expected: &[&str]) {
    let node = Node::new(files);
    for round in 0..5 {
        run(&node);
        let report = node.install();
        let file = report.file.clone().unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!((name, multus_master(&node).as_str()), (expected[0], expected[0]), "{round}");
        if round > 0 {
            assert_eq!((texts(&report), report.steps), (vec![], vec![]), "round {round}");
        }
    }
    assert_eq!(types(&node.read(expected[0])), &expected[1..]);
    // Multus was not nested in itself, and nothing but its own file names it.
    assert_eq!(node.read("00-multus.conf").matches("multus-cni-network").count(), 1);
    drop(node.uninstall());
    run(&node);
    let mut left: Vec<_> = files.iter().map(|(name, _)| *name).collect();
    left.insert(0, "00-multus.conf");
    assert_eq!(node.names(), left);
    assert!(!node.read("00-multus.conf").contains("netpol-cni"));
    for (name, text) in files {
        assert_eq!(node.read(name), *text);
    }
}

#[test]
fn multus_takes_the_file_with_the_entry_as_its_default_network() {
    for run in [run_thin_multus, run_thick_multus] {
        let flannel = [("10-flannel.conflist", FLANNEL)];
        check_multus(run, &flannel, &["10-flannel.conflist", "flannel", "netpol-cni", "portmap"]);
        let conf = [("10-bridge.conf", CONF)];
        check_multus(run, &conf, &["10-bridge-netpol.conflist", "bridge", "netpol-cni"]);
    }
}

#[test]
fn a_list_around_multus_that_an_older_version_made_is_removed() {
    let multus = r#"{"cniVersion":"0.3.1","name":"m","type":"multus","delegates":[]}"#;
    let made = format!(
        r#"{{"cniVersion":"0.3.1","name":"m","netpol/made-from":"00-multus.conf","plugins":[{multus},{{"type":"netpol-cni"}}]}}"#
    );
    let node = Node::new(&[
        ("00-multus-netpol.conflist", &made),
        ("00-multus.conf", multus),
        ("10-flannel.conflist", FLANNEL),
    ]);
    let report = node.install();
    assert!(!node.names().contains(&"00-multus-netpol.conflist".to_owned()));
    assert_eq!(node.read("10-flannel.conflist"), FLANNEL_WITH_NETPOL);
    // Nobody has told Multus yet.
    assert!(texts(&report)[0].contains("00-multus.conf: Multus does not run netpol-cni"));
}

#[test]
fn delegates_that_name_netpol_by_hand_are_enough() {
    let multus = json!({
        "cniVersion": "0.3.1", "name": "m", "type": "multus",
        "delegates": [{ "name": "cbr0", "plugins": [{ "type": "flannel" }, { "type": "netpol-cni" }] }],
    });
    let node = Node::new(&[("00-multus.conf", &multus.to_string())]);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("00-multus.conf")));
    assert_eq!((texts(&report), report.steps), (vec![], vec![]));
}

#[test]
fn the_first_of_a_conf_and_a_conflist_is_the_one_that_the_runtime_uses() {
    let node = Node::new(&[("10-a.conf", CONF), ("10-a.conflist", FLANNEL)]);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("10-a-netpol.conflist")));
    assert_eq!(node.read("10-a.conflist"), FLANNEL);
    let node = Node::new(&[("10-a.conflist", FLANNEL), ("10-b.conf", CONF)]);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("10-a.conflist")));
    assert_eq!(report.steps.len(), 2);
}

#[test]
fn a_link_to_a_file_of_another_directory_stays_a_link() {
    let node = Node::new(&[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("flannel.json");
    fs::write(&target, FLANNEL).unwrap();
    symlink(&target, node.directory.join("10-flannel.conflist")).unwrap();
    drop(node.install());
    assert_eq!(fs::read_to_string(&target).unwrap(), FLANNEL_WITH_NETPOL);
    assert_eq!(node.install().steps, []);
    drop(node.uninstall());
    assert!(node.directory.join("10-flannel.conflist").is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), FLANNEL);
    assert_eq!(node.names(), ["10-flannel.conflist"]);
}
