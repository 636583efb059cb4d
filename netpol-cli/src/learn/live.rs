//! Records and objects of a live cluster.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use netpol_terminal::Terminal;
use tokio::time::{Instant, sleep_until, timeout};

use super::Input;
use super::records::{RecordKind, Records};
use crate::cluster::{self, Live};
use crate::live::block_on;
use crate::live::cluster::{AccessArgs, Answers, Cluster, Silent};

/// How often the agents are asked. A connection stays in their tables for longer, also after its end.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time limit for a request to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks all agents for a while, then lists the objects.
///
/// # Errors
/// The cluster cannot be reached.
pub(super) fn record(
    access: &AccessArgs,
    kinds: &[RecordKind],
    duration: Duration,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<Input> {
    block_on(async {
        let cluster = Cluster::open(access).await?;
        let mut records = Records::default();
        let silent = ask_for(&cluster, kinds, duration, &mut records).await?;
        let access = access.open().await?;
        let Live { objects, diagnostics: _, missing } = cluster::list(&access).await?;
        for problem in missing {
            terminal.complain(&problem);
        }
        let api_servers = api_servers(access.client()).await;
        let code = Answers { answers: Vec::new(), silent }.report_silent(0, terminal);
        Ok(Input { records, objects, api_servers, code })
    })?
}

/// Asks the agents again and again. Returns those that did not answer the last time.
async fn ask_for(
    cluster: &Cluster,
    kinds: &[RecordKind],
    duration: Duration,
    records: &mut Records,
) -> anyhow::Result<Vec<Silent>> {
    let end = Instant::now() + duration;
    loop {
        let begin = Instant::now();
        let found = cluster.agents().await?;
        let mut unanswered = Vec::new();
        for kind in kinds {
            let Answers { answers, silent } = match kind {
                RecordKind::Flow => cluster.ask_all(found.clone(), &["flows"]).await,
                RecordKind::Drop => cluster.ask_all_lines(found.clone(), &["drops"]).await,
            };
            for (agent, answer) in answers {
                let added = records.add(answer, *kind);
                added.with_context(|| format!("the answer of node {}", agent.node))?;
            }
            unanswered.extend(silent);
        }
        let next = begin + INTERVAL;
        if next > end {
            unanswered.sort();
            unanswered.dedup();
            return Ok(unanswered);
        }
        sleep_until(next).await;
    }
}

/// The addresses of the API server. A user who may not read them states them.
async fn api_servers(client: Client) -> Vec<SocketAddr> {
    let slices = Api::<EndpointSlice>::namespaced(client, "default");
    let params = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let Ok(Ok(slices)) = timeout(API_TIMEOUT, slices.list(&params)).await else {
        return Vec::new();
    };
    let of_slice = |slice: EndpointSlice| {
        let ports: Vec<u16> = slice
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| u16::try_from(port.port?).ok())
            .collect();
        let addresses =
            slice.endpoints.into_iter().flatten().flat_map(|endpoint| endpoint.addresses);
        let addresses: Vec<IpAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
        let pairs = addresses.into_iter().flat_map(move |address| {
            ports.clone().into_iter().map(move |port| SocketAddr::new(address, port))
        });
        pairs.collect::<Vec<_>>()
    };
    slices.items.into_iter().flat_map(of_slice).collect()
}
