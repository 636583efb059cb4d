//! The containers of a release's manifest, started by containerd beside an API server, from nothing but the folder of the release.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::containerd::{Containerd, Overrides, Running};
use netpol_lab::deployment::{at, containers, objects, of_kind};
use netpol_lab::node::topology::NODE_NAME;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Passing, PodSpec, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::{binaries, cluster};
use serde_json::Value;

use crate::{ALLOW_CLIENTS, Node, PORT};

const NEEDS: [Need; 6] = [
    Need::Root,
    Need::Program("ip"),
    Need::Program("kubectl"),
    Need::Program("containerd"),
    Need::Program("runc"),
    Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
];

/// Starts a container of the DaemonSet, whose objects come from the API server of the lab.
fn start<'a>(
    node: &Node,
    containerd: &'a Containerd,
    daemon_set: &Value,
    (name, id): (&str, &str),
) -> Result<Running<'a>> {
    let container = containers(daemon_set).find(|container| at(container, "/name") == name);
    let container = container.with_context(|| format!("no container {name}"))?;
    let config = node.lab.agent_config();
    let kubeconfig = node.lab.folder().join("kubeconfig-of-a-pod");
    let authority = node.lab.folder().join("ca.crt");
    let socket = config.socket();
    let text = |path: &Path| path.to_str().map(str::to_owned).context("not UTF-8");
    let mut overrides = Overrides {
        mounts: vec![(&kubeconfig, "/kubeconfig"), (&authority, "/ca.crt")],
        variables: vec![
            ("NODE_NAME", NODE_NAME.to_owned()),
            ("KUBECONFIG", "/kubeconfig".to_owned()),
        ],
    };
    let state = text(&config.state)?;
    if name == "cni" {
        // The agent's socket of this lab, at the same path in the container and on the node.
        overrides.mounts.push((&config.state, &state));
        overrides.variables.push(("NETPOL_SOCKET", text(&socket)?));
    }
    let log = node.lab.folder().join(format!("{name}.log"));
    let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let parts = (daemon_set, container);
    containerd.run(id, parts, &node.netns()?.path(), |path| node.folder_of(path), &overrides, log)
}

/// Writes what a pod is given to reach the API server. The image has no certificates of public authorities, so as in a cluster
/// there is one of the server's own.
fn write_access(node: &Node) -> Result<()> {
    let kubeconfig = node.lab.agent_config().kubeconfig.as_deref().context("no API server")?;
    let mut kubeconfig: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
    let cluster = kubeconfig.pointer_mut("/clusters/0/cluster").and_then(Value::as_object_mut);
    let cluster = cluster.context("no cluster")?;
    cluster.insert("certificate-authority".to_owned(), "/ca.crt".into());
    fs::write(node.lab.folder().join("kubeconfig-of-a-pod"), kubeconfig.to_string())?;
    fs::write(node.lab.folder().join("ca.crt"), cluster::idle_authority()?)?;
    Ok(())
}

fn until_in_force(node: &Node, agent: &Running<'_>) -> Result<()> {
    until("policies in force", LIMIT, || {
        let output = agent.exec(&["netpol-agent", "status", "-o", "json"])?;
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_in_force = *at(&status, "/is_in_force") == true;
        let said = || format!("{status} {output:?} {}", node.log("agent"));
        Ok(if is_in_force { Look::Done(()) } else { Look::NotYet(said()) })
    })
}

/// The DaemonSet in a file of the release.
fn daemon_set(release: &Path, file: &str) -> Result<Value> {
    let text = fs::read_to_string(release.join(file)).with_context(|| file.to_owned())?;
    of_kind(&objects(&text)?, "DaemonSet").cloned()
}

/// Imports the image as docs/install.md says. It gets the name and the digest that the manifest asks for.
fn import(containerd: &Containerd, daemon_set: &Value) -> Result<()> {
    let images: BTreeSet<_> =
        containers(daemon_set).filter_map(|container| at(container, "/image").as_str()).collect();
    let [image] = images.iter().copied().collect::<Vec<_>>()[..] else { bail!("{images:?}") };
    let (name, _digest) = image.split_once('@').context("the manifest names no digest")?;
    let names = containerd.import(&binaries::image()?, name)?;
    ensure!(names.iter().any(|found| found == image), "no {image} among {names:?}");
    let tagged = format!("{name}:{}", env!("CARGO_PKG_VERSION"));
    ensure!(names.contains(&tagged), "no {tagged} among {names:?}");
    Ok(())
}

#[test]
fn a_release_protects_a_node_under_containerd_and_its_filter_of_system_calls() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    let mut node = Node::create("runtime")?;
    node.lab.apply_namespace("shop", &labels(&[]))?;
    node.lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    node.lab.start_api_server()?;
    write_access(&node)?;
    let containerd = Containerd::start()?;
    let release = binaries::release()?;
    let daemon_set = &daemon_set(&release, "netpol-kubeadm-flannel.yaml")?;
    import(&containerd, daemon_set)?;

    let agent = start(&node, &containerd, daemon_set, ("agent", "agent"))?;
    let cni = start(&node, &containerd, daemon_set, ("cni", "cni"))?;
    let conflist = node.until_installed()?;
    until_in_force(&node, &agent)?;
    for container in [&agent, &cni] {
        let status = fs::read_to_string(format!("/proc/{}/status", container.pid()?))?;
        ensure!(status.contains("\nSeccomp:\t2\n"), "no filter: {status}");
    }

    let bin_dir = node.bin_dir.clone();
    node.lab.configure(&conflist, &[&bin_dir])?;
    for (name, app, role) in
        [("shop/web", "web", "web"), ("shop/client", "x", "client"), ("shop/visitor", "x", "x")]
    {
        node.lab.add_pod(PodSpec::new(name, &[("app", app), ("role", role)], &[PORT]))?;
    }
    node.expect(Passing::Yes, "shop/client")?;
    node.expect(Passing::No, "shop/visitor")?;
    // The pod that was there before its agent: the new one enters its namespace.
    drop(agent);
    let agent = start(&node, &containerd, daemon_set, ("agent", "agent-2"))?;
    until_in_force(&node, &agent)?;
    node.expect(Passing::No, "shop/visitor")?;

    drop((agent, cni));
    let removing = &self::daemon_set(&release, "netpol-uninstall-kubeadm-flannel.yaml")?;
    let _removal = start(&node, &containerd, removing, ("agent", "removal"))?;
    until("the removal", LIMIT, || {
        let log = node.log("agent");
        let is_done = log.contains("nothing of netpol is left on this node");
        Ok(if is_done { Look::Done(()) } else { Look::NotYet(log) })
    })?;
    node.expect(Passing::Yes, "shop/visitor")
}
