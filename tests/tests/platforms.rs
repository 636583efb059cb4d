//! Each overlay on the folders of its platform: the entry goes where the platform's runtime reads it, and goes again.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::binaries;
use netpol_lab::deployment::{at, host_path, items, kustomize, of_kind};
use netpol_lab::privilege::{Need, met};
use serde_json::Value;

/// The list of Flannel's manifest, which kubeadm, RKE2, k0s, kind, minikube and Talos have.
const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#;

/// The list that k3s writes for its own Flannel.
const K3S: &str = r#"{
  "name":"cbr0",
  "cniVersion":"1.0.0",
  "plugins":[
    {"type":"flannel","delegate":{"hairpinMode":true,"forceAddress":true,"isDefaultGateway":true}},
    {"type":"portmap","capabilities":{"portMappings":true}},
    {"type":"bandwidth","capabilities":{"bandwidth":true}}
  ]
}
"#;

/// The list of `MicroK8s`, whose Flannel has its subnet file in the snap.
const MICROK8S: &str = r#"{
  "name": "microk8s-flannel-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "name": "flannel-plugin", "subnetFile": "/var/snap/microk8s/common/run/flannel/subnet.env",
     "dataDir": "/var/snap/microk8s/common/var/lib/cni/flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
"#;

/// A platform's folders, from which its runtime reads, and its overlay.
struct Platform {
    name: &'static str,
    overlay: &'static str,
    conf_dir: &'static str,
    bin_dir: &'static str,
    file: &'static str,
    list: &'static str,
    /// Files that the runtime does not read.
    others: &'static [&'static str],
    results: &'static str,
    namespaces: &'static str,
}

const USUAL: Platform = Platform {
    name: "kubeadm",
    overlay: "kubeadm-flannel",
    conf_dir: "etc/cni/net.d",
    bin_dir: "opt/cni/bin",
    file: "10-flannel.conflist",
    list: FLANNEL,
    others: &[],
    results: "/var/lib/cni/results",
    namespaces: "/run/netns",
};

const PLATFORMS: [Platform; 9] = [
    USUAL,
    Platform { name: "RKE2", ..USUAL },
    Platform { name: "k0s", others: &[".k0s"], ..USUAL },
    Platform { name: "kind", others: &["10-kindnet.conflist.disabled"], ..USUAL },
    Platform { name: "Talos", ..USUAL },
    Platform { name: "minikube, containerd", ..MINIKUBE },
    Platform {
        name: "minikube, cri-dockerd",
        overlay: "minikube",
        results: "/var/lib/cni/cache/results",
        namespaces: "/run/docker/netns",
        ..MINIKUBE
    },
    Platform {
        name: "k3s",
        overlay: "k3s",
        conf_dir: "var/lib/rancher/k3s/agent/etc/cni/net.d",
        bin_dir: "var/lib/rancher/k3s/data/cni",
        list: K3S,
        ..USUAL
    },
    Platform {
        name: "MicroK8s",
        overlay: "microk8s",
        // `current` is a link to the snap's revision.
        conf_dir: "var/snap/microk8s/7180/args/cni-network",
        bin_dir: "var/snap/microk8s/7180/opt/cni/bin",
        file: "flannel.conflist",
        list: MICROK8S,
        others: &["flannel.conflist.bak", "cni.yaml"],
        ..USUAL
    },
];

/// minikube disables the configurations of its image by their names.
const MINIKUBE: Platform = Platform {
    name: "minikube",
    others: &["1-k8s.conflist.mk_disabled", "87-podman-bridge.conflist.mk_disabled"],
    ..USUAL
};

impl Platform {
    /// Makes the folders below `root`. Returns those of configurations and plugins.
    fn lay_out(&self, root: &Path) -> Result<[PathBuf; 2]> {
        let folders = [self.conf_dir, self.bin_dir].map(|folder| root.join(folder));
        for folder in &folders {
            fs::create_dir_all(folder)?;
        }
        let [conf_dir, bin_dir] = &folders;
        fs::write(conf_dir.join(self.file), self.list)?;
        for other in self.others {
            fs::write(conf_dir.join(other), "not a configuration that a runtime reads")?;
        }
        fs::write(bin_dir.join("flannel"), "plugin")?;
        if let Some((snap, _)) = self.conf_dir.split_once("/7180/") {
            std::os::unix::fs::symlink("7180", root.join(snap).join("current"))?;
        }
        Ok(folders)
    }
}

/// Runs `netpol-agent cni VERB` as the manifest's container does, with the host's folders below `root`.
fn cni(daemon_set: &Value, root: &Path, verb: &str) -> Result<String> {
    let folder = |volume| {
        let path = host_path(daemon_set, volume).context("no such volume")?;
        Ok::<_, anyhow::Error>(root.join(path.trim_start_matches('/')))
    };
    let output = Command::new(binaries::binary("netpol-agent")?)
        .args(["cni", verb, "--conf-dir"])
        .arg(folder("cni-conf")?)
        .arg("--bin-dir")
        .arg(folder("cni-bin")?)
        .arg("--plugin")
        .arg(binaries::binary("netpol-cni")?)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn each_overlay_puts_the_entry_where_the_platforms_runtime_reads_it() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    for platform in &PLATFORMS {
        check(platform).with_context(|| platform.name)?;
    }
    Ok(())
}

fn check(platform: &Platform) -> Result<()> {
    let objects = kustomize(&format!("overlays/{}", platform.overlay))?;
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    ensure!(host_path(daemon_set, "cni-results") == Some(platform.results));
    ensure!(host_path(daemon_set, "netns") == Some(platform.namespaces));

    let root = tempfile::tempdir()?;
    let [conf_dir, bin_dir] = platform.lay_out(root.path())?;
    let before = names(&conf_dir)?;
    cni(daemon_set, root.path(), "install")?;
    let list: Value = serde_json::from_str(&fs::read_to_string(conf_dir.join(platform.file))?)?;
    let types: Vec<_> =
        items(at(&list, "/plugins")).filter_map(|plugin| at(plugin, "/type").as_str()).collect();
    ensure!(types.starts_with(&["flannel", "netpol-cni", "portmap"]), "{types:?}");
    ensure!(names(&bin_dir)? == ["flannel", "netpol-cni"]);

    let again = cni(daemon_set, root.path(), "install")?;
    ensure!(again.lines().count() == 1, "{again}");

    let removing = kustomize(&format!("uninstall/{}", platform.overlay))?;
    cni(of_kind(&removing, "DaemonSet")?, root.path(), "uninstall")?;
    ensure!(fs::read_to_string(conf_dir.join(platform.file))? == platform.list);
    ensure!(names(&conf_dir)? == before);
    ensure!(names(&bin_dir)? == ["flannel"]);
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
