//! Through the observer: what a user sees whom RBAC lets see one namespace, and who is refused.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use expect_test::expect;
use futures::future::{Either, ready};
use futures::{StreamExt as _, stream};
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use netpol_kube::Access;
use netpol_lab::binaries::binary;
use netpol_lab::fake_api::front_proxy;
use netpol_lab::privilege::{Need, met};
use netpol_observer::AUDIENCE;
use netpol_observer::dial::{self, Settings};
use netpol_observer::observer::{self, Config};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Fleet, SYSTEM, timed};

/// The user of the agents.
const AGENT: &str = "system:serviceaccount:netpol-system:netpol-agent";

/// The API of the observer.
const API: &str = "/apis/observe.netpol.dev/v1alpha1";

/// Its port, on an address of this process only.
const API_PORT: u16 = 8443;

/// How long the observer may take to start.
const LIMIT: Duration = Duration::from_mins(1);

/// What an agent answers to a path with its query.
type Answer = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Ports on an address of the loopback interface of this process only.
fn address() -> IpAddr {
    let [_, b, c, d] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, b | 0x40, c, d).into()
}

/// A cluster with these nodes, and the observer. Its agents connect when [`connect`] says so.
fn fleet(nodes: &[&str]) -> Fleet {
    let fleet = Fleet::new(nodes);
    let connector = || Ok(TcpStream::connect((address(), API_PORT))?);
    fleet.api.aggregate(connector).unwrap();
    fleet.api.add_user("ann", "ann", &["developers"]);
    fleet.api.allow(|user, deed| {
        let is_observed = deed.group == "observe.netpol.dev" || deed.resource == "pods";
        user.name == "ann" && is_observed && deed.namespace.as_deref() == Some("shop")
    });
    let of_ann = fleet.api.kubeconfig(&json!({ "token": "ann" }));
    std::fs::write(fleet.folder().join("ann"), of_ann).unwrap();
    let config = Config {
        kubeconfig: Some(fleet.folder().join("kubeconfig")),
        namespace: SYSTEM.to_owned(),
        address: address(),
        api_port: API_PORT,
        agents_port: API_PORT + 1,
        service_account: "netpol-agent".to_owned(),
    };
    fleet.runtime.spawn(async {
        observer::run(config, CancellationToken::new()).await.unwrap();
    });
    fleet
}

/// Connects an agent that has this token.
fn connect(fleet: &Fleet, token: &str, answer: Answer) {
    let file: PathBuf = fleet.folder().join(format!("token-{token}"));
    std::fs::write(&file, token).unwrap();
    let kubeconfig = fleet.folder().join("kubeconfig");
    fleet.runtime.spawn(async move {
        let access = Access::open(Some(&kubeconfig)).await.unwrap();
        let settings = Settings { access, namespace: SYSTEM.to_owned(), token: file };
        let make = move || {
            let answer = Arc::clone(&answer);
            service_fn(move |request: Request<Incoming>| {
                let text = answer(request.uri().path_and_query().map_or("", |path| path.as_str()));
                // What is followed does not end.
                let follows = request.uri().query().is_some_and(|query| query.contains("follow"));
                async move {
                    let first = Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
                    let rest = if follows {
                        Either::Left(stream::pending())
                    } else {
                        Either::Right(stream::empty())
                    };
                    Ok::<_, Infallible>(Response::new(
                        StreamBody::new(stream::once(ready(first)).chain(rest)).boxed_unsync(),
                    ))
                }
            })
        };
        dial::serve(settings, make).await;
    });
}

/// Connects the agent of a node.
fn connect_node(fleet: &Fleet, node: &str, answer: Answer) {
    let extra = json!({ "authentication.kubernetes.io/node-name": [node] });
    fleet.api.add_token(node, AUDIENCE, AGENT, &extra);
    connect(fleet, node, answer);
}

/// Waits until the observer names just these nodes as not connected.
fn wait(fleet: &Fleet, silent: &[&str]) {
    let expected: Vec<_> = silent.iter().copied().map(Value::from).collect();
    let mut latest = String::new();
    for _ in 0..LIMIT.as_millis() / 50 {
        latest = fleet.output("netpol drops -A --through observer -o json");
        let report =
            latest.split_once('\n').map(|(_, text)| text.lines().take_while(|line| *line != "}"));
        let report = report.map(|lines| lines.collect::<Vec<_>>().join("\n") + "}");
        let report: Option<Value> = report.and_then(|text| serde_json::from_str(&text).ok());
        let found = report.and_then(|report| {
            let silent = report["unanswered"].as_array()?.iter();
            Some(silent.map(|node| node["node"].clone()).collect::<Vec<_>>())
        });
        if found.as_ref() == Some(&expected) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not just {silent:?}: {latest}");
}

fn record(pod: Option<&str>, peer: Option<&str>, unix_ms: u64) -> String {
    let name = |name: Option<&str>| {
        let (namespace, name) = name?.split_once('/')?;
        Some(json!({ "namespace": namespace, "name": name }))
    };
    let policies: Vec<_> = pod
        .and_then(|pod| pod.split_once('/'))
        .map(|(namespace, _)| json!({ "namespace": namespace, "name": "p" }))
        .into_iter()
        .collect();
    json!({
        "unix_s": unix_ms / 1000, "unix_ms": unix_ms, "pod": name(pod), "direction": "ingress", "is_dropped": true,
        "reason": "not-allowed", "protocol": "TCP", "source": "10.0.0.1", "source_port": 40000,
        "destination": "10.0.0.2", "destination_port": 80, "peer": name(peer), "policies": policies,
        "rule": null, "tier": null, "n_suppressed": 0,
    })
    .to_string()
}

/// An agent with drops of pods of two namespaces, connections and explanations.
fn full(explanation: &str) -> Answer {
    let drops = [
        record(Some("shop/web"), Some("ops/probe"), 1000),
        record(Some("ops/db"), Some("shop/web"), 2000),
        record(Some("ops/db"), Some("ops/probe"), 3000),
        record(Some("shop/web"), Some("shop/front"), 4000),
    ];
    let drops = drops.join("\n") + "\n";
    let flow = |pod: &str, peer: &str| {
        json!({
            "pod": { "namespace": pod.split('/').next(), "name": "web" }, "origin": "ingress", "protocol": "TCP",
            "local_port": 80, "remote": "10.0.0.1", "remote_port": 40000,
            "peer": { "namespace": peer.split('/').next(), "name": "probe" }, "state": "open", "rule": null,
            "tier": null, "idle_s": 1,
        })
    };
    let flows = json!([flow("shop/web", "ops/probe")]).to_string();
    let pod = json!({ "namespace": "shop", "name": "web" });
    let status =
        json!({ "is_in_force": true, "endpoints": [{ "pod": pod, "protection": "ready" }] });
    let (status, explanation) = (status.to_string(), explanation.to_owned());
    Arc::new(move |path| match path.split('?').next() {
        Some("/drops") => drops.clone(),
        Some("/flows") => flows.clone(),
        Some("/status") => status.clone(),
        Some("/explain") => explanation.clone(),
        other => panic!("{other:?}"),
    })
}

fn of_ann(fleet: &Fleet, command: &str) -> String {
    crate::output_in(fleet.folder(), &format!("{command} --kubeconfig DIR/ann"), "")
}

#[test]
fn a_developer_sees_the_namespace_and_of_others_only_addresses() {
    let fleet = fleet(&["n1", "n2"]);
    fleet.put_pod("shop", "web", "n1");
    connect_node(&fleet, "n1", full("{}"));
    wait(&fleet, &["n2"]);
    expect![[r#"
        exit code 2
        TIME           POD           DIRECTION   PEER                    PORT     REASON        POLICY   COUNT   NOT-SHOWN
        00:00:01.000   shop/web      ingress     10.0.0.1                80/TCP   not-allowed   shop/p   1       0
        00:00:02.000   (not yours)   ingress     shop/web (10.0.0.1)     80/TCP   not-allowed   -        1       0
        00:00:04.000   shop/web      ingress     shop/front (10.0.0.1)   80/TCP   not-allowed   shop/p   1       0
        ! netpol: node n2 does not answer: its agent is not connected to the observer
    "#]]
    .assert_eq(&of_ann(&fleet, "netpol drops -n shop"));
    expect![[r#"
        exit code 0
        ORIGIN    PEER       PORT     CLIENT-PORT   STATE   IDLE   ALLOWED-NOW-BY   NOTE
        ingress   10.0.0.1   80/TCP   40000         open    1s     -                -
    "#]]
    .assert_eq(&of_ann(&fleet, "netpol flows web -n shop"));
    // The administrator sees both ends by their names, by the same way.
    let all = fleet.output("netpol drops -A --through observer");
    assert!(all.contains("ops/db") && all.contains("ops/probe (10.0.0.1)"), "{all}");
}

#[test]
fn many_users_who_watch_take_one_connection_of_an_agent() {
    let fleet = fleet(&["n1"]);
    let n_followed = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (Arc::clone(&n_followed), full("{}"));
    connect_node(
        &fleet,
        "n1",
        Arc::new(move |path| {
            counted.fetch_add(usize::from(path.contains("follow")), Ordering::Relaxed);
            answer(path)
        }),
    );
    wait(&fleet, &[]);
    let watch = || {
        let mut command = Command::new(binary("kubectl-netpol").unwrap());
        command.args(["drops", "-n", "shop", "--follow", "--since", "2000000000s", "--kubeconfig"]);
        command.arg(fleet.folder().join("ann")).stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    // More than an agent has connections.
    let mut users: Vec<_> = (0..20).map(|_| watch()).collect();
    for user in &mut users {
        let lines = BufReader::new(user.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("shop/front")), "the latest drop");
    }
    assert_eq!(n_followed.load(Ordering::Relaxed), 1);
    let listed = of_ann(&fleet, "netpol drops -n shop");
    assert!(listed.starts_with("exit code 0"), "{listed}");
    for mut user in users {
        user.kill().unwrap();
        user.wait().unwrap();
    }
}

#[test]
fn kubectl_shows_them_without_a_plugin() {
    if !met(&[Need::Program("kubectl")]) {
        return;
    }
    let fleet = fleet(&["n1"]);
    connect_node(&fleet, "n1", full("{}"));
    wait(&fleet, &[]);
    let get = |what: &str| {
        let mut kubectl = Command::new("kubectl");
        // kubectl sends no token without TLS.
        kubectl.args(["get", what, "-n", "shop", "--as", "ann", "--kubeconfig"]);
        kubectl.arg(fleet.folder().join("kubeconfig"));
        // kubectl writes into the user's folder otherwise.
        kubectl.arg("--cache-dir").arg(fleet.folder()).env("HOME", fleet.folder());
        let output = kubectl.output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    expect![[r#"
        TIME                   POD        DIRECTION   PEER                    PORT     REASON        POLICY
        1970-01-01T00:00:01Z   shop/web   ingress     10.0.0.1                80/TCP   not-allowed   shop/p
        1970-01-01T00:00:02Z   -          ingress     shop/web (10.0.0.1)     80/TCP   not-allowed   
        1970-01-01T00:00:04Z   shop/web   ingress     shop/front (10.0.0.1)   80/TCP   not-allowed   shop/p
    "#]].assert_eq(&get("drops.observe.netpol.dev"));
    expect![[r#"
        POD        ORIGIN    PEER       PORT     STATE   IDLE   RULE
        shop/web   ingress   10.0.0.1   80/TCP   open    1s     
    "#]]
    .assert_eq(&get("flows.observe.netpol.dev"));
}

#[test]
fn another_namespace_and_all_of_them_are_refused() {
    let fleet = fleet(&["n1"]);
    connect_node(&fleet, "n1", full("{}"));
    wait(&fleet, &[]);
    for command in
        ["netpol drops -n ops", "netpol drops -A", "netpol drops -n ops --follow", "netpol status"]
    {
        let text = of_ann(&fleet, command);
        assert!(text.starts_with("exit code 2\n") && text.contains("ann"), "{command}: {text}");
        assert!(!text.contains("probe"), "{command}: {text}");
    }
}

#[test]
fn only_the_api_server_says_who_asks() {
    let fleet = fleet(&["n1"]);
    connect_node(&fleet, "n1", full("{}"));
    wait(&fleet, &[]);
    let ask =
        |identity, path: &str| fleet.runtime.block_on(fleet.api.ask_past(identity, "admin", path));
    let drops = format!("{API}/drops");
    assert_eq!(ask(None, &drops).unwrap(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask(None, API).unwrap(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask(None, "/readyz").unwrap(), StatusCode::OK, "for the kubelet");
    // Of another authority, with the right name.
    let (_, certificate, key) = front_proxy("front-proxy-client").unwrap();
    assert!(ask(Some((certificate, key)), &drops).is_err());
}

#[test]
fn only_an_agent_speaks_for_a_node_and_only_for_its_own() {
    let fleet = fleet(&["n1", "n2"]);
    let forged: Answer = Arc::new(|_| record(Some("shop/forged"), None, 9000));
    let extra = json!({ "authentication.kubernetes.io/node-name": ["n2"] });
    let other = "system:serviceaccount:shop:netpol-agent";
    fleet.api.add_token("of-another-account", AUDIENCE, other, &extra);
    fleet.api.add_token("for-another-audience", "https://kubernetes.default.svc", AGENT, &extra);
    fleet.api.add_token("of-no-pod", AUDIENCE, AGENT, &json!({}));
    for token in ["of-another-account", "for-another-audience", "of-no-pod", "unknown"] {
        connect(&fleet, token, Arc::clone(&forged));
    }
    connect_node(&fleet, "n1", full("{}"));
    wait(&fleet, &["n2"]);
    let all = fleet.output("netpol drops -A --through observer");
    assert!(all.contains("shop/web") && !all.contains("forged"), "{all}");
    // Before Kubernetes 1.30 a token names the pod only.
    fleet.api.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "agent-x", "namespace": SYSTEM, "uid": "u" },
        "spec": { "nodeName": "n2", "containers": [{ "name": "agent" }] },
    }));
    let extra = json!({
        "authentication.kubernetes.io/pod-name": ["agent-x"], "authentication.kubernetes.io/pod-uid": ["u"],
    });
    fleet.api.add_token("older", AUDIENCE, AGENT, &extra);
    connect(&fleet, "older", full("{}"));
    wait(&fleet, &[]);
}

#[test]
fn an_explanation_says_nothing_of_the_labels_of_others() {
    let fleet = fleet(&["n1"]);
    fleet.put_pod("shop", "web", "n1");
    let rule = |sentence: &str| {
        let policy = json!({ "kind": "NetworkPolicy", "namespace": "shop", "name": "p" });
        json!({ "rule": { "policy": policy, "direction": "ingress", "index": 0 }, "miss": null, "sentence": sentence })
    };
    let end = |namespace: &str, name: &str, direction: &str| {
        json!({
            "pod": { "namespace": namespace, "name": name }, "direction": direction, "verdict": "not-allowed",
            "is_allowed": false, "summary": "denied: no rule matches", "tier": null, "isolating": [],
            "allowing": [], "misses": [rule("the peer has app=probe")],
        })
    };
    let explanation = json!({
        "from": "ops/probe", "to": "shop/web", "port": "80", "protocol": "TCP", "is_allowed": false, "problem": null,
        "service": null, "connection": null, "egress": end("ops", "probe", "egress"),
        "ingress": end("shop", "web", "ingress"), "diagnostics": [],
    });
    connect_node(&fleet, "n1", full(&explanation.to_string()));
    wait(&fleet, &[]);
    let command = "netpol explain --cluster --live --from 10.0.0.1 --to shop/web --port 80";
    let text = of_ann(&fleet, command);
    assert!(text.contains("denied: no rule matches") && !text.contains("app=probe"), "{text}");
    assert!(text.contains("ingress on node n1") && !text.contains("egress on node"), "{text}");
    // The name would say whether there is such a pod.
    let named = of_ann(&fleet, &command.replace("10.0.0.1", "ops/probe"));
    assert!(named.contains("give the peer's address instead"), "{named}");
}

#[test]
fn fifty_agents_answer_at_the_same_time() {
    let nodes: Vec<_> = (0..50).map(|number| format!("n{number:02}")).collect();
    let names: Vec<_> = nodes.iter().map(String::as_str).collect();
    let fleet = fleet(&names);
    for node in &nodes {
        let record = record(Some(&format!("shop/{node}")), None, 1000);
        connect_node(&fleet, node, Arc::new(move |_| record.clone()));
    }
    wait(&fleet, &[]);
    let (text, took) = timed(|| fleet.output("netpol drops -A --through observer"));
    let n_found = nodes.iter().filter(|node| text.contains(node.as_str())).count();
    assert_eq!(n_found, nodes.len(), "{text}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    println!("50 agents answered in {took:?}");
}
