//! Compares netpol-kube with kube-runtime's `watcher`, for `docs/design/watch.md`.
//!
//! `cargo bench -p netpol-bench --bench watch` measures CPU time and memory of a start and of each event, all contenders in one
//! run, in an order that changes from round to round. `-- --with callgrind` counts instructions and `-- --with dhat` allocations,
//! both with valgrind and smaller clusters. `-- behaviour` shows how each contender handles what an API server may do.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "for a person")]

mod behaviour;
mod contender;
mod runtime;
mod trimmed;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use fastrand::Rng;
use netpol_bench::scale::{self, Shape, json};
use netpol_bench::stats::median;
use netpol_lab::fake_api::{FakeApi, StreamingLists};
use netpol_lab::watched;

use contender::{Contender, Cost, FENCES, Sink};

/// Compares clients that watch an API server.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Pods in the cluster; by default 100,000, and 5,000 with valgrind.
    #[arg(long)]
    pods: Option<usize>,
    /// Events after the list.
    #[arg(long, default_value_t = 5_000)]
    events: usize,
    /// Number of starts of each contender with each kind of list.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The instrument.
    #[arg(long, default_value = "time")]
    with: Instrument,
    /// Where the objects go.
    #[arg(long, default_value = "nothing")]
    sink: Sink,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Shows how each contender handles what an API server may do.
    Behaviour,
    /// Runs one contender.
    #[command(hide = true)]
    Watch { contender: Contender, sink: Sink, kubeconfig: PathBuf, n_fences: usize },
}

/// How the cost is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Instrument {
    /// CPU time and resident memory, from the kernel.
    Time,
    /// Instructions in user space, from valgrind.
    Callgrind,
    /// Allocations, from valgrind.
    Dhat,
}

/// The form of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lists {
    Streaming,
    Pages,
}

impl Lists {
    fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming list",
            Self::Pages => "list in pages",
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.action {
        Some(Action::Watch { contender, sink, kubeconfig, n_fences }) => {
            contender::watch(contender, sink, &kubeconfig, n_fences)
        }
        Some(Action::Behaviour) => behaviour::report(),
        None if args.with == Instrument::Time => times(&args),
        None => counts(&args),
    }
}

/// A cluster in this process.
struct Server {
    _runtime: tokio::runtime::Runtime,
    api: FakeApi,
    shape: Shape,
    folder: tempfile::TempDir,
    n_fences: usize,
}

impl Server {
    fn start(n_pods: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let api = runtime.block_on(FakeApi::start())?;
        let shape = Shape { n_pods, n_namespaces: n_pods.div_ceil(100).max(1), ..Shape::LARGE };
        for number in 0..n_pods {
            api.put(json::pod(&scale::pod(&shape, number)));
        }
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig(&serde_json::json!({})))?;
        Ok(Self { _runtime: runtime, api, shape, folder, n_fences: 0 })
    }

    /// Updates `n_events` pods with a pause after each, then creates a fence.
    fn update(&mut self, rng: &mut Rng, n_events: usize, pause: Duration) {
        for _ in 0..n_events {
            self.api.put(json::pod(&scale::pod(&self.shape, rng.usize(..self.shape.n_pods))));
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        self.n_fences += 1;
        self.api.put(watched::pod(FENCES, &format!("fence-{}", self.n_fences), "10.0.0.1"));
    }

    /// Runs a contender through a list and batches of events. Returns the costs that it printed and the output of the instrument.
    fn run(
        &mut self,
        contender: Contender,
        lists: Lists,
        sink: Sink,
        instrument: Instrument,
        batches: &[(usize, Duration)],
    ) -> Result<(Vec<Cost>, String)> {
        self.api.streaming_lists(match lists {
            Lists::Streaming => StreamingLists::Served,
            Lists::Pages => StreamingLists::Refused,
        });
        let mut rng = Rng::with_seed(7);
        let mut child = program(instrument)?
            .arg("watch")
            .args([name(&contender), name(&sink)])
            .arg(self.folder.path().join("kubeconfig"))
            .arg(batches.len().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut costs = Vec::new();
        for batch in [None].into_iter().chain(batches.iter().map(Some)) {
            if let Some((n_events, pause)) = batch {
                self.update(&mut rng, *n_events, *pause);
            }
            match lines.next() {
                Some(line) => costs.push(serde_json::from_str(&line?)?),
                None => break,
            }
        }
        let mut output = String::new();
        child.stderr.take().context("no stderr")?.read_to_string(&mut output)?;
        ensure!(
            child.wait()?.success() && costs.len() == batches.len() + 1,
            "{contender:?}: {output}"
        );
        Ok((costs, output))
    }
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn program(instrument: Instrument) -> Result<Command> {
    let this = std::env::current_exe()?;
    let valgrind = |tool: &[&str]| {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(tool).arg(&this);
        valgrind
    };
    Ok(match instrument {
        Instrument::Time => Command::new(&this),
        Instrument::Callgrind => valgrind(&["--tool=callgrind", "--callgrind-out-file=/dev/null"]),
        Instrument::Dhat => valgrind(&["--tool=dhat", "--dhat-out-file=/dev/null"]),
    })
}

/// Samples by row and contender.
#[derive(Default)]
struct Table(Vec<(String, BTreeMap<String, Vec<f64>>)>);

impl Table {
    fn add(&mut self, what: &str, of: Contender, sample: f64) {
        let row = match self.0.iter_mut().find(|(known, _)| known == what) {
            Some((_, row)) => row,
            None => &mut self.0.push_mut((what.to_owned(), BTreeMap::new())).1,
        };
        row.entry(name(&of)).or_default().push(sample);
    }

    /// Prints the medians as Markdown, with their ratios to the first contender.
    fn print(&self) {
        let names: Vec<_> = Contender::value_variants().iter().map(name).collect();
        println!("| | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
        for (what, row) in &self.0 {
            let medians = names.iter().map(|name| median(row.get(name).map_or(&[], Vec::as_slice)));
            let medians: Vec<_> = medians.collect();
            let cells = medians.iter().map(|value| {
                let ratio = value / medians.first().unwrap_or(value);
                format!("{value:.1} ({ratio:.2})")
            });
            println!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
}

/// Every contender with both forms of list, in random order.
fn order(rng: &mut Rng) -> Vec<(Contender, Lists)> {
    let of = |contender: &Contender| [(*contender, Lists::Streaming), (*contender, Lists::Pages)];
    let mut order: Vec<_> = Contender::value_variants().iter().flat_map(of).collect();
    rng.shuffle(&mut order);
    order
}

#[expect(clippy::cast_precision_loss, reason = "a few thousands")]
fn each(total: f64, n_objects: usize) -> f64 {
    total / n_objects as f64
}

/// Measures CPU time and memory.
fn times(args: &Args) -> Result<()> {
    let mut server = Server::start(args.pods.unwrap_or(100_000))?;
    let (mut rng, mut table) = (Rng::with_seed(1), Table::default());
    let n_single = args.events / 5;
    let burst = (args.events, Duration::ZERO);
    let batches = [burst, burst, (n_single, Duration::from_millis(1))];
    for _ in 0..args.rounds {
        for (contender, lists) in order(&mut rng) {
            let (costs, _) = server.run(contender, lists, args.sink, Instrument::Time, &batches)?;
            let [listed, first, second, last] = costs[..] else { continue };
            let of = |what: &str| format!("{}, {what}", lists.as_str());
            table.add(&of("CPU, ms"), contender, listed.cpu_us / 1e3);
            table.add(&of("peak memory, MB"), contender, listed.peak_mb);
            let burst_us = second.cpu_us - first.cpu_us;
            table.add("event in a burst, CPU, µs", contender, each(burst_us, args.events));
            let single_us = last.cpu_us - second.cpu_us;
            table.add("event by itself, CPU, µs", contender, each(single_us, n_single));
        }
    }
    table.print();
    Ok(())
}

/// Counts instructions or allocations per pod and per event: the difference between two runs of different size.
fn counts(args: &Args) -> Result<()> {
    let n_pods = args.pods.unwrap_or(5_000);
    let (mut empty, mut full) = (Server::start(0)?, Server::start(n_pods)?);
    let (mut rng, mut table) = (Rng::with_seed(1), Table::default());
    let names = match args.with {
        Instrument::Dhat => ["bytes", "allocations"].as_slice(),
        Instrument::Time | Instrument::Callgrind => &["instructions"],
    };
    for (contender, lists) in order(&mut rng) {
        let run = |server: &mut Server, batches: &[_]| {
            let (_, output) = server.run(contender, lists, args.sink, args.with, batches)?;
            counted(&output)
        };
        let [before, listed] = [run(&mut empty, &[])?, run(&mut full, &[])?];
        let after = run(&mut full, &[(args.events, Duration::ZERO)])?;
        for (index, name) in names.iter().enumerate() {
            let at = |counts: &[f64]| counts.get(index).copied().unwrap_or(f64::NAN);
            let each_pod = each(at(&listed) - at(&before), n_pods);
            table.add(&format!("{}, {name} a pod", lists.as_str()), contender, each_pod);
            let each_event = each(at(&after) - at(&listed), args.events);
            table.add(&format!("event, {name}"), contender, each_event);
        }
    }
    table.print();
    Ok(())
}

/// The totals at the end of valgrind's output: instructions of callgrind, bytes and blocks of dhat.
fn counted(output: &str) -> Result<Vec<f64>> {
    let total = output.lines().find_map(|line| {
        let (_, text) = line.split_once("== ")?;
        text.strip_prefix("Collected : ").or_else(|| text.strip_prefix("Total: "))
    });
    let words = total.context("no totals in the output of valgrind")?.replace(',', "");
    let numbers = words.split_whitespace().filter_map(|word| word.trim().parse().ok());
    Ok(numbers.collect())
}
