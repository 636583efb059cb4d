//! Rows 26, 27 and 32: `netpol` on large input, from the start of the process to its end, and in a browser.
//!
//! In: generated files. Out: seconds, and the peak of resident memory. Must not: check verdicts, which the tests do.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::binaries;

use crate::gates::Unit;
use crate::scale::{ClusterModel, Shape, json};
use crate::{Estimate, Run, clock, view};

/// Interval between two readings of a process's memory.
const PACE: Duration = Duration::from_millis(2);

/// Blocks of one policy: three values each, of at most 300,000 in an object.
const MAX_BLOCKS: usize = 84_000;

/// An input with its command.
struct Contender {
    name: &'static str,
    /// The row of the time, and what its note says.
    row: &'static str,
    /// The row of the memory.
    memory_row: Option<&'static str>,
    args: Vec<String>,
    /// Peaks of resident memory, megabytes.
    peaks: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// A command fails, or a file cannot be written.
pub fn measure(run: &mut Run) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("netpol-bench-offline-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let outcome = measure_in(run, &folder);
    fs::remove_dir_all(&folder)?;
    outcome
}

fn measure_in(run: &mut Run, folder: &Path) -> Result<()> {
    let mut contenders = Vec::new();
    let mut add = |name: &'static str, rows: [Option<&'static str>; 2], verb: &str, text: &str| {
        let file = folder.join(format!("{}.yaml", contenders.len()));
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let words = verb.split(' ').map(str::to_owned);
        let args = words.chain(["-f".to_owned(), file.display().to_string()]).collect();
        let [row, memory_row] = rows;
        let row = row.context("a contender without a row")?;
        contenders.push(Contender { name, row, memory_row, args, peaks: Vec::new() });
        anyhow::Ok(())
    };
    let [n_pods, n_policies] = [run.size(2_000, 40), run.size(500, 10)];
    let cluster = cluster(n_pods, n_policies);
    add("matrix of many pods", [Some("26a"), Some("26b")], "simulate -o csv", &cluster)?;
    let ports = ports(run.size(600, 10), run.size(150, 5));
    add("matrix of many ports", [Some("26c"), Some("26d")], "simulate -o csv", &ports)?;
    let policies = policies(run.size(4_000, 40), run.size(500, 10));
    add("lint of many policies", [Some("27a"), None], "lint -o short", &policies)?;
    let labels = labels(run.size(40_000, 400));
    add("lint of many labels", [Some("27b"), None], "lint -o short", &labels)?;
    let blocks = blocks(run.size(1_000_000, 1_000));
    add("lint of many blocks", [Some("27c"), None], "lint -o short", &blocks)?;

    let series = run.interleaved(
        "netpol on large input",
        Unit::Seconds,
        &mut contenders,
        |contender| contender.name.to_owned(),
        |contender, _round| {
            let (seconds, peak) = once(&contender.args)?;
            contender.peaks.push(peak);
            Ok(seconds)
        },
    )?;
    for Contender { name, row, memory_row, args: _, peaks } in &contenders {
        let peak = peaks.iter().copied().fold(0.0, f64::max);
        run.answer(row, series.level(name)?, &format!("at most {peak:.0} MB"))?;
        if let Some(row) = memory_row {
            run.answer(row, Estimate::exact(peak), "VmHWM, read every 2 ms")?;
        }
    }
    run.add(series.noted("The whole process: reading, parsing, evaluating, writing."));
    let shown = folder.join("shown");
    fs::create_dir(&shown)?;
    fs::write(shown.join("cluster.yaml"), self::cluster(run.size(500, 20), run.size(200, 5)))?;
    view::measure(run, &shown)
}

/// Seconds of one command, and its peak of resident memory in megabytes.
fn once(args: &[String]) -> Result<(f64, f64)> {
    let mut command = Command::new(binaries::binary("kubectl-netpol")?);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (time_us, (peak_kib, status)) = clock::micros(|| {
        let mut child = command.spawn()?;
        let file = format!("/proc/{}/status", child.id());
        let mut peak_kib: u64 = 0;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((peak_kib, status));
            }
            let text = fs::read_to_string(&file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            peak_kib = peak_kib.max(number.unwrap_or(0));
            thread::sleep(PACE);
        }
    })?;
    // 1 means findings.
    ensure!(matches!(status.code(), Some(0 | 1)), "{args:?} ended with {status}");
    Ok((time_us / 1e6, clock::number(peak_kib) * 1024.0 / 1e6))
}

/// Namespaces with pods and policies as of Deployments, each object on a line.
fn cluster(n_pods: usize, n_policies: usize) -> String {
    let shape = Shape { n_namespaces: 20, n_pods, n_policies, n_apps: 10, n_local: 1 };
    let ClusterModel { pods, namespaces, policies, .. } = ClusterModel::new(&shape);
    let objects = namespaces.iter().map(json::namespace).chain(policies.iter().map(json::policy));
    let mut text = String::new();
    for object in objects.chain(pods.iter().map(json::pod)) {
        // Writing to a String cannot fail.
        write!(text, "---\n{object}\n").ok();
    }
    text
}

/// Pods with labels of their own and many ports, and a policy for some of the ports.
fn ports(n_pods: usize, n_ports: usize) -> String {
    let ports: Vec<_> =
        (0..n_ports).map(|n| format!("{{ containerPort: {} }}", 8_000 + n)).collect();
    let ports = ports.join(", ");
    let mut text = pods(n_pods, &ports);
    text += "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: some, namespace: x }\n\
             spec: { podSelector: { matchLabels: { number: \"1\" } }, ingress: [{ ports: [{ port: 8000, endPort: 8010 }] }] }\n";
    text
}

fn pods(n_pods: usize, ports: &str) -> String {
    let mut text = String::new();
    for n in 0..n_pods {
        let [high, low] = [n / 250, n % 250 + 1];
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: p{n}, namespace: x, labels: {{ number: \"{n}\", app: a{} }} }}\n\
             spec: {{ containers: [{{ name: c, ports: [{ports}] }}] }}\nstatus: {{ phase: Running, podIP: 10.0.{high}.{low} }}\n",
            n % 50
        )
        .ok();
    }
    text
}

/// Policies of one namespace.
fn policies(n_policies: usize, n_pods: usize) -> String {
    let mut text = pods(n_pods, "{ containerPort: 80 }");
    for n in 0..n_policies {
        write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: n{n}, namespace: x }}\n\
             spec:\n  podSelector: {{ matchLabels: {{ app: a{} }} }}\n  policyTypes: [Ingress, Egress]\n  \
             ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ app: a{} }} }} }}], ports: [{{ port: 80 }}] }}]\n  \
             egress: [{{ to: [{{ podSelector: {{}} }}] }}]\n",
            n % 50,
            n % 49
        )
        .ok();
    }
    text
}

/// A policy whose selector has many labels, and a pod that has them.
fn labels(n_labels: usize) -> String {
    let labels: Vec<_> = (0..n_labels).map(|n| format!("l{n}: v")).collect();
    let labels = labels.join(", ");
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: labels, namespace: x }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ {labels} }} }} }}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {{ name: p, namespace: x, labels: {{ {labels} }} }}\n"
    )
}

/// Policies with many blocks, each on a line. No policy has more values than the reader takes.
fn blocks(n_blocks: usize) -> String {
    let mut text = String::new();
    for n in 0..n_blocks {
        if n % MAX_BLOCKS == 0 {
            write!(
                text,
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: blocks-{n}, namespace: x }}\n\
                 spec:\n  podSelector: {{}}\n  policyTypes: [Egress]\n  egress:\n  - to:\n"
            )
            .ok();
        }
        let [a, b, c] = [1 + n / 65_536, n / 256 % 256, n % 256];
        writeln!(text, "    - ipBlock: {{ cidr: {a}.{b}.{c}.0/24 }}").ok();
    }
    text
}
