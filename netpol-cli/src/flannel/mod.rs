//! `flannel`: our plugin in the configuration that Flannel writes to every node.
//!
//! In: the configuration map of Flannel. Out: the same one with our entry in one field, or without it; all other bytes stay. The patch holds the
//! text that was read, so a change of somebody else at the same time is not lost. Must not: touch a node.

mod diff;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use netpol_cni::conflist::{Edit, Entry, List};
use netpol_kube::Access;
use netpol_terminal::Terminal;
use serde_json::json;

/// The field with the CNI configuration.
const FIELD: &str = "cni-conf.json";

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol flannel install --dry-run
  netpol flannel uninstall";

/// Name netpol-cni in Flannel's own configuration, so that no pod starts without it, or take it out again.
///
/// Flannel writes this configuration to each node, so it has netpol-cni from the first boot on. A node without an agent then starts no pod.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FlannelArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Add netpol-cni. Nothing changes if it is there.
    Install(TargetArgs),
    /// Remove netpol-cni, and restore every byte. Nothing changes if it is not there.
    Uninstall(TargetArgs),
}

/// The configuration map, and what to do with it.
#[derive(Clone, Debug, clap::Args)]
struct TargetArgs {
    /// Show the change without making it.
    #[arg(long)]
    dry_run: bool,
    /// Namespace of Flannel.
    #[arg(short, long, value_name = "NAME", default_value = "kube-flannel")]
    namespace: String,
    /// Flannel's configuration map.
    #[arg(long, value_name = "NAME", default_value = "kube-flannel-cfg")]
    config_map: String,
    /// Kubeconfig file [default: the file that kubectl uses].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The agent's socket on the nodes.
    #[arg(long, value_name = "PATH", default_value = netpol_proto::SOCKET_PATH)]
    socket: String,
}

/// Runs the command. The exit code is 0, also if there is nothing to change.
pub(super) fn run(args: FlannelArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let FlannelArgs { verb } = args;
    let (Verb::Install(target) | Verb::Uninstall(target)) = &verb;
    let TargetArgs { dry_run, namespace, config_map, kubeconfig, socket } = target;
    let object = format!("ConfigMap {namespace}/{config_map}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    let api = runtime.block_on(open(kubeconfig.as_deref(), namespace))?;
    let text = runtime.block_on(read(&api, &object, config_map))?;
    let edited = match &verb {
        Verb::Install(_) => installed(&text, socket),
        Verb::Uninstall(_) => uninstalled(&text),
    };
    let field = format!("{object}: data[\"{FIELD}\"]");
    let Some(edited) = edited.with_context(|| field.clone())? else {
        let state = match verb {
            Verb::Install(_) => "names netpol-cni already",
            Verb::Uninstall(_) => "does not name netpol-cni",
        };
        writeln!(terminal.stdout, "{field} {state}: nothing to change")?;
        return Ok(0);
    };
    writeln!(terminal.stdout, "{field}")?;
    write!(terminal.stdout, "{}", diff::lines(&text, &edited))?;
    if *dry_run {
        writeln!(terminal.stdout, "not changed, because of --dry-run")?;
        return Ok(0);
    }
    runtime.block_on(write(&api, config_map, &text, &edited)).with_context(|| field.clone())?;
    writeln!(
        terminal.stdout,
        "changed; nodes get it when Flannel starts there again: kubectl --namespace {namespace} rollout restart daemonset"
    )?;
    Ok(0)
}

/// The text with our entry; `None` if it has it.
fn installed(text: &str, socket: &str) -> anyhow::Result<Option<String>> {
    let list = List::parse(text)?;
    if list.has_only_folder() {
        bail!("field `plugins` is missing: there is no plugin to chain netpol-cni to");
    }
    match list.install(&Entry { socket: socket.to_owned() }) {
        Edit::Nothing => Ok(None),
        Edit::Insert(edited) | Edit::Update(edited) => Ok(Some(edited)),
    }
}

/// The text without our entry; `None` if it has none.
fn uninstalled(text: &str) -> anyhow::Result<Option<String>> {
    let list = List::parse(text)?;
    if list.is_main() {
        bail!("field `plugins`: netpol-cni creates the interface here and is not removed");
    }
    Ok(list.uninstall())
}

async fn open(kubeconfig: Option<&Path>, namespace: &str) -> anyhow::Result<Api<ConfigMap>> {
    let access = Access::open(kubeconfig).await.context("cannot access the cluster")?;
    Ok(Api::namespaced(access.client(), namespace))
}

async fn read(api: &Api<ConfigMap>, object: &str, name: &str) -> anyhow::Result<String> {
    let found = api.get_opt(name).await.with_context(|| format!("cannot get {object}"))?;
    let Some(found) = found else {
        bail!(
            "{object} does not exist: --namespace and --config-map name that of Flannel, which is in kube-system with older \
             manifests; k3s has none"
        );
    };
    let field = found.data.unwrap_or_default().remove(FIELD);
    field.with_context(|| format!("{object}: data[\"{FIELD}\"] is missing"))
}

async fn write(api: &Api<ConfigMap>, name: &str, old: &str, new: &str) -> anyhow::Result<()> {
    let field = format!("/data/{FIELD}");
    let steps = json!([
        { "op": "test", "path": field, "value": old },
        { "op": "replace", "path": field, "value": new },
    ]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(steps)?);
    let written = api.patch(name, &PatchParams::default(), &patch).await;
    written.context("not changed; somebody else may have changed it at the same time").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration of Flannel's manifest.
    const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": { "hairpinMode": true, "isDefaultGateway": true }
    },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true }
    }
  ]
}
"#;

    #[test]
    fn the_entry_is_added_once_and_removal_restores_every_byte() {
        let with = installed(FLANNEL, netpol_proto::SOCKET_PATH).unwrap().unwrap();
        assert!(with.contains("netpol-cni"));
        assert_eq!(installed(&with, netpol_proto::SOCKET_PATH).unwrap(), None);
        assert_eq!(uninstalled(&with).unwrap().as_deref(), Some(FLANNEL));
        assert_eq!(uninstalled(FLANNEL).unwrap(), None);
        let elsewhere = installed(&with, "/run/other.sock").unwrap().unwrap();
        assert_eq!(uninstalled(&elsewhere).unwrap().as_deref(), Some(FLANNEL));
    }

    #[test]
    fn a_configuration_that_cannot_be_chained_names_its_field() {
        for (text, expected) in [
            ("{", "not a valid JSON object"),
            (r#"{"name":"a","cniVersion":"0.3.1"}"#, "field `plugins` is missing"),
            (r#"{"name":"a","cniVersion":"9.0","plugins":[{"type":"b"}]}"#, "field `cniVersion`"),
            (r#"{"name":"a","cniVersion":"0.3.1","plugins":[{}]}"#, "`plugins[0].type`"),
        ] {
            let error = installed(text, netpol_proto::SOCKET_PATH).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
