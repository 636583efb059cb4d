//! Scenarios: the semantics of the API, each in one sentence and one cluster.
//!
//! In: `tests/scenarios/*.yaml` and `tests/scenarios/cluster_policies/*.yaml`. Out: how each oracle differs from a scenario's own table. [`Scenario`] is the
//! format of a file; [`Row`] documents how ends and ports are written.

mod check;
mod question;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::repository;

pub use check::{Reasons, check_oracle, check_reference, check_wire};

/// One file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The behaviour, as a sentence.
    pub about: String,
    /// The API field, and the item of SEMANTICS.md in brackets.
    pub spec: String,
    /// The features of the taxonomy that it covers.
    pub features: Vec<String>,
    /// A file in `clusters/` with initial objects, without its extension.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Initial objects: YAML documents.
    #[serde(default)]
    pub objects: String,
    /// Connectivity of the initial state.
    #[serde(default)]
    pub connectivity: Vec<Row>,
    /// Later states.
    #[serde(default)]
    pub steps: Vec<Change>,
    /// The file's name without its extension.
    #[serde(skip)]
    pub name: String,
}

/// A later state of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The change, as a sentence.
    pub about: String,
    /// New and changed objects: YAML documents.
    #[serde(default)]
    pub objects: String,
    /// Deleted objects: `Pod x/a`.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Connectivity of this state.
    pub connectivity: Vec<Row>,
}

/// Connections with one expectation: from each of `from` to each of `to` on each of `port`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `namespace/pod`, `namespace/pod@address`, an address, or `host`: the peer's node.
    pub from: OneOrMany,
    /// Likewise.
    pub to: OneOrMany,
    /// `TCP/80`, `UDP/dns`, `ICMP` for an echo, or `other/47` for a protocol number.
    pub port: OneOrMany,
    /// The virtual address of a Service through which the source reaches the destination.
    #[serde(default)]
    pub via: Option<std::net::IpAddr>,
    /// The expected outcome.
    pub expect: Expectation,
    /// The expected reason of the deciding end.
    #[serde(default)]
    pub because: Option<String>,
}

/// A text, or a list of texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    fn items(&self) -> &[String] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }
}

/// The outcome of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    /// It is made.
    Pass,
    /// It is not.
    Drop,
}

/// One state of a scenario's cluster.
#[derive(Clone, Debug)]
pub struct State<'s> {
    /// The change that led to it, as a sentence.
    pub about: &'s str,
    /// All objects.
    pub objects: Vec<Value>,
    /// Its connectivity.
    pub connectivity: &'s [Row],
}

impl Scenario {
    /// The states that the cluster goes through.
    ///
    /// # Errors
    /// Objects cannot be read, or an object to be deleted does not exist.
    pub fn states(&self) -> Result<Vec<State<'_>>> {
        let mut objects = BTreeMap::new();
        if let Some(cluster) = &self.cluster {
            let path = folder().join("clusters").join(format!("{cluster}.yaml"));
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            put(&mut objects, &text)?;
        }
        put(&mut objects, &self.objects)?;
        let state = |about, objects: &BTreeMap<_, _>, connectivity| State {
            about,
            objects: objects.values().cloned().collect(),
            connectivity,
        };
        let mut states = vec![state(self.about.as_str(), &objects, self.connectivity.as_slice())];
        for change in &self.steps {
            for name in &change.remove {
                ensure!(objects.remove(name).is_some(), "{}: there is no {name}", change.about);
            }
            put(&mut objects, &change.objects)?;
            states.push(state(&change.about, &objects, &change.connectivity));
        }
        Ok(states)
    }
}

impl Scenario {
    /// The state after this step as a scenario of its own.
    ///
    /// # Errors
    /// As [`Scenario::states`].
    pub fn alone(&self, step: usize) -> Result<Self> {
        let states = self.states()?;
        let state = states.get(step + 1).context("no such step")?;
        let texts: Vec<String> =
            state.objects.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        Ok(Self {
            about: state.about.to_owned(),
            cluster: None,
            objects: texts.join("\n---\n"),
            connectivity: state.connectivity.to_vec(),
            steps: Vec::new(),
            ..self.clone()
        })
    }
}

/// Adds objects, replacing those of the same kind and name.
fn put(objects: &mut BTreeMap<String, Value>, text: &str) -> Result<()> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("reading objects")?;
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let part = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let name = part("/metadata/name")
            .with_context(|| format!("an object without a name: {object}"))?;
        let name =
            part("/metadata/namespace").map_or_else(|| name.into(), |ns| format!("{ns}/{name}"));
        let kind = part("/kind").context("an object without a kind")?;
        objects.insert(format!("{kind} {name}"), object);
    }
    Ok(())
}

/// Where the scenarios are.
pub fn folder() -> PathBuf {
    repository::path("tests/scenarios")
}

/// All scenarios, by name; that of a cluster policy begins with the name of its folder.
///
/// # Errors
/// When a file is no scenario.
pub fn all() -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for inner in ["", "cluster_policies/"] {
        for entry in fs::read_dir(folder().join(inner))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let scenario =
                    read(&path).with_context(|| format!("reading {}", path.display()))?;
                scenarios.push(Scenario { name: format!("{inner}{}", scenario.name), ..scenario });
            }
        }
    }
    scenarios.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(scenarios)
}

fn read(path: &Path) -> Result<Scenario> {
    let mut scenario: Scenario = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
    let name = path.file_stem().and_then(|name| name.to_str()).context("no name")?;
    name.clone_into(&mut scenario.name);
    ensure!(!scenario.features.is_empty(), "has no features of the taxonomy");
    let rows = scenario.steps.iter().map(|step| step.connectivity.len()).sum::<usize>();
    ensure!(scenario.connectivity.len() + rows > 0, "has no connectivity");
    Ok(scenario)
}
