//! The offline commands, from arguments to output: golden texts.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod action;
mod cases;
mod chart;
mod ci;
mod cluster;
mod diff;
mod expectations;
mod explain;
mod flannel;
mod html;
mod inputs;
mod learn;
mod lint;
mod live;
mod matrix;
mod siblings;
mod usage;
mod workloads;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use expect_test::Expect;
use netpol_terminal::Terminal;

use cases::{A_TO_B, case};

const SHOP: &str = r"
{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: shop } } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: ops, labels: { team: ops } } }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { containers: [{ name: c, ports: [{ name: http, containerPort: 8080 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: shop, labels: { app: db } }
spec: { containers: [{ name: c, ports: [{ name: pg, containerPort: 5432 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: probe, namespace: ops, labels: { app: probe } }
spec: { containers: [{ name: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.3 }] }
---
apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: 10.96.0.1, selector: { app: db }, ports: [{ port: 80, targetPort: pg }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress:
  - from: [{ podSelector: { matchLabels: { app: web } } }]
    ports: [{ port: 5433 }]
  - from:
    - namespaceSelector: { matchLabels: { team: ops } }
    - podSelector: { matchLabels: { app: web } }
    ports: [{ port: pg }, { port: 70000 }]
";

/// Allows every peer to reach shop/web on 81.
const OPEN_WEB: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec: { podSelector: { matchLabels: { app: web } }, ingress: [{ ports: [{ port: 81 }] }] }
";

const REPAIRED: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: 5432 }] }]
";

/// Runs a command in a directory with `shop.yaml`, `repaired.yaml` and `broken.yaml`. Returns exit code, output and problems as
/// one text, with DIR instead of the directory's path.
fn output(command: &str, stdin: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let files = [("shop.yaml", SHOP), ("repaired.yaml", REPAIRED), ("broken.yaml", "a: [\n")];
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    output_in(directory.path(), command, stdin)
}

/// Runs `netpol` or `netpol-agent`, whichever the first argument names.
fn run(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    match args.first().map(String::as_str) {
        Some(netpol_agent::cli::PROGRAM) => netpol_agent::cli::run(args, terminal),
        _ => netpol_cli::run(args, terminal),
    }
}

fn output_in(directory: &Path, command: &str, stdin: &str) -> String {
    output_on(None, directory, command, stdin)
}

/// The output on a terminal with this number of columns and with colours, or in a pipe.
fn output_on(width: Option<usize>, directory: &Path, command: &str, stdin: &str) -> String {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let directory = directory.to_str().unwrap();
    let args: Vec<String> =
        command.split_whitespace().map(|arg| arg.replace("DIR", directory)).collect();
    let code = run(
        &args,
        &mut Terminal {
            program: if command.starts_with(netpol_agent::cli::PROGRAM) {
                netpol_agent::cli::PROGRAM
            } else {
                netpol_cli::PROGRAM
            },
            stdin: Box::new(stdin.as_bytes()),
            stdout: Box::new(&mut stdout),
            stderr: Box::new(&mut stderr),
            is_styled: width.is_some(),
            width,
        },
    );
    let mut text = format!("exit code {code}\n{}", String::from_utf8(stdout).unwrap());
    for line in String::from_utf8(stderr).unwrap().lines() {
        writeln!(text, "! {line}").unwrap();
    }
    text.replace(directory, "DIR")
}

#[track_caller]
fn check(command: &str, expected: &Expect) {
    expected.assert_eq(&output(command, ""));
}

#[track_caller]
fn check_stdin(command: &str, stdin: &str, expected: &Expect) {
    expected.assert_eq(&output(command, stdin));
}

#[test]
fn completions_contain_every_command() {
    let script = output("netpol completions bash", "");
    for command in ["explain", "lint", "simulate", "--cases", "--what-if"] {
        assert!(script.contains(command), "{command}");
    }
}

/// A `stdout` whose reader has gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn a_closed_stdout_is_not_a_failure() {
    let line = case("open", "", "", A_TO_B);
    for command in
        ["netpol simulate --cases -", "netpol completions zsh", "netpol lint -f -", "netpol help"]
    {
        let mut stderr = Vec::new();
        let code = run(
            &command.split(' ').map(str::to_owned).collect::<Vec<_>>(),
            &mut Terminal {
                program: netpol_cli::PROGRAM,
                stdin: Box::new(line.as_bytes()),
                stdout: Box::new(Closed),
                stderr: Box::new(&mut stderr),
                is_styled: false,
                width: None,
            },
        );
        assert_eq!((code, String::from_utf8(stderr).unwrap().as_str()), (0, ""), "{command}");
    }
}
