//! `cargo xtask e2e`: the tests of `tests/tests/e2e` against an existing cluster.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its report is its output")]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use netpol_lab::cluster::{LABEL, Run, Target};
use netpol_lab::options::E2e;
use netpol_lab::repository;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the agent's API requests against the current cluster. Existing policies and pods are not touched.
#[derive(Parser)]
#[command(name = "e2e")]
struct Args {
    #[command(flatten)]
    options: E2e,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(args: &Args) -> Result<()> {
    let Args { options: E2e { kubeconfig, dry_run, filters } } = args;
    let target = Target::find(kubeconfig.as_deref()).await?;
    let Target { kubeconfig, context, server } = &target;
    println!("cluster: context {context} of {}, server {server}", kubeconfig.display());
    let run = Run::begin(&target).await.context("asking the server")?;
    println!(
        "server {}\n\
         what is made: for each test some namespaces with pods that no scheduler takes, Services, policies, Secrets and a\n\
         service account; a Node that is none; a ClusterRole and its binding. Names are random, and what is in no namespace\n\
         has the label {LABEL}={}. All of it is removed at the end, also after a failure or Ctrl-C.",
        run.server_version().await?,
        run.name,
    );
    if *dry_run {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let skipped = folder.path().join("skipped");
    let outcome = tests(kubeconfig, &run.name, &skipped, filters).await;
    if let Ok(text) = std::fs::read_to_string(&skipped) {
        println!("skipped or cut short on this cluster:\n{}", text.trim_end());
    }
    println!("removing the test objects");
    let removed = run.end().await.with_context(|| {
        let kinds = "namespaces,nodes,clusterroles,clusterrolebindings";
        format!(
            "objects are left over; kubectl get {kinds} --selector {LABEL}={} lists them",
            run.name
        )
    });
    if removed.is_ok() {
        println!("all test objects are removed");
    }
    outcome.and(removed)
}

/// Runs the tests until they end or a signal arrives. The tests get the terminal's signals too, because they are in the
/// same process group.
async fn tests(kubeconfig: &Path, run: &str, skipped: &Path, filters: &[String]) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut nextest = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    nextest.current_dir(repository::path(""));
    nextest.args(["nextest", "run", "--package", "netpol-tests", "--test", "e2e"]).args(filters);
    nextest.env("NETPOL_E2E_KUBECONFIG", kubeconfig.canonicalize()?).env("NETPOL_E2E_RUN", run);
    nextest.env("NETPOL_E2E_SKIPPED", skipped);
    let mut child = nextest.spawn().context("starting cargo nextest")?;
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = interrupt.recv() => end(&mut child).await?,
        _ = terminate.recv() => end(&mut child).await?,
    };
    ensure!(status.success(), "the tests: {status}");
    Ok(())
}

/// Sends SIGTERM to the tests and waits until they end.
async fn end(child: &mut tokio::process::Child) -> Result<std::process::ExitStatus> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // It may have ended just now.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    }
    Ok(child.wait().await?)
}
