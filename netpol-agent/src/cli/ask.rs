//! `status`, `flows` and `explain`: ask the agent on this node.

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;
use comfy_table::{Table, presets};

use netpol_datapath::netfilter::{Found, Judgement};
use netpol_observer::records::FlowRecord;
use netpol_policy::simulate::{Details, Explanation, Paint, TextForm};
use netpol_terminal::{DENIED, FAILED, Output, Terminal};

use super::args::{AgentArgs, ExplainArgs, FlowsArgs, RulesArgs, StatusArgs};
use crate::agent::{
    Attached, CONTROL_SOCKET, InterfaceState, MapStatus, NetfilterStatus, OverlayShortCut,
    OverlayState, PolicyStatus, Protection, PublishingOutcome, PublishingStatus, RuleRecord,
    RuleReport, ShortCutStatus, SourceStatus, Status, TunnelStatus, UplinkStatus,
};
use crate::control::client;

/// Shows the status of the agent.
pub(super) fn status(args: StatusArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let StatusArgs { agent, output } = args;
    let text = get(&agent, "/status")?;
    if output == Output::Json {
        writeln!(terminal.stdout, "{text}")?;
        return Ok(0);
    }
    let status: Status = serde_json::from_str(&text).context("parsing the agent's answer")?;
    write_status(&status, &mut terminal.stdout)?;
    Ok(0)
}

/// Whether connections with pods of other nodes take the short cut.
fn write_overlays(overlays: &[OverlayShortCut], out: &mut dyn Write) -> io::Result<()> {
    for OverlayShortCut { device, family, state, n_networks } in overlays {
        let answer = match state {
            OverlayState::On => format!("takes the short cut ({n_networks} networks)"),
            OverlayState::NoPods
            | OverlayState::Netfilter
            | OverlayState::Mtu
            | OverlayState::Program
            | OverlayState::NoMac => {
                format!("no short cut: {}", state.as_str())
            }
        };
        writeln!(out, "  {device} ({family}, pods of other nodes): {answer}")?;
    }
    Ok(())
}

fn write_status(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let epoch = status.epoch.map_or_else(String::new, |epoch| format!(", epoch {epoch}"));
    let lag = status
        .lag_ms
        .map_or_else(String::new, |lag| format!(", the oldest pending change is {lag} ms old"));
    let force = match status.from_before {
        Some(from_before) => from_before.to_string(),
        None if status.is_in_force => "in force".to_owned(),
        None => "NOT in force".to_owned(),
    };
    writeln!(
        out,
        "netpol-agent {}: policies are {force} ({} map updates since the start{epoch}{lag})",
        status.version, status.n_changes
    )?;
    write_sources(status, out)?;
    let fill: Vec<_> = status
        .maps
        .iter()
        .map(|(name, MapStatus { n_entries, capacity })| format!("{name} {n_entries}/{capacity}"))
        .collect();
    writeln!(out, "  map entries: {}", fill.join(", "))?;
    write_attachments(status, out)?;
    write_overlays(&status.overlay_short_cuts, out)?;
    write_publishing(&status.publishing, out)?;
    write_netfilter(&status.netfilter, out)?;
    let mut policies = table(&["POLICY", "CONCERNS", "OVER CAPACITY", "NOTES"]);
    for PolicyStatus { policy, n_endpoints, is_held, left_out } in &status.policies {
        let isolates: Vec<_> =
            n_endpoints.iter().map(|(direction, n)| format!("{direction} of {n}")).collect();
        let notes = if *is_held { "deleted; in force until its namespace is gone" } else { "" };
        policies.add_row([
            policy.to_string(),
            isolates.join(", "),
            left_out.join(", "),
            notes.to_owned(),
        ]);
    }
    writeln!(out, "{policies}")?;
    let mut table =
        table(&["POD", "IFINDEX", "ADDRESSES", "PROTECTION", "ISOLATED", "ENTRIES", "NOTES"]);
    for endpoint in &status.endpoints {
        let join = |items: Vec<String>| items.join(", ");
        let mut notes = Vec::new();
        if endpoint.forwards {
            notes.push("forwards".to_owned());
        }
        if endpoint.short_cut == ShortCutStatus::On {
            notes.push("short cut".to_owned());
        } else if endpoint.short_cut != ShortCutStatus::Off {
            notes.push(format!("no short cut: {}", endpoint.short_cut.as_str()));
        }
        match (endpoint.ifindex, endpoint.protection) {
            (_, Protection::Disconnected) => {
                notes.push("its interface was deleted; restart the pod".to_owned());
            }
            (0, _) => notes.push("interface not found".to_owned()),
            _ => {}
        }
        if !endpoint.audited.is_empty() {
            notes.push(format!(
                "audited: {}",
                join(endpoint.audited.iter().map(ToString::to_string).collect())
            ));
        }
        table.add_row([
            endpoint.pod.to_string(),
            if endpoint.ifindex == 0 { "-".to_owned() } else { endpoint.ifindex.to_string() },
            join(endpoint.addresses.iter().map(ToString::to_string).collect()),
            format!("{:?}", endpoint.protection).to_lowercase(),
            join(endpoint.isolated.iter().map(ToString::to_string).collect()),
            endpoint.n_allow_entries.to_string(),
            notes.join("; "),
        ]);
    }
    writeln!(out, "{table}")?;
    for diagnostic in &status.diagnostics {
        writeln!(out, "! {diagnostic}")?;
    }
    Ok(())
}

/// What others have on this node.
fn write_netfilter(status: &NetfilterStatus, out: &mut dyn Write) -> io::Result<()> {
    let NetfilterStatus { is_read: _, problem, rules, rules_between_nodes, engines, programs } =
        status;
    if let Some(problem) = problem {
        writeln!(out, "  netfilter rules of others: not known, so no short cut: {problem}")?;
    }
    if let Some(Judgement { n_altering, altering, n_counting, counting }) = rules {
        for (n, named, what) in [
            (n_altering, altering, "that packets between pods may meet, so no short cut"),
            (
                n_counting,
                counting,
                "that only count packets, and do not see those on the short cut",
            ),
        ] {
            if *n > 0 {
                writeln!(out, "  netfilter rules of others {what}: {n}")?;
            }
            for rule in named {
                writeln!(out, "    {rule}")?;
            }
        }
    }
    if let (Some(far), Some(near)) = (rules_between_nodes, rules)
        && near.n_altering == 0
        && far.n_altering > 0
    {
        let n = far.n_altering;
        writeln!(
            out,
            "  netfilter rules of others that packets between pods of two nodes may meet, so no short cut there: {n}"
        )?;
        for rule in &far.altering {
            writeln!(out, "    {rule}")?;
        }
    }
    for (engine, Found { n, names }) in engines {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let more = if names.len() < *n { ", ..." } else { "" };
        writeln!(
            out,
            "  {} is here too, or has left {n} tables and chains, which may still drop packets: {}{more}",
            engine.as_str(),
            names.join("; ")
        )?;
    }
    for program in programs {
        writeln!(out, "  {program}")?;
    }
    Ok(())
}

/// Addresses that nodes publish before the API reports them.
fn write_publishing(status: &PublishingStatus, out: &mut dyn Write) -> io::Result<()> {
    let PublishingStatus { outcome, n_pods, believed } = status;
    if let Some(reason) = &outcome.off {
        return writeln!(out, "  addresses published before the API reports them: off: {reason}");
    }
    let PublishingOutcome { off: _, n_writes, n_bytes, n_failures, error } = outcome;
    writeln!(
        out,
        "  addresses published before the API reports them: of {n_pods} pods here ({n_writes} writes, {n_bytes} bytes, {n_failures} failed), {} of other nodes",
        believed.len()
    )?;
    if let Some(error) = error {
        writeln!(out, "  the latest write of them failed: {error}")?;
    }
    for (address, pod) in believed {
        writeln!(out, "  {address} of {pod}: published by its node, not yet reported by the API")?;
    }
    Ok(())
}

/// What is attached to the node's devices.
fn write_attachments(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    if let Some(n @ 1..) = status.n_awaiting_migration {
        writeln!(out, "  endpoints attached through clsact, awaiting migration to TCX: {n}")?;
    }
    if status.n_awaiting_gc > 0 {
        writeln!(out, "  removed endpoints awaiting garbage collection: {}", status.n_awaiting_gc)?;
    }
    if let Some(error) = &status.blind {
        writeln!(out, "  the kernel does not report which programs are attached: {error}")?;
    }
    let uplink = |uplink: &UplinkStatus| {
        let attached = uplink.attached.map_or("NOT attached", Attached::as_str);
        format!("{} ({attached})", uplink.name)
    };
    let uplinks: Vec<_> = status.uplinks.iter().map(uplink).collect();
    if !uplinks.is_empty() {
        writeln!(out, "  devices that lead off the node: {}", uplinks.join(", "))?;
    }
    for (state, what) in [
        (InterfaceState::Blocked, "blocked, until it is known whose they are"),
        (InterfaceState::Open, "NOT judged, because they belong to no known pod"),
    ] {
        let found = status.unidentified.iter().filter(|interface| interface.state == state);
        let names: Vec<_> = found.map(|interface| interface.name.as_str()).collect();
        if !names.is_empty() {
            writeln!(out, "  interfaces {what}: {}", names.join(", "))?;
        }
    }
    match &status.tunnels {
        TunnelStatus::Unknown => {}
        TunnelStatus::Open => {
            writeln!(out, "  tunnels between nodes: open to pods, by --pod-tunnels allow")?;
        }
        TunnelStatus::Closed { ports } => {
            let ports = ports.iter().map(|port| format!("UDP {port}"));
            let all: Vec<_> = ports.chain(["IPIP, 6in4, GRE".to_owned()]).collect();
            writeln!(out, "  tunnels between nodes: closed to pods: {}", all.join(", "))?;
        }
    }
    let guard = &status.exit_guard;
    if guard.is_in_place {
        let n = guard.n_exits;
        writeln!(
            out,
            "  nftables table inet netpol: deferred packets leave through {n} devices only"
        )?;
    } else if let Some(problem) = &guard.problem {
        writeln!(out, "  nftables table inet netpol: NOT in place: {problem}")?;
    }
    let [n_pods, n_uplinks] = status.n_reattached;
    if n_pods + n_uplinks > 0 {
        writeln!(
            out,
            "  programs that others had removed, attached again: {n_pods} times at pods, {n_uplinks} times at other devices"
        )?;
    }
    Ok(())
}

fn write_sources(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    for (kind, source) in &status.sources {
        let n = status.n_objects.get(kind).copied().unwrap_or_default();
        let state = match source {
            SourceStatus::Listing => "not listed yet".to_owned(),
            SourceStatus::Synced { heard_s } => format!("synced, latest message {heard_s} s ago"),
            SourceStatus::Broken { error, since_s } if status.missing.contains(kind) => {
                format!("not listed yet, failing for {since_s} s: {error}")
            }
            SourceStatus::Broken { error, since_s } => {
                format!("out of date for {since_s} s: {error}")
            }
        };
        writeln!(out, "  {kind}: {n}, {state}")?;
    }
    Ok(())
}

/// Explains why a connection is allowed or denied. Exit codes: 0 if it is allowed, 1 if it is denied.
pub(super) fn explain(args: ExplainArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let ExplainArgs { from, to, port, protocol, all, output, agent } = args;
    let text =
        get(&agent, &format!("/explain?from={from}&to={to}&port={port}&protocol={protocol}"))?;
    let explanation: Explanation =
        serde_json::from_str(&text).context("parsing the agent's answer")?;
    match output {
        Output::Json => {
            writeln!(terminal.stdout, "{}", serde_json::to_string_pretty(&explanation)?)?;
        }
        Output::Text => {
            let form = TextForm {
                details: if all { Details::All } else { Details::Folded },
                width: terminal.width,
                paint: if terminal.is_styled { Paint::Coloured } else { Paint::Plain },
            };
            explanation.write_text(form, &mut terminal.stdout)?;
        }
    }
    if explanation.problem.is_some() {
        return Ok(FAILED);
    }
    Ok(if explanation.is_allowed { 0 } else { DENIED })
}

/// Lists the live connections.
pub(super) fn flows(args: FlowsArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let FlowsArgs { agent, pod, output } = args;
    let question = pod.map_or_else(|| "/flows".to_owned(), |pod| format!("/flows?pod={pod}"));
    let text = get(&agent, &question)?;
    if output == Output::Json {
        writeln!(terminal.stdout, "{text}")?;
        return Ok(0);
    }
    let flows: Vec<FlowRecord> =
        serde_json::from_str(&text).context("parsing the agent's answer")?;
    let mut table =
        table(&["POD", "ORIGIN", "PROTOCOL", "PORT", "REMOTE", "STATE", "IDLE", "RULE", "TIER"]);
    for flow in flows {
        let remote = std::net::SocketAddr::new(flow.remote, flow.remote_port);
        table.add_row([
            flow.pod.to_string(),
            flow.origin.to_string(),
            flow.protocol,
            flow.local_port.to_string(),
            flow.peer.map_or_else(|| remote.to_string(), |peer| format!("{remote} ({peer})")),
            flow.state,
            format!("{} s", flow.idle_s),
            flow.rule.unwrap_or_default(),
            flow.tier.map(|tier| tier.to_string()).unwrap_or_default(),
        ]);
    }
    writeln!(terminal.stdout, "{table}")?;
    Ok(0)
}

/// Lists the rules in force.
pub(super) fn rules(args: RulesArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let RulesArgs { agent, output } = args;
    let text = get(&agent, "/rules")?;
    if output == Output::Json {
        writeln!(terminal.stdout, "{text}")?;
        return Ok(0);
    }
    let RuleReport { rules, n_connections_of_removed, n_counted, capacity } =
        serde_json::from_str(&text).context("parsing the agent's answer")?;
    let mut table = table(&["RULE", "NAME", "TIER", "ACTION", "CONNECTIONS", "COUNTED FOR"]);
    for RuleRecord { rule, name, action, tier, n_connections, counted_s } in rules {
        table.add_row([
            rule.to_string(),
            name,
            tier.map(|tier| tier.to_string()).unwrap_or_default(),
            action.map(|action| action.as_str().to_owned()).unwrap_or_default(),
            n_connections.to_string(),
            format!("{counted_s} s"),
        ]);
    }
    writeln!(terminal.stdout, "{table}")?;
    if n_connections_of_removed > 0 {
        let n = n_connections_of_removed;
        writeln!(terminal.stdout, "connections of rules that are not in force any more: {n}")?;
    }
    if usize::try_from(capacity).is_ok_and(|capacity| n_counted >= capacity) {
        writeln!(
            terminal.stdout,
            "{n_counted} rules are counted, as many as the kernel's map holds: further rules are NOT counted"
        )?;
    }
    Ok(0)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

pub(super) fn get(agent: &AgentArgs, question: &str) -> anyhow::Result<String> {
    Ok(block_on(client::get(&control_socket(agent), question))??)
}

pub(super) fn control_socket(agent: &AgentArgs) -> std::path::PathBuf {
    let path: &Path = &agent.socket;
    path.with_file_name(CONTROL_SOCKET)
}

pub(super) fn block_on<F: Future>(question: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("starting the async runtime")?.block_on(question))
}
