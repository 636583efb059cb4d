//! Tests without networks: versions, errors, and the verbs that only call the agent.

use std::process::Command;

use netpol_agent::cni_server;
use netpol_proto::{Attachment, ErrorCode, Gc, Request, Response};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fake_agent::FakeAgent;
use crate::node::{Answer, VERSIONS, call, merge, netpol_cni};

/// Calls the plugin with `CNI_COMMAND` and these variables.
fn run(verb: &str, environment: &[(&str, &str)], config: &str) -> Answer {
    let mut environment = environment.to_vec();
    environment.push(("CNI_COMMAND", verb));
    call(Command::new(netpol_cni()), &environment, config)
}

const ATTACHMENT: [(&str, &str); 2] = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];

fn config(dir: &tempfile::TempDir, extra: Value) -> Value {
    let socket = dir.path().join("agent.sock");
    let config = json!({
        "cniVersion": "1.1.0", "name": "n", "type": "netpol-cni", "agentSocket": socket,
    });
    merge(config, extra)
}

fn agent(dir: &tempfile::TempDir) -> FakeAgent {
    FakeAgent::willing(&dir.path().join("agent.sock"))
}

#[test]
fn version_lists_the_supported_versions() {
    for version in VERSIONS {
        let answer = run("VERSION", &[], &json!({ "cniVersion": version }).to_string()).ok();
        assert_eq!(answer, json!({ "cniVersion": version, "supportedVersions": VERSIONS }));
    }
    assert_eq!(run("VERSION", &[], "").ok()["cniVersion"], "1.1.0");
}

#[test]
fn a_person_gets_the_version_of_the_program() {
    let output = Command::new(netpol_cni()).arg("--version").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = format!("netpol-cni {}\n", netpol_proto::build::version());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn wrong_input_is_answered_with_the_specifications_codes() {
    let good = r#"{"cniVersion":"1.0.0","name":"n","type":"netpol-cni"}"#;
    let netns = ("CNI_NETNS", "/run/netns/nonexistent-netpol-test");
    let id = ATTACHMENT[0];
    let ifname = ATTACHMENT[1];
    let check = |verb, environment: &[(&str, &str)], config, code: ErrorCode, text| {
        let answer = run(verb, environment, config);
        assert_eq!(answer.error(), u64::from(code.0), "{verb} {config}: {}", answer.json);
        assert!(answer.message().contains(text), "{verb} {config}: {}", answer.json);
    };
    let environment = ErrorCode::INVALID_ENVIRONMENT;
    check("EAT", &[], good, environment, "EAT");
    check("ADD", &[], good, environment, "CNI_CONTAINERID");
    check("ADD", &[id], good, environment, "CNI_IFNAME");
    check("ADD", &[id, ifname], good, environment, "CNI_NETNS");
    check("ADD", &[("CNI_CONTAINERID", "../x"), ifname], good, environment, "../x");
    check("DEL", &[id, ("CNI_IFNAME", "a b")], good, environment, "a b");
    check("ADD", &[id, ifname, netns], good, ErrorCode::UNKNOWN_CONTAINER, "nonexistent-netpol");
    check("ADD", &[], "", ErrorCode::DECODE, "not valid JSON");
    check("ADD", &[], "[]", ErrorCode::DECODE, "not a JSON object");
    let version = ErrorCode::INCOMPATIBLE_VERSION;
    check("ADD", &[], r#"{"cniVersion":"0.2.0"}"#, version, "0.2.0");
    check("CHECK", &[], r#"{"cniVersion":"0.3.1","name":"n"}"#, version, "CHECK");
    check("GC", &[], good, version, "GC");
    check("STATUS", &[], good, version, "STATUS");
    let invalid = ErrorCode::INVALID_CONFIG;
    check("ADD", &[], r#"{"cniVersion":"1.0.0"}"#, invalid, "name");
    check("GC", &[], r#"{"cniVersion":"1.1.0","name":"n"}"#, invalid, "cni.dev/valid-attachments");
}

#[test]
fn the_hosts_own_namespace_is_never_a_container() {
    let config = r#"{"cniVersion":"1.0.0","name":"n","type":"netpol-cni","prevResult":{}}"#;
    let own = [ATTACHMENT[0], ATTACHMENT[1], ("CNI_NETNS", "/proc/self/ns/net")];
    assert_eq!(run("ADD", &own, config).error(), u64::from(ErrorCode::INVALID_NETNS.0));
}

#[test]
fn del_succeeds_without_agent_namespace_and_previous_result_as_often_as_wanted() {
    let dir = tempfile::tempdir().unwrap();
    for version in VERSIONS {
        let config = config(&dir, json!({ "cniVersion": version })).to_string();
        assert_eq!(run("DEL", &ATTACHMENT, &config).ok(), Value::Null);
        assert_eq!(run("DEL", &ATTACHMENT, &config).ok(), Value::Null);
    }
    // A malformed previous result does not matter either.
    let config = config(&dir, json!({ "prevResult": { "ips": "?" } })).to_string();
    assert_eq!(run("DEL", &ATTACHMENT, &config).ok(), Value::Null);
}

#[test]
fn del_calls_the_agent_and_returns_its_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, json!({})).to_string();
    let willing = agent(&dir);
    run("DEL", &ATTACHMENT, &config).ok();
    let attachment = Attachment { container_id: "c1".into(), container_ifname: "eth0".into() };
    assert_eq!(willing.requests(), [Request::Del(attachment)]);
    drop(willing);
    let _refusing = FakeAgent::start(&dir.path().join("agent.sock"), |_| Response::Error {
        code: ErrorCode::ENFORCEMENT,
        message: "map is broken".into(),
        details: "EIO".into(),
    });
    let answer = run("DEL", &ATTACHMENT, &config);
    assert_eq!(answer.error(), u64::from(ErrorCode::ENFORCEMENT.0));
    assert_eq!(
        (&answer.json["msg"], &answer.json["details"]),
        (&json!("map is broken"), &json!("EIO"))
    );
}

#[test]
fn status_is_that_of_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, json!({})).to_string();
    assert_eq!(run("STATUS", &[], &config).error(), u64::from(ErrorCode::NOT_AVAILABLE.0));
    let willing = agent(&dir);
    assert_eq!(run("STATUS", &[], &config).ok(), Value::Null);
    assert_eq!(willing.requests(), [Request::Status]);
    drop(willing);
    let _limited = FakeAgent::start(&dir.path().join("agent.sock"), |_| {
        Response::error(ErrorCode::LIMITED_CONNECTIVITY, "policies are stale")
    });
    assert_eq!(run("STATUS", &[], &config).error(), u64::from(ErrorCode::LIMITED_CONNECTIVITY.0));
}

#[test]
fn status_of_a_main_plugin_needs_the_ipam_plugin_and_flanneld_too() {
    let dir = tempfile::tempdir().unwrap();
    let _willing = agent(&dir);
    let path = [("CNI_PATH", "/nonexistent")];
    let ipam = config(&dir, json!({ "ipam": { "type": "host-local" } })).to_string();
    assert_eq!(run("STATUS", &path, &ipam).error(), u64::from(ErrorCode::PLUGIN.0));
    let flannel = config(&dir, json!({ "subnetFile": "/nonexistent/subnet.env" })).to_string();
    assert_eq!(run("STATUS", &path, &flannel).error(), u64::from(ErrorCode::NOT_AVAILABLE.0));
}

/// The agent's real socket server, with a loop that accepts every request.
#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_and_the_agents_socket_understand_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let listener = cni_server::bind(&dir.path().join("agent.sock")).unwrap();
    let (calls, mut received) = tokio::sync::mpsc::channel(1);
    let cancel = CancellationToken::new();
    let server = tokio::spawn(cni_server::serve(listener, calls, cancel.clone()));
    let config = config(&dir, json!({})).to_string();
    let plugin = tokio::task::spawn_blocking(move || {
        run("STATUS", &[], &config).ok();
        run("DEL", &ATTACHMENT, &config).ok();
        run("DEL", &ATTACHMENT, &config).error()
    });
    let mut verbs = Vec::new();
    for _ in 0..2 {
        let call = received.recv().await.unwrap();
        verbs.push(call.request.verb());
        call.reply.send(Response::Ok).unwrap();
    }
    let refused = received.recv().await.unwrap();
    refused.reply.send(Response::error(ErrorCode::ENFORCEMENT, "no")).unwrap();
    assert_eq!(plugin.await.unwrap(), u64::from(ErrorCode::ENFORCEMENT.0));
    assert_eq!(verbs, ["STATUS", "DEL"]);
    cancel.cancel();
    server.await.unwrap();
}

#[test]
fn gc_sends_the_agent_the_networks_valid_attachments() {
    let dir = tempfile::tempdir().unwrap();
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }, { "containerID": "c2", "ifname": "net1" }]);
    let config = config(&dir, json!({ "cni.dev/valid-attachments": valid })).to_string();
    assert_eq!(run("GC", &[], &config).ok(), Value::Null);
    let willing = agent(&dir);
    assert_eq!(run("GC", &[], &config).ok(), Value::Null);
    let attachment = |id: &str, ifname: &str| Attachment {
        container_id: id.into(),
        container_ifname: ifname.into(),
    };
    let valid_attachments = vec![attachment("c1", "eth0"), attachment("c2", "net1")];
    assert_eq!(willing.requests(), [Request::Gc(Gc { network: "n".into(), valid_attachments })]);
}
