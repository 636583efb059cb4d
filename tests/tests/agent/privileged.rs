//! A path to the API server on which packets vanish.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use netpol_kube::{Keepalive, Options};
use netpol_lab::cluster::Cluster;
use netpol_lab::node::netns::{self, Netns};
use netpol_lab::privilege::{Need, met};
use netpol_lab::watched::{Watched, filled};
use netpol_policy::model::Kind;
use netpol_policy::source::Health;

/// Drops all packets of TCP as they arrive: no end of a connection learns of it.
const DROP: &str = "table inet silence {
    chain input {
        type filter hook input priority 0;
        meta l4proto tcp drop
    }
}";

fn nft(commands: &str) -> Result<()> {
    let output = Command::new("nft").arg(commands).output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_connection_that_dies_silently_is_noticed_by_the_kernel() -> Result<()> {
    if !met(&[Need::Root, Need::Program("nft")]) {
        return Ok(());
    }
    let name = format!("netpol-silence-{}", std::process::id());
    let netns = Netns::create(&name)?;
    let outcome = netns.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(check_silence())
    });
    netns::delete(&name)?;
    outcome
}

async fn check_silence() -> Result<()> {
    let second = Duration::from_secs(1);
    let keepalive = Keepalive { idle: second, interval: second, timeout: 2 * second };
    let cluster = Cluster::in_process(filled().await)?;
    let options = Options::default();
    let mut watched = Watched::with_keepalive(cluster, "shop".to_owned(), options, keepalive).await;
    watched.until_listed().await;
    nft(DROP)?;
    for kind in Kind::BUILT_IN {
        let is_stale = |w: &Watched| matches!(w.freshness.of(kind), Health::Broken { .. });
        watched.until("the dead connection is noticed", is_stale).await;
    }
    ensure!(watched.errors.len() == 5, "{:?}", watched.errors);
    ensure!(watched.errors.iter().all(|error| error.contains("is dead")), "{:?}", watched.errors);

    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    nft("delete table inet silence")?;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    for kind in Kind::BUILT_IN {
        watched.until("the kind is fresh again", |w| w.heard(kind).is_some()).await;
    }
    ensure!(watched.n_lists.values().sum::<usize>() == 5, "something was listed again");
    Ok(())
}
