//! Installation and removal in the configuration directories of several networks.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use netpol_proto::SOCKET_PATH;
use tempfile::TempDir;

use super::plan::{Purpose, Step};
use super::*;

mod installers;
mod watch;

/// The list in Flannel's kube-flannel.yml.
const FLANNEL: &str = include_str!("../../../../tests/lab/src/flannel/cni-conf.json");

const FLANNEL_WITH_NETPOL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {"type": "netpol-cni", "capabilities": {"bandwidth": true}},
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

/// The list that k3s writes, partly with tabs.
const K3S: &str = "{\n  \"name\":\"cbr0\",\n  \"cniVersion\":\"1.0.0\",\n  \"plugins\":[\n    {\n      \"type\":\"flannel\",\n\
    \t\"delegate\":{\n        \"hairpinMode\":true,\n        \"forceAddress\":true,\n        \"isDefaultGateway\":true\n      }\n    },\n\
    \x20   {\n      \"type\":\"portmap\",\n      \"capabilities\":{\n        \"portMappings\":true\n      }\n    },\n\
    \x20   {\n      \"type\":\"bandwidth\",\n      \"capabilities\":{\n        \"bandwidth\":true\n      }\n    }\n  ]\n}\n";

/// Several plugins on one line, irregular spacing, an unknown field, no newline at the end.
const CALICO: &str = r#"{"plugins":[{"type":"calico","mtu":0,"ipam":{"type":"calico-ipam"},"policy":{"type":"k8s"}} , {"snat":true,"type":"portmap"},{"type":"bandwidth"},{"type":"tuning"}],"x":"[{\"type\"","cniVersion":"0.3.1","name":"k8s-pod-network"}"#;

const CONF: &str = "{ \"cniVersion\": \"0.4.0\", \"name\": \"pods\",\n  \"type\": \"bridge\", \"bridge\": \"cni0\" }\n";

/// A node's directory.
struct Node {
    _root: TempDir,
    directory: PathBuf,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("net.d");
        fs::create_dir(&directory).unwrap();
        let node = Self { _root: root, directory };
        for (name, text) in files {
            node.write(name, text);
        }
        node
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap()
    }

    fn install(&self) -> Report {
        install(&self.directory, &entry()).unwrap()
    }

    fn uninstall(&self) -> Report {
        uninstall(&self.directory).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn check(&self, files: &[(&str, &str)]) {
        let expected: Vec<_> = files.iter().map(|(name, _)| *name).collect();
        assert_eq!(self.names(), expected);
        for (name, text) in files {
            assert_eq!(self.read(name), *text, "{name}");
        }
    }
}

fn entry() -> Entry {
    Entry { socket: SOCKET_PATH.into() }
}

fn types(list: &str) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_str(list).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

fn texts(report: &Report) -> Vec<String> {
    report.problems.iter().map(full_text).collect()
}

fn full_text(problem: &Error) -> String {
    let mut text = problem.to_string();
    let mut cause = std::error::Error::source(problem);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Installs twice and uninstalls twice: the entry is second, the rest keeps its bytes.
#[track_caller]
fn check_there_and_back(original: &str, expected: &[&str]) {
    let node = Node::new(&[("10-net.conflist", original)]);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("10-net.conflist")));
    assert_eq!(texts(&report), [""; 0]);
    let installed = node.read("10-net.conflist");
    assert_eq!(types(&installed), expected);
    let added = installed.len() - original.len();
    let at = installed.bytes().zip(original.bytes()).take_while(|(new, old)| new == old).count();
    assert_eq!([&installed[..at], &installed[at + added..]].concat(), original);
    assert_eq!(node.install().steps, []);
    let report = node.uninstall();
    assert!(matches!(report.steps[0], Step::Replace { purpose: Purpose::Restore, .. }));
    node.check(&[("10-net.conflist", original)]);
    assert_eq!(node.uninstall().steps, []);
}

#[test]
fn flannels_list_gets_one_line_more_and_is_restored() {
    check_there_and_back(FLANNEL, &["flannel", "netpol-cni", "portmap"]);
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    drop(node.install());
    node.check(&[
        ("10-flannel.conflist", FLANNEL_WITH_NETPOL),
        ("10-flannel.conflist.netpol-backup", FLANNEL),
    ]);
}

#[test]
fn lists_of_other_networks_keep_their_order_and_spacing() {
    check_there_and_back(K3S, &["flannel", "netpol-cni", "portmap", "bandwidth"]);
    check_there_and_back(CALICO, &["calico", "netpol-cni", "portmap", "bandwidth", "tuning"]);
    check_there_and_back(
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#,
        &["ptp", "netpol-cni"],
    );
}

#[test]
fn a_single_plugins_configuration_becomes_a_list_of_ours_that_sorts_before_it() {
    let node = Node::new(&[("10-bridge.conf", CONF)]);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("10-bridge-netpol.conflist")));
    assert_eq!(node.names(), ["10-bridge-netpol.conflist", "10-bridge.conf"]);
    let list: serde_json::Value =
        serde_json::from_str(&node.read("10-bridge-netpol.conflist")).unwrap();
    assert_eq!((&list["name"], &list["cniVersion"]), (&"pods".into(), &"0.4.0".into()));
    assert_eq!(list["plugins"][0], serde_json::from_str::<serde_json::Value>(CONF).unwrap());
    assert_eq!(
        list["plugins"][1],
        serde_json::json!({ "type": "netpol-cni", "capabilities": { "bandwidth": true } })
    );
    assert_eq!(node.install().steps, []);

    node.write("10-bridge.conf", &CONF.replace("cni0", "cni1"));
    assert_eq!(node.install().steps.len(), 1);
    assert!(node.read("10-bridge-netpol.conflist").contains("cni1"));

    node.write("10-bridge.conf", "{");
    let report = node.install();
    assert_eq!((report.steps, report.problems.len()), (vec![], 1));

    node.write("10-bridge.conf", CONF);
    drop(node.uninstall());
    node.check(&[("10-bridge.conf", CONF)]);
}

#[test]
fn a_foreign_file_with_the_name_of_our_list_is_not_overwritten() {
    let node = Node::new(&[("10-bridge-netpol.conflist", "{ mine"), ("10-bridge.conf", CONF)]);
    let report = node.install();
    assert_eq!((report.steps.len(), report.file), (0, None));
    assert!(full_text(&report.problems[0]).contains("10-bridge-netpol.conflist: not a valid"));
    node.check(&[("10-bridge-netpol.conflist", "{ mine"), ("10-bridge.conf", CONF)]);
}

#[test]
fn a_list_of_ours_is_removed_when_its_network_is_replaced_by_another() {
    let node = Node::new(&[("10-bridge.conf", CONF)]);
    drop(node.install());
    fs::remove_file(node.directory.join("10-bridge.conf")).unwrap();
    node.write("20-flannel.conflist", FLANNEL);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("20-flannel.conflist")));
    assert_eq!(node.names(), ["20-flannel.conflist", "20-flannel.conflist.netpol-backup"]);
}

#[test]
fn only_the_first_of_two_lists_is_changed() {
    let node = Node::new(&[("05-calico.conflist", CALICO), ("10-flannel.conflist", FLANNEL)]);
    drop(node.install());
    assert_eq!(types(&node.read("05-calico.conflist"))[1], "netpol-cni");
    assert_eq!(node.read("10-flannel.conflist"), FLANNEL);
    drop(node.uninstall());
    node.check(&[("05-calico.conflist", CALICO), ("10-flannel.conflist", FLANNEL)]);
}

#[test]
fn files_that_runtimes_do_not_read_do_not_count() {
    let node = Node::new(&[("00-old.conflist.bak", CALICO), ("10-flannel.conflist", FLANNEL)]);
    fs::create_dir(node.directory.join("01-folder.conflist")).unwrap();
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("10-flannel.conflist")));
    assert_eq!(node.read("00-old.conflist.bak"), CALICO);
}

#[test]
fn an_empty_directory_is_a_problem_and_stays_empty() {
    let node = Node::new(&[]);
    let report = node.install();
    assert!(texts(&report)[0].contains("no usable CNI configuration"));
    assert_eq!((report.file, node.names().len()), (None, 0));
    assert_eq!(node.uninstall().steps, []);
}

#[test]
fn a_missing_directory_is_named() {
    let missing = Path::new("/not/there");
    let error = install(missing, &entry()).unwrap_err();
    assert!(full_text(&error).starts_with("listing /not/there: "), "{error}");
    let error = uninstall(missing).unwrap_err();
    assert!(full_text(&error).starts_with("listing /not/there: "), "{error}");
    let plugin = std::env::current_exe().unwrap();
    let error = install_binary(&plugin, missing).unwrap_err();
    assert!(full_text(&error).starts_with("listing /not/there: "), "{error}");
    let error = install_binary(missing, &std::env::temp_dir()).unwrap_err();
    assert!(full_text(&error).starts_with("reading /not/there: "), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    // Not even root can create files there.
    let plugin = std::env::current_exe().unwrap();
    let error = install_binary(&plugin, Path::new("/proc/self")).unwrap_err();
    assert!(full_text(&error).starts_with("writing /proc/self/netpol-cni: "), "{error}");
}

#[test]
fn an_invalid_first_file_is_reported_and_the_next_one_protected() {
    let node = Node::new(&[("05-half.conflist", "{\"name\": "), ("10-flannel.conflist", FLANNEL)]);
    let report = node.install();
    assert_eq!(report.file, Some(node.directory.join("10-flannel.conflist")));
    let problems = texts(&report);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("05-half.conflist: not a valid JSON object: EOF"), "{problems:?}");
}

#[track_caller]
fn check_flaw(name: &str, text: &str, expected: &str) {
    let node = Node::new(&[(name, text)]);
    let report = node.install();
    let problems = texts(&report);
    assert_eq!((report.steps.len(), problems.len()), (0, 2), "{problems:?}");
    let path = node.directory.join(name);
    assert!(problems[0].starts_with(&format!("{}: {expected}", path.display())), "{problems:?}");
    node.check(&[(name, text)]);
}

#[test]
fn a_flaw_is_reported_with_its_field() {
    let list =
        |plugins: &str| format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":{plugins}}}"#);
    let check = |plugins: &str, expected| check_flaw("a.conflist", &list(plugins), expected);
    check("[]", "field `plugins` is empty");
    check("{}", "field `plugins` is missing or not a list");
    check("[7]", "field `plugins[0]` is missing or not an object");
    check(r#"[{"type":"a"},{"typ":"b"}]"#, "field `plugins[1].type` is missing or not a string");
    let old = list(r#"[{"type":"a"}]"#).replace("1.0.0", "0.2.0");
    check_flaw("a.conflist", &old, "field `cniVersion` is `0.2.0`");
    check_flaw("a.conflist", "[]", "not a valid JSON object: invalid type: sequence");
    check_flaw("a.conflist", &old.replace("name", "nam"), "field `name` is missing");
    check_flaw("a.conf", FLANNEL, "field `type` is missing");
    check_flaw("a.json", r#"{"type":"a","name":"n"}"#, "field `cniVersion` is ``");
}

#[test]
fn an_existing_entry_stays_unless_its_socket_differs() {
    let by_hand = FLANNEL_WITH_NETPOL.replace(r#"cni", "#, r#"cni", "x": 1, "#);
    let other = FLANNEL_WITH_NETPOL.replace("bandwidth", "ips");
    let main = FLANNEL.replace(r#""type": "flannel""#, r#""type": "netpol-cni""#);
    for text in [FLANNEL_WITH_NETPOL, &by_hand, &other, &main] {
        let node = Node::new(&[("a.conflist", text)]);
        let report = node.install();
        assert_eq!((report.steps, report.file.is_some()), (vec![], true));
        node.check(&[("a.conflist", text)]);
    }
    let node = Node::new(&[("a.conflist", FLANNEL)]);
    drop(node.install());
    let elsewhere = Entry { socket: "/run/else/\"where\".sock".into() };
    let report = install(&node.directory, &elsewhere).unwrap();
    assert!(matches!(report.steps[..], [Step::Replace { purpose: Purpose::Update, .. }]));
    let list: serde_json::Value = serde_json::from_str(&node.read("a.conflist")).unwrap();
    assert_eq!(list["plugins"][1]["agentSocket"], *elsewhere.socket);
    assert_eq!(install(&node.directory, &elsewhere).unwrap().steps, []);
    drop(node.uninstall());
    node.check(&[("a.conflist", FLANNEL)]);
}

#[test]
fn an_entry_of_an_older_version_gets_the_bandwidth_capability() {
    let older = FLANNEL_WITH_NETPOL.replace(r#", "capabilities": {"bandwidth": true}"#, "");
    let node = Node::new(&[("a.conflist", &older)]);
    let report = node.install();
    assert!(matches!(report.steps[..], [Step::Replace { purpose: Purpose::Update, .. }]));
    assert_eq!(node.read("a.conflist"), FLANNEL_WITH_NETPOL);
    assert_eq!(node.install().steps, []);
}

#[test]
fn a_foreign_edit_survives_uninstall() {
    let node = Node::new(&[("a.conflist", FLANNEL)]);
    drop(node.install());
    let edited = node.read("a.conflist").replace("hairpinMode", "hairpinmode");
    node.write("a.conflist", &edited);
    let report = node.uninstall();
    assert!(matches!(report.steps[0], Step::Replace { purpose: Purpose::Remove, .. }));
    node.check(&[("a.conflist", &FLANNEL.replace("hairpinMode", "hairpinmode"))]);
}

#[test]
fn uninstall_keeps_a_main_plugin_and_reports_it() {
    let main = FLANNEL.replace(r#""type": "flannel""#, r#""type": "netpol-cni""#);
    let conf = CONF.replace("bridge\",", "netpol-cni\",");
    let node = Node::new(&[("a.conflist", &main), ("b.conf", &conf), ("c.conflist", "{ 1")]);
    let report = node.uninstall();
    assert_eq!((report.steps, report.problems.len()), (vec![], 2));
    assert!(report.problems.iter().all(|problem| matches!(problem, Error::Main { .. })));
}

#[test]
fn uninstall_removes_the_original_of_a_file_that_is_gone_or_was_rewritten() {
    let node = Node::new(&[("a.conflist", FLANNEL)]);
    drop(node.install());
    node.write("a.conflist", FLANNEL);
    node.write("z.conflist.netpol-backup", CALICO);
    drop(node.uninstall());
    node.check(&[("a.conflist", FLANNEL)]);
}

#[test]
fn mode_owner_and_links_are_kept() {
    let node = Node::new(&[("real", FLANNEL)]);
    let real = node.directory.join("real");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        std::os::unix::fs::chown(&real, Some(1234), Some(4321)).unwrap();
    }
    let before = fs::metadata(&real).unwrap();
    symlink("real", node.directory.join("a.conflist")).unwrap();
    drop(node.install());
    assert!(node.directory.join("a.conflist").is_symlink());
    assert_eq!(node.read("real"), FLANNEL_WITH_NETPOL);
    for name in ["real", "a.conflist.netpol-backup"] {
        let after = fs::metadata(node.directory.join(name)).unwrap();
        let permissions =
            |metadata: &fs::Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
        assert_eq!(permissions(&after), permissions(&before), "{name}");
    }
}

#[test]
fn the_binary_is_copied_once_replaced_when_it_differs_and_removed_if_it_is_ours() {
    let root = tempfile::tempdir().unwrap();
    let (plugin, bin_dir) = (root.path().join("plugin"), root.path().join("bin"));
    let copy = bin_dir.join("netpol-cni");
    fs::create_dir(&bin_dir).unwrap();
    fs::write(&plugin, "one").unwrap();
    // Left over from an installation that was killed.
    fs::write(bin_dir.join(".netpol-cni.netpol-new"), "o").unwrap();
    assert_eq!(install_binary(&plugin, &bin_dir).unwrap(), Binary::Copied(copy.clone()));
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(install_binary(&plugin, &bin_dir).unwrap(), Binary::Unchanged(copy.clone()));
    fs::write(&plugin, "two").unwrap();
    let error = uninstall_binary(&plugin, &bin_dir).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }));
    assert_eq!(install_binary(&plugin, &bin_dir).unwrap(), Binary::Copied(copy.clone()));
    assert_eq!(fs::read_to_string(&copy).unwrap(), "two");
    assert_eq!(uninstall_binary(&plugin, &bin_dir).unwrap(), Binary::Removed(copy.clone()));
    assert_eq!(uninstall_binary(&plugin, &bin_dir).unwrap(), Binary::Unchanged(copy));
    assert_eq!(fs::read_dir(&bin_dir).unwrap().count(), 0);
}

#[test]
fn installs_uninstalls_and_rewrites_at_once_leave_a_whole_file() {
    let node = Node::new(&[("a.conflist", FLANNEL)]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..50).for_each(|_| drop(install(&node.directory, &entry()))));
            scope.spawn(|| (0..50).for_each(|_| drop(uninstall(&node.directory))));
        }
        scope.spawn(|| {
            for _ in 0..50 {
                node.write("new", FLANNEL);
                fs::rename(node.directory.join("new"), node.directory.join("a.conflist")).unwrap();
            }
        });
    });
    drop(node.install());
    assert_eq!(node.read("a.conflist"), FLANNEL_WITH_NETPOL);
    drop(node.uninstall());
    node.check(&[("a.conflist", FLANNEL)]);
}
