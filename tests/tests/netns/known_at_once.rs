//! A pod's address is known on the other nodes before its container starts: its first packets are not lost.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netpol_kube::published::{GUARD, NAMESPACE};
use netpol_lab::fake_api::FakeApi;
use netpol_lab::node::agent::{Config, call};
use netpol_lab::node::second_node::{NAME, NewPod};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, SecondNode, labels};
use netpol_lab::settings::n_pods;
use netpol_policy::model::Kind;
use netpol_proto::{Add, Attachment, PodRef, Request, Response};
use serde_json::{Value, json};

use super::{ALLOW_CLIENTS, PORT, lab_without_agent, web};

/// From ADD's answer until the API reports the pod's address: the kubelet starts the containers, looks at them once a second, and writes
/// the status.
const KUBELET: Duration = Duration::from_millis(1500);

/// From the pod's binding to ADD: the kubelet makes the sandbox.
const SANDBOX: Duration = Duration::from_millis(40);

/// A lost first SYN is sent again after a second.
const FIRST_SYN: Duration = Duration::from_millis(900);

/// Two nodes with an agent each; on the first, clients may connect to web.
struct Nodes {
    lab: Lab,
    api: Arc<FakeApi>,
    second: SecondNode,
    config: Config,
    pod: NewPod,
    /// The address of the latest pod.
    address: Option<IpAddr>,
    n_pods: u8,
}

fn put_guard(api: &FakeApi) -> Result<()> {
    for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        let api_version = "admissionregistration.k8s.io/v1";
        let metadata = json!({ "name": GUARD });
        let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata });
        api.put(object).context("not put")?;
    }
    Ok(())
}

fn nodes(name: &str, variables: &[&str]) -> Result<Option<Nodes>> {
    let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(None) };
    let mut second = lab.add_second_node("default/far", &labels(&[("app", "far")]))?;
    let api = lab.start_api_server()?;
    api.put(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME } }));
    put_guard(&api)?;
    lab.start_agent()?;
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.add_pod(web())?;
    let config = second.start_agent(&lab, variables)?;
    let pod = second.add_interface(&lab)?;
    Ok(Some(Nodes { lab, api, second, config, pod, address: None, n_pods: 0 }))
}

/// A client on the second node, as the API has it when it is bound.
fn client(name: &str, status: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "role": "client" } },
        "spec": { "nodeName": NAME, "containers": [{ "name": "c" }] },
        "status": status,
    })
}

fn add(name: &str, uid: &str, host_ifindex: u32, netns: String, address: IpAddr) -> Add {
    Add {
        attachment: Attachment {
            container_id: uid.to_owned(),
            container_ifname: "eth0".to_owned(),
        },
        network: "lab".to_owned(),
        netns,
        host_ifname: "new0".to_owned(),
        host_ifindex,
        pod: PodRef {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: Some(uid.to_owned()),
        },
        addresses: vec![address],
        is_unshaped: true,
    }
}

fn uid_of(api: &FakeApi, name: &str) -> Result<String> {
    let pod = api.get(Kind::Pod, "shop", name).context("no pod")?;
    Ok(pod.pointer("/metadata/uid").and_then(Value::as_str).context("no uid")?.to_owned())
}

impl Nodes {
    /// Starts one more pod. Returns whether its first SYN to web, sent this long after ADD's answer, arrives.
    #[expect(clippy::disallowed_methods, reason = "a test measures time")]
    fn first_syn(&mut self, after: Duration) -> Result<bool> {
        self.n_pods = self.n_pods % 200 + 1;
        let address = IpAddr::V4(Ipv4Addr::new(10, 244, 2, 20 + self.n_pods));
        let name = format!("client-{}", self.api.version());
        self.api.put(client(&name, &json!({ "phase": "Pending" }))).context("not put")?;
        thread::sleep(SANDBOX);
        self.pod.readdress(&self.second, self.address.replace(address), address)?;
        let uid = uid_of(&self.api, &name)?;
        let netns = self.pod.netns.path().display().to_string();
        let add = add(&name, &uid, self.pod.host_ifindex, netns, address);
        let attachment = add.attachment.clone();
        let answer = call(&self.config.socket(), &Request::Add(add))?;
        ensure!(answer == Response::Ok, "{answer:?}");
        let answered = Instant::now();
        let api = Arc::clone(&self.api);
        thread::spawn(move || {
            let status = json!({ "phase": "Running", "podIPs": [{ "ip": address.to_string() }] });
            thread::sleep(KUBELET.saturating_sub(answered.elapsed()));
            api.put(client(&name, &status));
            thread::sleep(KUBELET);
            api.delete(Kind::Pod, "shop", &name);
        });
        let web = self.lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
        let arrives = self.pod.netns.inside(|| {
            thread::sleep(after.saturating_sub(answered.elapsed()));
            Ok(TcpStream::connect_timeout(&web, FIRST_SYN).is_ok())
        })?;
        let answer = call(&self.config.socket(), &Request::Del(attachment))?;
        ensure!(answer == Response::Ok, "{answer:?}");
        Ok(arrives)
    }

    fn status(config: &Config) -> Result<Value> {
        let status: Value = serde_json::from_str(&config.ask(&["status", "--output", "json"])?)?;
        Ok(status.get("publishing").context("no publishing")?.clone())
    }

    /// Waits until both agents publish and believe.
    fn wait_until_on(&self) -> Result<()> {
        until("addresses published", LIMIT, || {
            for config in [self.lab.agent_config(), &self.config] {
                let status = Self::status(config)?;
                if !status.get("off").is_some_and(Value::is_null) {
                    return Ok(Look::NotYet(status.to_string()));
                }
            }
            Ok(Look::Done(()))
        })
    }
}

/// Row 24 of the performance goals. `NETPOL_PODS=1000` measures it.
#[test]
fn the_first_syn_of_a_new_pod_to_another_node_is_not_lost() -> Result<()> {
    let Some(mut nodes) = nodes("at-once", &[])? else { return Ok(()) };
    nodes.wait_until_on()?;
    let n_pods = n_pods(20);
    for after in [Duration::from_millis(50), Duration::ZERO] {
        let mut n_lost = 0;
        for _ in 0..n_pods {
            n_lost += usize::from(!nodes.first_syn(after)?);
        }
        println!("first SYN {after:?} after the answer to ADD: {n_lost} of {n_pods} lost");
        ensure!(after.is_zero() || n_lost * 1000 <= n_pods.max(1000), "{n_lost} of {n_pods} lost");
    }
    println!("{}", Nodes::status(&nodes.config)?);
    Ok(())
}

#[test]
fn without_publishing_the_first_syn_is_lost_until_the_api_reports_the_address() -> Result<()> {
    let variables = ["NETPOL_PUBLISH_ADDRESSES=off"];
    let Some(mut nodes) = nodes("at-once-off", &variables)? else { return Ok(()) };
    ensure!(!nodes.first_syn(Duration::from_millis(50))?, "known without being published");
    let status = Nodes::status(&nodes.config)?;
    ensure!(status["off"] == "--publish-addresses off", "{status}");
    ensure!(nodes.api.object("ConfigMap", NAMESPACE, NAME).is_none());
    Ok(())
}

/// What it costs the API server when 100 pods start on a node within ten seconds.
#[expect(clippy::disallowed_methods, reason = "a test measures time")]
#[test]
fn a_hundred_pods_in_ten_seconds_share_writes_and_leave_an_empty_object() -> Result<()> {
    const N_PODS: u8 = 100;
    let Some(nodes) = nodes("at-once-cost", &[])? else { return Ok(()) };
    nodes.wait_until_on()?;
    let peer = nodes.pod.netns.name();
    let pair =
        |i| format!("link add w{i} type veth peer name p{i} netns {peer}\nlink set w{i} up\n");
    nodes.second.netns.configure(&(0..N_PODS).map(pair).collect::<Vec<_>>().concat())?;
    let began = Instant::now();
    let mut statuses = Vec::new();
    for i in 0..N_PODS {
        let name = format!("client-{i}");
        nodes.api.put(client(&name, &json!({ "phase": "Pending" }))).context("not put")?;
        let uid = uid_of(&nodes.api, &name)?;
        let address = IpAddr::V4(Ipv4Addr::new(10, 244, 2, 100 + i));
        let host_ifindex = nodes.second.netns.interface_index(&format!("w{i}"))?;
        let netns = nodes.pod.netns.path().display().to_string();
        let mut add = add(&name, &uid, host_ifindex, netns, address);
        add.attachment.container_ifname = format!("p{i}");
        let answer = call(&nodes.config.socket(), &Request::Add(add))?;
        ensure!(answer == Response::Ok, "{answer:?}");
        let api = Arc::clone(&nodes.api);
        statuses.push(thread::spawn(move || {
            thread::sleep(KUBELET);
            let ips = json!([{ "ip": address.to_string() }]);
            api.put(client(&name, &json!({ "phase": "Running", "podIPs": ips })));
        }));
        thread::sleep(
            (Duration::from_millis(100) * u32::from(i + 1)).saturating_sub(began.elapsed()),
        );
    }
    let lasted = began.elapsed();
    for status in statuses {
        status.join().map_err(|_panic| anyhow::anyhow!("no status"))?;
    }
    let object = || nodes.api.object("ConfigMap", NAMESPACE, NAME).context("no object");
    until("an empty object", LIMIT, || {
        let object = object()?;
        let is_empty = object["data"]["addresses"] == "";
        Ok(if is_empty { Look::Done(()) } else { Look::NotYet(object.to_string()) })
    })?;
    let status = Nodes::status(&nodes.config)?;
    let number = |field: &str| status[field].as_u64().context("no number");
    let (n_writes, n_bytes) = (number("n_writes")?, number("n_bytes")?);
    println!("100 pods in {lasted:?}: {n_writes} writes, {} bytes each", n_bytes / n_writes.max(1));
    ensure!(number("n_failures")? == 0, "{status}");
    // One for each pod, and one for the end.
    ensure!(n_writes <= u64::from(N_PODS) + 2, "{status}");
    let believed = Nodes::status(nodes.lab.agent_config())?;
    ensure!(believed["believed"] == json!({}), "{believed}");
    Ok(())
}
