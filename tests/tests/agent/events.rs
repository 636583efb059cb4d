//! How many Events the agents of a cluster write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use netpol_kube::{Access, Report, rank, report};
use netpol_lab::cluster::Cluster;
use netpol_lab::fake_api::FakeApi;
use netpol_lab::settings::patience;
use netpol_policy::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Nodes of the cluster.
const N_NODES: usize = 50;

/// Policies with a fault each.
const N_POLICIES: usize = 20;

/// How long one policy changes its fault every 100 ms.
const CHANGING: Duration = Duration::from_secs(10);

fn fault(policy: &str, message: &str, nodes: &[String], node: &str) -> Report {
    let object = ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("shop", policy) };
    let diagnostic = Diagnostic {
        code: Code::InvalidPort,
        object: object.clone(),
        field: String::new(),
        message: message.to_owned(),
    };
    let rank = rank(&object, node, nodes.iter().map(String::as_str));
    Report { object, uid: Arc::from("u"), diagnostics: vec![diagnostic], rank }
}

/// 50 agents sent 4,200 requests in the first minute, nearly all of them conflicts. Now they send 21.
#[tokio::test]
async fn fifty_agents_write_each_fault_once_and_a_changing_one_seldom() {
    let cluster = Cluster::in_process(FakeApi::start().await.unwrap()).unwrap();
    let access = Access::open(Some(&cluster.kubeconfig())).await.unwrap();
    let api = cluster.as_in_process().unwrap();
    let cancel = CancellationToken::new();
    let nodes: Vec<String> = (0..N_NODES).map(|n| format!("node-{n}")).collect();
    let mut agents = Vec::new();
    for node in &nodes {
        let (sender, receiver) = mpsc::channel(256);
        let reporting = report(access.clone(), Arc::from(node.as_str()), receiver, cancel.clone());
        agents.push((sender, tokio::spawn(reporting)));
    }
    let begin = Instant::now();
    for step in 0..100_u32 {
        sleep_until(begin + step * CHANGING / 100).await;
        for (node, (agent, _)) in nodes.iter().zip(&agents) {
            if step == 0 {
                for n in 0..N_POLICIES {
                    agent.send(fault(&format!("policy-{n}"), "bad", &nodes, node)).await.unwrap();
                }
            }
            let changing = fault("changing", &step.to_string(), &nodes, node);
            agent.send(changing).await.unwrap();
        }
    }
    let wanted = N_POLICIES + 1;
    let are_written = async {
        while api.events().len() < wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20) * patience(), are_written).await.unwrap();
    let n_writes = api.asked().iter().filter(|asked| asked.method == "POST").count();
    println!("{N_NODES} agents: {n_writes} writes in {:?}", begin.elapsed());
    let about: BTreeSet<_> =
        api.events().iter().map(|event| event["regarding"]["name"].to_string()).collect();
    assert_eq!(about.len(), wanted);
    assert!(n_writes <= wanted + 2, "{n_writes} writes for {wanted} faults");
    cancel.cancel();
    for (_, task) in agents {
        task.await.unwrap();
    }
}
