//! `drops`: the latest dropped packets, and those to come.

use std::io::{self, Read as _};
use std::time::Duration;

use jiff::Timestamp;
use netpol_observer::records::{DropRecord, NotShownRecord};
use netpol_terminal::{Output, Terminal};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::args::DropsArgs;
use super::ask::{block_on, control_socket};
use crate::control::client;

/// How long an attended command goes on without a byte on its standard input.
const SILENCE: Duration = Duration::from_secs(30);

/// Shows the latest drops.
pub(super) fn run(args: DropsArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let DropsArgs { agent, follow, since, not_shown, attended, output } = args;
    let mut fields = Vec::new();
    fields.extend(follow.then(|| "follow".to_owned()));
    fields.extend(since.map(|since| format!("since={}", since.as_secs())));
    fields.extend(not_shown.then(|| "not-shown".to_owned()));
    let question = format!("/drops?{}", fields.join("&"));
    let out = &mut terminal.stdout;
    let print = |line: &str| -> io::Result<()> {
        match output {
            Output::Json => writeln!(out, "{line}")?,
            Output::Text => writeln!(out, "{}", text(line)?)?,
        }
        out.flush()
    };
    let socket = control_socket(&agent);
    let lines = client::follow(&socket, &question, print);
    block_on(async {
        tokio::select! {
            ended = lines => ended,
            () = unattended(), if attended => Ok(()),
        }
    })??;
    Ok(0)
}

/// Waits until the standard input ends or is silent. A caller on another machine that has gone away may leave it open.
async fn unattended() {
    let (heard, mut bytes) = mpsc::channel(1);
    // The thread ends with the process at the latest.
    std::thread::spawn(move || {
        let mut stdin = io::stdin();
        while matches!(stdin.read(&mut [0; 64]), Ok(1..)) && heard.blocking_send(()).is_ok() {}
    });
    while let Ok(Some(())) = timeout(SILENCE, bytes.recv()).await {}
}

fn text(line: &str) -> io::Result<String> {
    let value: Value = serde_json::from_str(line)?;
    if value.get("n_not_shown").is_some() {
        return Ok(not_shown_line(&serde_json::from_value(value)?));
    }
    Ok(drop_line(&serde_json::from_value(value)?))
}

/// The time of day, in UTC.
fn time_of_day(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "--:--:--.---Z".to_owned(), |at| at.strftime("%H:%M:%S%.3fZ").to_string())
}

fn not_shown_line(record: &NotShownRecord) -> String {
    let NotShownRecord { unix_ms, pod, direction, is_dropped, reason, n_not_shown } = record;
    let pod = pod.as_ref().map(ToString::to_string).unwrap_or_default();
    let direction = direction.map_or("", |direction| direction.as_str());
    let action = if *is_dropped { "dropped" } else { "would be dropped" };
    let reason = reason.as_ref().map(|reason| format!("({reason})")).unwrap_or_default();
    let parts = [pod.as_str(), direction, action, reason.as_str()];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{} {}: {n_not_shown} more not shown", time_of_day(*unix_ms), parts.join(" "))
}

fn drop_line(record: &DropRecord) -> String {
    let pod = record.pod.as_ref().map_or_else(|| "(removed pod)".to_owned(), ToString::to_string);
    let action = if record.is_dropped { "dropped" } else { "would be dropped" };
    let end = |address: std::net::IpAddr, port: u16| std::net::SocketAddr::new(address, port);
    let peer = record.peer.as_ref().map_or_else(String::new, |peer| format!(", peer {peer}"));
    let why = match (&record.rule, record.tier) {
        (Some(rule), Some(tier)) => format!(", denied by {rule} ({tier} tier)"),
        (Some(rule), None) => format!(", denied by {rule}"),
        (None, _) if record.policies.is_empty() => String::new(),
        (None, _) => {
            let names: Vec<_> = record.policies.iter().map(ToString::to_string).collect();
            format!(", isolated by {}", names.join(", "))
        }
    };
    let more = match record.n_suppressed {
        0 => String::new(),
        n => format!(" ({n} more suppressed by the rate limit)"),
    };
    format!(
        "{} {pod} {} {action} ({}): {} {} -> {}{peer}{why}{more}",
        time_of_day(record.unix_ms),
        record.direction,
        record.reason,
        record.protocol,
        end(record.source, record.source_port),
        end(record.destination, record.destination_port),
    )
}
