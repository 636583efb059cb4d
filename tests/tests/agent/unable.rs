//! An agent on a node that cannot run the programs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use netpol_agent::agent::{Config, PodTunnels, PublishAddresses, ShortCut, Source, run};
use netpol_agent::discovery::SearchPaths;
use netpol_cni::client;
use netpol_lab::cluster::Cluster;
use netpol_lab::watched::{DEADLINE, filled};
use netpol_policy::store::OwnNodeEgress;
use netpol_proto::Request;

/// The answer to a request on the control socket.
fn ask(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_run_the_programs_says_so_and_the_agent_stays() {
    let cluster = Cluster::in_process(filled().await).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        source: Source::Cluster {
            kubeconfig: Some(cluster.kubeconfig()),
            startup_taint: None,
            publish_addresses: PublishAddresses::Off,
        },
        socket: folder.path().join("cni.sock"),
        node: Some(Arc::from("node-7")),
        search_paths: SearchPaths { results: Vec::new(), namespaces: folder.path().to_owned() },
        datapath: netpol_datapath::Config {
            // No BPF file system; for a normal user the lack of capabilities comes first.
            pin_root: Some(folder.path().join("netpol")),
            mount: netpol_datapath::Mount::Never,
            ..netpol_datapath::Config::default()
        },
        pod_tunnels: PodTunnels::default(),
        tunnel_ports: Vec::new(),
        short_cut: ShortCut::default(),
        own_node_egress: OwnNodeEgress::default(),
        health: None,
        metrics: None,
        observer_token: None,
    };
    let (socket, control) = (config.socket.clone(), config.control_socket());
    let agent = tokio::spawn(run(config));
    let event = tokio::time::timeout(DEADLINE, async {
        loop {
            let events = cluster.events("default").await.unwrap();
            if let Some(event) = events.into_iter().next() {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let event = event.await.unwrap();
    assert_eq!(event["reason"], "NodeUnable");
    assert_eq!(event["regarding"]["kind"], "Node");
    assert_eq!(event["regarding"]["name"], "node-7");
    let said = "this node cannot enforce policies: ";
    assert!(event["note"].as_str().unwrap().starts_with(said), "{event}");

    let answers = tokio::task::spawn_blocking(move || {
        let http = ["/status", "/readyz", "/livez", "/metrics"].map(|path| ask(&control, path));
        (http.map(Result::unwrap), client::ask(&socket, &Request::Status).unwrap_err())
    });
    let ([status, ready, live, metrics], refused) = answers.await.unwrap();
    for answer in [&status, &ready] {
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(said), "{answer}");
    }
    assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
    assert!(metrics.contains("\nnetpol_in_force 0\n"), "{metrics}");
    // So `cni install --watch` adds no entry.
    assert!(refused.to_string().starts_with(said), "{refused}");
    assert!(!agent.is_finished());
    agent.abort();
}
