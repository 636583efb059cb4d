//! The objects that a command evaluates: those of files, those of a live cluster, or both.
//!
//! In: paths, and access to a cluster. Out: objects and findings. An object in a file replaces the one of the cluster.
//! Must not: evaluate policies.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnetwork::IpNetwork;
use netpol_policy::manifests::{self, Cause, FileCode, Manifests};
use netpol_policy::model::{Diagnostic, Object};
use netpol_policy::store::OwnNodeEgress;
use netpol_terminal::Terminal;

use crate::progress::Progress;
use crate::{cluster, expectations};

/// The objects to evaluate.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("objects").args(["files", "cluster"]).required(true).multiple(true))]
pub(super) struct InputArgs {
    /// Files and directories with objects (YAML or JSON); `-` is the standard input.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    pub(super) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

/// Access to a live cluster.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ClusterArgs {
    /// Read the objects of the cluster of kubectl's current context. Objects in files replace those of the cluster.
    #[arg(long)]
    cluster: bool,
    /// Kubeconfig file for --cluster [default: the file that kubectl uses].
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig for --cluster [default: its current context].
    #[arg(long, value_name = "NAME", requires = "cluster")]
    context: Option<String>,
}

impl ClusterArgs {
    /// The kubeconfig and its context.
    pub(super) fn access(&self) -> (Option<PathBuf>, Option<String>) {
        (self.kubeconfig.clone(), self.context.clone())
    }

    /// Whether the objects of the cluster are read.
    pub(super) const fn is_wanted(&self) -> bool {
        self.cluster
    }
}

/// The addresses of pods whose address is not known.
#[derive(Debug, Default, clap::Args)]
pub(super) struct PodNetworkArgs {
    /// Networks with the addresses of the pods that have none yet, such as those of a Deployment [default: any private network].
    #[arg(long = "pod-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub(super) pod_networks: Vec<IpNetwork>,
    /// How connections of pods to their own node are judged, `allow` or `judge`: as the agents' option of this name.
    #[arg(long, default_value_t, value_parser = own_node_egress())]
    pub(super) own_node_egress: OwnNodeEgress,
}

fn own_node_egress() -> impl TypedValueParser<Value = OwnNodeEgress> {
    let names = OwnNodeEgress::ALL.map(|(_, name)| name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<OwnNodeEgress>())
}

/// The objects and findings of files and of a cluster.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Objects and findings of the files. Not dropped, because the process ends after its command, and to free a million values
    /// one by one takes a tenth of its time.
    pub(super) manifests: ManuallyDrop<Manifests>,
    /// Objects of the cluster, without those that a file replaces.
    live: Vec<Object>,
    /// Findings on objects of the cluster.
    pub(super) live_diagnostics: Vec<Diagnostic>,
}

/// Reads the files that `-f` names, and with `--cluster` the objects of the cluster.
///
/// # Errors
/// The objects of the cluster cannot be listed. Problems with files are findings.
pub(super) fn read(
    paths: &[PathBuf],
    cluster: &ClusterArgs,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<Input> {
    let manifests = read_files(paths, terminal);
    let mut input = live(cluster, terminal)?;
    input.replace_by(&manifests);
    Ok(Input { manifests: ManuallyDrop::new(manifests), ..input })
}

/// Reads files only.
pub(super) fn read_files(paths: &[PathBuf], terminal: &mut Terminal<'_>) -> Manifests {
    let name = |path: &PathBuf| match path.to_str() {
        Some(manifests::STDIN) => "the standard input".to_owned(),
        _ => path.display().to_string(),
    };
    let names: Vec<_> = paths.iter().map(name).collect();
    let _until_read = Progress::start(format!("reading {}", names.join(", ")));
    manifests::read(paths, &mut *terminal.stdin)
}

fn live(cluster: &ClusterArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<Input> {
    let ClusterArgs { cluster, kubeconfig, context } = cluster;
    if !cluster {
        return Ok(Input::default());
    }
    let cluster::Live { objects, diagnostics, missing } =
        cluster::read(kubeconfig.as_deref(), context.as_deref())?;
    for problem in missing {
        terminal.complain(&problem);
    }
    Ok(Input { live: objects, live_diagnostics: diagnostics, ..Input::default() })
}

impl Input {
    /// The objects of files, and those of a cluster without what a file replaces.
    pub(super) fn new(
        manifests: Manifests,
        live: Vec<Object>,
        live_diagnostics: Vec<Diagnostic>,
    ) -> Self {
        let mut input = Self { live, live_diagnostics, ..Self::default() };
        input.replace_by(&manifests);
        Self { manifests: ManuallyDrop::new(manifests), ..input }
    }

    /// Removes the objects of the cluster that a file replaces.
    fn replace_by(&mut self, manifests: &Manifests) {
        let replaced: BTreeSet<_> =
            manifests.objects.iter().map(|read| read.object.object_ref()).collect();
        self.live.retain(|object| !replaced.contains(&object.object_ref()));
        self.live_diagnostics.retain(|diagnostic| !replaced.contains(&diagnostic.object));
    }

    /// Frees the objects of files, for a command that goes on.
    pub(super) fn free(self) {
        drop(ManuallyDrop::into_inner(self.manifests));
    }

    /// All objects: those of the cluster, then those of the files.
    pub(super) fn objects(&self) -> Vec<Object> {
        let in_files = self.manifests.objects.iter().map(|read| read.object.clone());
        self.live.iter().cloned().chain(in_files).collect()
    }

    /// All findings on objects.
    pub(super) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let in_files = self.manifests.findings.iter().filter_map(|finding| match &finding.cause {
            Cause::Object(diagnostic) => Some(diagnostic),
            Cause::File { .. } => None,
        });
        self.live_diagnostics.iter().chain(in_files)
    }

    /// All objects, with those of `changes` added, or in place of the objects with the same name.
    pub(super) fn objects_with(&self, changes: Vec<Object>) -> Vec<Object> {
        let replaced: BTreeSet<_> = changes.iter().map(Object::object_ref).collect();
        let mut objects = self.objects();
        objects.retain(|object| !replaced.contains(&object.object_ref()));
        objects.extend(changes);
        objects
    }

    /// Reports all findings on files and objects.
    pub(super) fn report_all_findings(&self, terminal: &mut Terminal<'_>) {
        for diagnostic in &self.live_diagnostics {
            terminal.complain(diagnostic);
        }
        report_findings(&self.manifests, terminal, |_| true);
    }
}

/// Whether a file or directory could not be read completely.
pub(super) fn is_unreadable(manifests: &Manifests) -> bool {
    manifests.findings.iter().any(|finding| match &finding.cause {
        Cause::File { code, message: _ } => {
            matches!(code, FileCode::Unreadable | FileCode::Syntax | FileCode::TooLarge)
        }
        Cause::Object(_) => false,
    })
}

/// Whether objects or parts of objects are missing that the author has written; the result can then be wrong.
pub(super) fn is_incomplete(manifests: &Manifests) -> bool {
    manifests.findings.iter().any(|finding| match &finding.cause {
        Cause::File { code, message: _ } => match code {
            FileCode::Unreadable
            | FileCode::Syntax
            | FileCode::TooLarge
            | FileCode::RepeatedKey
            | FileCode::InvalidValue
            | FileCode::NoKind
            | FileCode::UnknownKind
            | FileCode::NoManifest => true,
            FileCode::ForeignPolicy => false,
        },
        Cause::Object(_) => false,
    })
}

/// Objects that are not evaluated, by API version and kind; `None` if there are none.
pub(super) fn not_evaluated(manifests: &Manifests) -> Option<String> {
    let mut n_by_kind: BTreeMap<&str, usize> = BTreeMap::new();
    // `netpol test` evaluates these.
    let test = format!("{} {}", expectations::API_VERSION, expectations::KIND);
    for read in manifests.unsupported.iter().filter(|read| read.object != test) {
        *n_by_kind.entry(&read.object).or_default() += 1;
    }
    let kinds: Vec<String> = n_by_kind.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    (!kinds.is_empty()).then(|| format!("not evaluated: {}", kinds.join(", ")))
}

/// What is shown on a terminal while objects are evaluated.
pub(super) fn evaluating(n_objects: usize) -> String {
    format!("evaluating {n_objects} objects")
}

/// Says that verdicts may depend on the labels of a namespace that the input does not contain.
pub(super) fn assumption(namespace: &str) -> String {
    format!(
        "namespace {namespace} has no Namespace object: its only label is assumed to be its name"
    )
}

/// Reports the findings on files, and those on objects for which `wanted` is true.
pub(super) fn report_findings(
    manifests: &Manifests,
    terminal: &mut Terminal<'_>,
    wanted: impl Fn(&Diagnostic) -> bool,
) {
    for finding in &manifests.findings {
        let is_wanted = match &finding.cause {
            Cause::File { .. } => true,
            Cause::Object(diagnostic) => wanted(diagnostic),
        };
        if is_wanted {
            terminal.complain(finding);
        }
    }
    if let Some(objects) = not_evaluated(manifests) {
        terminal.complain(&objects);
    }
}
