//! Two nodes with an agent each, which watch one API server: shop/web is on the first, shop/client on the second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use netpol_lab::fake_api::FakeApi;
use netpol_lab::node::agent::{Config, call};
use netpol_lab::node::second_node::{ADDRESSES, NAME, NewPod};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Lab, PodSpec, SecondNode, labels};
use netpol_proto::{Add, Attachment, PodRef, Request, Response};
use serde_json::{Value, json};

use super::lab_without_agent;

/// The addresses of shop/client.
pub(super) const CLIENT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 2, 20)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x20)),
];

/// The nodes, their agents and the server.
pub(super) struct TwoNodes {
    pub(super) lab: Lab,
    pub(super) api: Arc<FakeApi>,
    pub(super) second: SecondNode,
    pub(super) second_agent: Config,
    pub(super) client: NewPod,
}

impl TwoNodes {
    /// Starts everything; `None` if the machine lacks something. The container of the client has these `ports`.
    pub(super) fn start(name: &str, web: PodSpec, ports: &Value) -> Result<Option<Self>> {
        Self::start_observed(name, web, ports, None)
    }

    /// The same. The agents connect to an observer with these tokens, in the lab's folder.
    pub(super) fn start_observed(
        name: &str,
        web: PodSpec,
        ports: &Value,
        tokens: Option<[&str; 2]>,
    ) -> Result<Option<Self>> {
        let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(None) };
        let mut second = lab.add_second_node("default/far", &labels(&[("app", "far")]))?;
        let api = lab.start_api_server()?;
        api.serve_cluster_policies(&["v1alpha2"]);
        let addresses =
            ADDRESSES.map(|address| json!({ "type": "InternalIP", "address": address }));
        api.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME },
            "status": { "addresses": addresses },
        }));
        let mut of_second = vec!["NETPOL_PUBLISH_ADDRESSES=off".to_owned()];
        if let Some(tokens) = tokens {
            let [first, second] = tokens
                .map(|token| lab.folder().join(format!("token-{token}")).display().to_string());
            for (file, token) in [(&first, tokens[0]), (&second, tokens[1])] {
                std::fs::write(file, token)?;
            }
            lab.set_options(&["--observer-token", &first]);
            of_second.push(format!("NETPOL_OBSERVER_TOKEN={second}"));
        }
        lab.start_agent()?;
        lab.add_pod(web)?;
        let of_second: Vec<_> = of_second.iter().map(String::as_str).collect();
        let second_agent = second.start_agent(&lab, &of_second)?;
        let client = second.add_interface(&lab)?;
        let [v4, v6] = CLIENT;
        client.readdress(&second, None, v4)?;
        client.add_address(&second, v6)?;
        api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "client", "namespace": "shop", "uid": "client", "labels": { "role": "client" } },
            "spec": { "nodeName": NAME, "containers": [{ "name": "c", "ports": ports }] },
            "status": { "phase": "Running", "podIPs": CLIENT.map(|ip| json!({ "ip": ip })) },
        }));
        let add = Add {
            attachment: Attachment {
                container_id: "client".to_owned(),
                container_ifname: "eth0".to_owned(),
            },
            network: "lab".to_owned(),
            netns: client.netns.path().display().to_string(),
            host_ifname: "new0".to_owned(),
            host_ifindex: client.host_ifindex,
            pod: PodRef {
                namespace: "shop".to_owned(),
                name: "client".to_owned(),
                uid: Some("client".to_owned()),
            },
            addresses: CLIENT.to_vec(),
            is_unshaped: true,
        };
        let answer = call(&second_agent.socket(), &Request::Add(add))?;
        ensure!(answer == Response::Ok, "{answer:?}");
        Ok(Some(Self { lab, api, second, second_agent, client }))
    }
}
