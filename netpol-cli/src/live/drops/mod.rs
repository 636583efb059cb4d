//! `drops`: dropped packets of all nodes, with the names of pods and policies.
//!
//! In: the records of the agents. Out: a table, or lines as drops happen. Must not: show a drop of a pod that is not selected.

mod events;
mod fold;
mod record;

use std::time::Duration;

use jiff::Timestamp;
use netpol_terminal::Terminal;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::cluster::{AccessArgs, Answers, Cluster, Silent};
use super::duration;
use super::follow::{self, Followed};
use super::observer::{Route, ThroughArgs};
use super::output::{Format, Rows, or_dash, printable};
use super::selection::{Selection, SelectionArgs};
pub(crate) use events::{DropEvent, events};
use fold::{Fold, Line};
use record::{Key, NotShown, Record};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol drops -n shop
  netpol drops pod/web-0 -n shop --since 5m
  netpol drops -A --follow
  netpol drops -n shop -l app=web --follow -o json";

/// How old a drop may be when following begins.
const SINCE: Duration = Duration::from_secs(10);

/// Columns of a line as drops happen: their widths grow with their content.
const COLUMNS: [&str; 7] = ["TIME", "POD", "DIRECTION", "PEER", "PORT", "REASON", "POLICY"];

/// Show dropped packets of all nodes: when, which pod and peer, the reason, and the policy.
///
/// Shows drops at the selected pods, and drops elsewhere of packets from or to them. Repeated drops are one line with their count. Each
/// node keeps its latest 1,000. Times are UTC. In audit mode, the reason `audited` marks packets that have passed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DropsArgs {
    /// The pod: `NAME`, `pod/NAME` or `NAMESPACE/NAME` [default: all selected pods].
    #[arg(value_name = "POD", conflicts_with_all = ["all_namespaces", "selector"])]
    pod: Option<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Show drops as they happen, until interrupted. Each second has at most some twenty lines, and one that says how many more there
    /// were. With -o json, each line is one record, and none is folded.
    #[arg(short, long)]
    follow: bool,
    /// Only drops that are not older than this, such as `90s` or `5m` [default: all that the nodes keep; with --follow, 10 s].
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    since: Option<Duration>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    through: ThroughArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Shows drops.
pub(super) async fn run(args: &DropsArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let DropsArgs { pod, selection, follow, since, access, through, output } = args;
    let cluster = Cluster::open(access).await?;
    let route = through.route(&cluster).await;
    let selection = Selection::new(&cluster, selection, pod.as_deref()).await?;
    if *follow {
        let since = since.unwrap_or(SINCE);
        follow_all((cluster, route), selection, since, *output, terminal).await
    } else {
        latest((&cluster, route), selection, *since, *output, terminal).await
    }
}

async fn latest(
    (cluster, route): (&Cluster, Route),
    mut selection: Selection,
    since: Option<Duration>,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let seconds = since.map(|since| format!("{}s", since.as_secs()));
    let mut args = vec!["drops"];
    if let Some(seconds) = &seconds {
        args.extend(["--since", seconds]);
    }
    let Answers { answers, mut silent } = match route {
        Route::Exec => cluster.ask_all_lines(cluster.agents().await?, &args).await,
        Route::Observer => cluster.observed_drops(selection.namespace(), since).await?,
    };
    let mut records = Vec::new();
    for (agent, lines) in answers {
        for mut line in lines.as_array().cloned().unwrap_or_default() {
            match Record::deserialize(&line) {
                Ok(record) => {
                    if selection.has_any([record.pod.as_ref(), record.peer.as_ref()]).await {
                        name_node(&mut line, &agent.node);
                        records.push((agent.node.clone(), record, line));
                    }
                }
                Err(error) => {
                    let reason = format!("its records are not understood: {error}");
                    silent.push(Silent { node: agent.node.clone(), reason });
                    break;
                }
            }
        }
    }
    records.sort_by_key(|(_, record, _)| record.unix_ms);
    let lines: Vec<_> = records.iter().map(|(_, _, line)| line).collect();
    let report = json!({ "drops": lines, "unanswered": silent });
    if !format.write(&report, terminal)? {
        if records.is_empty() && silent.is_empty() {
            terminal.complain(&format!("no drops {}", selection.in_words()));
        } else {
            table(&records, format).write(terminal)?;
        }
    }
    Ok(Answers { answers: Vec::new(), silent }.report_silent(0, terminal))
}

/// One row for all drops with the same key, the latest last.
fn table(records: &[(String, Record, Value)], format: Format) -> Rows {
    let mut columns = COLUMNS.to_vec();
    columns.extend(["COUNT", "NOT-SHOWN"]);
    if format.is_wide() {
        columns.extend(["NODE", "SOURCE", "DESTINATION"]);
    }
    let mut folded: Vec<(Key, &Record, u64, u64)> = Vec::new();
    let mut places = std::collections::BTreeMap::new();
    for (node, record, _) in records {
        let key = record.key(node);
        let place = *places.entry(key.clone()).or_insert_with(|| {
            folded.push((key, record, 0, 0));
            folded.len() - 1
        });
        if let Some((_, latest, n, n_not_shown)) = folded.get_mut(place) {
            *latest = record;
            *n += 1;
            *n_not_shown += record.n_suppressed;
        }
    }
    folded.sort_by_key(|(_, latest, _, _)| latest.unix_ms);
    let mut rows = Rows::new(&columns);
    for (key, latest, n, n_not_shown) in folded {
        let mut cells = cells(&key, latest).to_vec();
        cells.extend([n.to_string(), n_not_shown.to_string()]);
        if format.is_wide() {
            let [source, destination] = latest.ends();
            cells.extend([key.node, source, destination]);
        }
        rows.add(cells);
    }
    rows
}

fn cells(key: &Key, latest: &Record) -> [String; 7] {
    [
        time_of_day(latest.unix_ms),
        key.pod_in_words(),
        key.direction.clone(),
        key.peer_in_words(),
        key.port_in_words(),
        key.reason.clone(),
        or_dash(key.why.clone()),
    ]
}

/// The time of day in UTC.
fn time_of_day(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%H:%M:%S%.3f").to_string())
}

fn name_node(line: &mut Value, node: &str) {
    if let Some(fields) = line.as_object_mut() {
        fields.insert("node".to_owned(), json!(node));
    }
}

async fn follow_all(
    (cluster, route): (Cluster, Route),
    mut selection: Selection,
    since: Duration,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let mut received = match route {
        Route::Observer => cluster.follow_observed(selection.namespace(), since).await?,
        Route::Exec => {
            let found = cluster.agents().await?;
            for Silent { node, reason } in &found.silent {
                terminal.complain(&format!("node {node} does not answer: {reason}"));
            }
            follow::drops(cluster, found, since)
        }
    };
    let mut screen = Screen::new(format);
    screen.begin(terminal)?;
    let mut ticks = every_second();
    loop {
        tokio::select! {
            followed = received.recv() => match followed {
                None => return Ok(0),
                Some(Followed::Silent(Silent { node, reason })) => {
                    terminal.complain(&format!("node {node} does not answer: {reason}; it is asked again"));
                }
                Some(Followed::Back(node)) => {
                    terminal.complain(&format!("node {node} answers again"));
                }
                Some(Followed::Record(node, value)) => {
                    screen.show(&node, value, &mut selection, terminal).await?;
                }
            },
            _ = ticks.tick() => screen.tick(terminal)?,
        }
    }
}

fn every_second() -> Interval {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What a person, or a program, sees of followed drops.
struct Screen {
    format: Format,
    fold: Fold,
    widths: [usize; 7],
}

impl Screen {
    fn new(format: Format) -> Self {
        Self { format, fold: Fold::default(), widths: [12, 24, 9, 32, 9, 12, 6] }
    }

    fn begin(&mut self, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
        if matches!(self.format, Format::Text | Format::Wide) {
            self.write(&COLUMNS.map(str::to_owned), "COUNT", terminal)?;
        }
        Ok(())
    }

    async fn show(
        &mut self,
        node: &str,
        mut value: Value,
        selection: &mut Selection,
        terminal: &mut Terminal<'_>,
    ) -> anyhow::Result<()> {
        if let Ok(not_shown) = NotShown::deserialize(&value) {
            let is_selected = selection.has_any([not_shown.pod.as_ref(), None]).await;
            if is_selected && !self.write_value(node, &mut value, terminal)? {
                self.fold.add_not_shown(node, &not_shown);
            }
            return Ok(());
        }
        // A record of another version that lacks a field cannot be shown; JSON has it.
        let Ok(record) = Record::deserialize(&value) else { return Ok(()) };
        if !selection.has_any([record.pod.as_ref(), record.peer.as_ref()]).await
            || self.write_value(node, &mut value, terminal)?
        {
            return Ok(());
        }
        if let Some(line) = self.fold.add(node, record) {
            self.write_line(line, terminal)?;
            terminal.stdout.flush()?;
        }
        Ok(())
    }

    fn tick(&mut self, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
        for line in self.fold.tick() {
            self.write_line(line, terminal)?;
        }
        Ok(terminal.stdout.flush()?)
    }

    /// Writes a record for programs. Returns false for text.
    fn write_value(
        &self,
        node: &str,
        value: &mut Value,
        terminal: &mut Terminal<'_>,
    ) -> anyhow::Result<bool> {
        name_node(value, node);
        match self.format {
            Format::Text | Format::Wide => return Ok(false),
            Format::Json => writeln!(terminal.stdout, "{value}")?,
            Format::Yaml => {
                write!(terminal.stdout, "---\n{}", serde_saphyr::to_string(value)?)?;
            }
        }
        terminal.stdout.flush()?;
        Ok(true)
    }

    fn write_line(&mut self, line: Line, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
        match line {
            Line::Drop { key, latest, n } => {
                let count = if n == 1 { String::new() } else { format!("x{n}") };
                let mut cells = cells(&key, &latest);
                if self.format.is_wide() {
                    let [.., policy] = &mut cells;
                    let [source, destination] = latest.ends();
                    *policy = format!("{policy} [{}: {source} -> {destination}]", key.node);
                }
                self.write(&cells, &count, terminal)
            }
            Line::NotShown { what, n } => {
                Ok(writeln!(terminal.stdout, "... {}: {n} more not shown", printable(&what))?)
            }
            Line::Left { n } => Ok(writeln!(terminal.stdout, "... {n} more not shown")?),
        }
    }

    fn write(
        &mut self,
        cells: &[String; 7],
        count: &str,
        terminal: &mut Terminal<'_>,
    ) -> anyhow::Result<()> {
        let columns = cells.iter().zip(&mut self.widths).map(|(cell, width)| {
            let cell = printable(cell);
            *width = (*width).max(cell.chars().count()).min(60);
            format!("{cell:<width$}   ")
        });
        let line: String = columns.chain([count.to_owned()]).collect();
        writeln!(terminal.stdout, "{}", line.trim_end())?;
        Ok(terminal.stdout.flush()?)
    }
}
