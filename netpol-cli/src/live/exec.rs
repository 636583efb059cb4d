//! Runs `netpol-agent` in the pod of an agent, as `kubectl exec` does: over a WebSocket of the API server.
//!
//! In: a pod, arguments. Out: what the program writes. Must not: run anything else there.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use netpol_kube::Error;
use netpol_terminal::{DENIED, FAILED};
use serde_json::Value;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cluster::Cluster;

/// The container and the program.
const CONTAINER: &str = "agent";
const PROGRAM: &str = "netpol-agent";

/// Most bytes of an answer, so that a broken node cannot fill the memory of this machine.
const MAX_ANSWER: u64 = 256 << 20;

/// Most bytes of a line or of an error message.
const MAX_LINE: u64 = 1 << 20;

/// Time between two bytes to a followed program, a third of the silence after which it ends.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Bytes on their way from the API server.
const BUFFER: usize = 1 << 16;

/// Runs `netpol-agent ARGS -o json` in a pod and returns what it writes.
///
/// # Errors
/// The API server refuses, the connection breaks, or the program fails: its message.
pub(super) async fn run(cluster: &Cluster, pod: &str, args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut process = start(cluster, pod, args, Stdin::None).await?;
    let status = process.take_status().context("no status")?;
    let stdout = limited(process.stdout(), MAX_ANSWER + 1);
    let stderr = limited(process.stderr(), MAX_LINE);
    let read = async { futures::join!(stdout, stderr) };
    let mut status = pin!(status);
    let mut read = pin!(read);
    let ((stdout, stderr), status) = tokio::select! {
        read = &mut read => (read, status.await),
        // Without a status the connection is broken, and nothing more comes.
        status = &mut status => match status {
            None => bail!("the connection broke off"),
            Some(status) => (read.await, Some(status)),
        },
    };
    let status = status.context("the connection broke off")?;
    ensure!(stdout.len() as u64 <= MAX_ANSWER, "its answer exceeds {MAX_ANSWER} bytes");
    match exit_code(&status)? {
        0 | DENIED => Ok(stdout),
        code => Err(failure(code, &stderr)),
    }
}

/// Runs `netpol-agent ARGS -o json` in a pod and passes on each line of JSON until the program ends or the receiver is dropped. The
/// program must read its standard input, where a byte every [`HEARTBEAT`] says that somebody still listens.
///
/// # Errors
/// Those of [`run`].
pub(super) async fn follow(
    cluster: &Cluster,
    pod: &str,
    args: &[&str],
    lines: &mpsc::Sender<Value>,
) -> anyhow::Result<()> {
    let begun = timeout(cluster.node_timeout, start(cluster, pod, args, Stdin::Open)).await;
    let Ok(begun) = begun else { bail!("no answer within {:?}", cluster.node_timeout) };
    let mut process = begun?;
    let mut status = pin!(process.take_status().context("no status")?);
    let mut stdin = process.stdin().context("no input")?;
    let mut stdout = BufReader::with_capacity(BUFFER, process.stdout().context("no output")?);
    let mut stderr = pin!(limited(process.stderr(), MAX_LINE));
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let (mut line, mut said, mut ended) = (Vec::new(), None, None);
    loop {
        tokio::select! {
            read = stdout.read_until(b'\n', &mut line) => {
                if read? == 0 {
                    break;
                }
                if line.ends_with(b"\n") {
                    // A line that is not JSON has no meaning.
                    if let Ok(value) = serde_json::from_slice(&line)
                        && lines.send(value).await.is_err()
                    {
                        return Ok(());
                    }
                    line.clear();
                }
                ensure!(line.len() as u64 <= MAX_LINE, "a line exceeds {MAX_LINE} bytes");
            }
            () = lines.closed() => return Ok(()),
            _ = heartbeat.tick() => stdin.write_all(b"\n").await?,
            text = &mut stderr, if said.is_none() => said = Some(text),
            status = &mut status, if ended.is_none() => match status {
                None => bail!("the connection broke off"),
                Some(status) => ended = Some(status),
            },
        }
    }
    let status = match ended {
        Some(status) => status,
        None => status.await.context("the connection broke off")?,
    };
    match exit_code(&status)? {
        0 => Ok(()),
        code => Err(failure(code, &said.unwrap_or_default())),
    }
}

/// Whether a program gets a standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stdin {
    None,
    Open,
}

async fn start(
    cluster: &Cluster,
    pod: &str,
    args: &[&str],
    stdin: Stdin,
) -> anyhow::Result<AttachedProcess> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.agent_namespace);
    let params = AttachParams::default()
        .container(CONTAINER)
        .stdin(stdin == Stdin::Open)
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER)
        .max_stderr_buf_size(BUFFER);
    let command = [PROGRAM].iter().chain(args).chain(&["-o", "json"]).copied();
    pods.exec(pod, command, &params).await.map_err(|error| {
        let error = Error::from(error);
        match error.status() {
            Some(403) => anyhow!("{error}: commands that ask nodes need the verbs get and create of pods/exec in namespace {}", cluster.agent_namespace),
            Some(_) | None => anyhow!("{error}"),
        }
    })
}

async fn limited(stream: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What arrives before a failure is used; the status says how the program ended.
        drop(stream.take(limit).read_to_end(&mut bytes).await);
    }
    bytes
}

/// The exit code of the program.
///
/// # Errors
/// It could not be started.
fn exit_code(status: &Status) -> anyhow::Result<u8> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = codes.next().and_then(|cause| cause.message.as_deref()?.parse::<i32>().ok());
    match code {
        Some(code) => Ok(u8::try_from(code).unwrap_or(FAILED)),
        None => {
            bail!("{}", status.message.as_deref().unwrap_or("the program could not be started"))
        }
    }
}

fn failure(code: u8, stderr: &[u8]) -> anyhow::Error {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim().trim_start_matches("netpol-agent: ");
    if text.is_empty() {
        anyhow!("netpol-agent ended with exit code {code}")
    } else {
        anyhow!("{text}")
    }
}
