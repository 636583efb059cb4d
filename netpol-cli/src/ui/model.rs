//! The objects that the page shows, and what follows from them.
//!
//! In: a source, and questions of the page. Out: [`answers`](super::answers). Must not: change an object, or keep more than
//! [`MAX_VIEWS`] edited versions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use ipnetwork::IpNetwork;
use netpol_common::ids::Direction;
use netpol_policy::lint::Scope;
use netpol_policy::manifests::{self, Manifests};
use netpol_policy::model::{Diagnostic, Object, ObjectRef, PolicyMode, Transport};
use netpol_policy::simulate::{
    Engine, Explanation, OfflineCluster, PodOrIp, PortChoice, Probe, TextForm, assumed_namespaces,
    resolve, without_represented,
};
use netpol_policy::store::OwnNodeEgress;

use super::answers::{
    ChangedPair, Changes, ExplainQuestion, Explained, ExplainedConnection, Overview, PolicyName,
    PolicyText, RowSummary, TextFinding, WhatIf, WhatIfQuestion,
};
use super::source::{Source, Text};
use super::{policies, rows};
use crate::input::{self, Input};
use crate::lint::{self, Entry};
use crate::simulate::{Matrix, OfPair, Others};

/// Views that can be asked about: of the objects as they are, and of edited policies.
const MAX_VIEWS: usize = 6;

/// The name of an edited text in findings.
const EDITED: &str = "edited.yaml";

/// What is shown besides the pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// Addresses outside the cluster.
    pub(super) addresses: Vec<IpAddr>,
    /// The networks of pods without an address.
    pub(super) pod_networks: Vec<IpNetwork>,
    /// How connections of pods to their own node are judged.
    pub(super) own_node_egress: OwnNodeEgress,
}

/// The objects, and the views of them that the page may ask about.
pub(super) struct Model {
    source: Source,
    options: Options,
    input: Input,
    problems: Vec<String>,
    /// The matrix of these objects, until it is asked for.
    prepared: Option<Overview>,
    /// By number, the newest last.
    views: VecDeque<(u64, View)>,
    n_views: u64,
}

/// The verdicts on one set of objects.
struct View {
    matrix: Matrix,
    diagnostics: Vec<Diagnostic>,
}

impl Model {
    /// Without objects so far.
    pub(super) fn new(source: Source, options: Options) -> Self {
        let (views, problems) = Default::default();
        let input = Input::default();
        Self { source, options, input, problems, prepared: None, views, n_views: 0 }
    }

    /// Reads the objects, again if there are some. Returns the number of problems.
    ///
    /// # Errors
    /// The source cannot be read; the objects are those of before.
    pub(super) fn load(&mut self) -> anyhow::Result<usize> {
        let (input, mut problems) = self.source.read()?;
        let assumed = assumed_namespaces(&input.objects());
        problems.extend(assumed.iter().map(|namespace| input::assumption(namespace)));
        std::mem::replace(&mut self.input, input).free();
        self.problems = problems;
        self.prepared = None;
        Ok(self.problems.len())
    }

    /// Computes the matrix while the browser starts. An error is left to the question that follows.
    pub(super) fn prepare(&mut self) {
        self.prepared = self.overview().ok();
    }

    /// The matrix of the objects as they are.
    ///
    /// # Errors
    /// The engine fails.
    pub(super) fn overview(&mut self) -> anyhow::Result<Overview> {
        if let Some(prepared) = self.prepared.take() {
            return Ok(prepared);
        }
        let matrix = self.matrix(self.input.objects(), None)?;
        self.show(matrix)
    }

    fn cluster(&self, objects: Vec<Object>) -> anyhow::Result<OfflineCluster> {
        let Options { pod_networks, own_node_egress, addresses: _ } = &self.options;
        let mut cluster = OfflineCluster::new(Engine::compiled, pod_networks.clone())
            .with_own_node_egress(*own_node_egress);
        cluster.set(objects)?;
        Ok(cluster)
    }

    /// The matrix of these objects, compared with those `before`.
    fn matrix(&self, objects: Vec<Object>, before: Option<Vec<Object>>) -> anyhow::Result<Matrix> {
        let enforced = enforced(&objects);
        let now = self.cluster(objects)?;
        let before = before.map(|before| self.cluster(before)).transpose()?;
        let enforced = enforced.map(|enforced| self.cluster(enforced)).transpose()?;
        let pods = now.pods().into_iter().chain(before.iter().flat_map(OfflineCluster::pods));
        let pods: BTreeSet<PodOrIp> = pods.collect();
        let addresses = self.options.addresses.iter().copied().map(PodOrIp::Address);
        let peers = pods.into_iter().chain(addresses).collect();
        Ok(Matrix::new(now, Others { before, enforced }, peers, Vec::new()))
    }

    /// The data of a matrix, which later questions can name.
    fn show(&mut self, mut matrix: Matrix) -> anyhow::Result<Overview> {
        let pairs = matrix.pairs()?;
        let mut patterns: BTreeMap<OfPair, usize> = BTreeMap::new();
        let mut cells = Vec::with_capacity(pairs.len());
        for row in pairs {
            let cells_of_row = row.into_iter().map(|pair| {
                let n_known = patterns.len();
                *patterns.entry(pair).or_insert(n_known)
            });
            cells.push(cells_of_row.collect());
        }
        let mut in_order: Vec<(usize, OfPair)> =
            patterns.into_iter().map(|(pattern, at)| (at, pattern)).collect();
        in_order.sort_by_key(|(at, _)| *at);
        let patterns = in_order.into_iter().map(|(_, pattern)| rows::verdicts(&pattern)).collect();
        let cluster = matrix.cluster();
        let findings = cluster.findings();
        let mut problems = self.problems.clone();
        problems.extend(findings.iter().map(ToString::to_string));
        let state = cluster.state();
        let rows: Vec<RowSummary> =
            matrix.rows().iter().map(|row| rows::summary(&matrix, row)).collect();
        let n_pods = rows.iter().filter(|row| row.namespace.is_some()).map(|row| row.n_pods).sum();
        self.n_views += 1;
        let overview = Overview {
            view: self.n_views,
            source: self.source.name(),
            is_live: self.source.is_live(),
            n_pods,
            n_namespaces: state.namespaces().count(),
            problems,
            policies: policies::summaries(state),
            rows,
            patterns,
            cells,
            changes: None,
        };
        let diagnostics = self.input.diagnostics().cloned().chain(findings).collect();
        self.views.push_back((self.n_views, View { matrix, diagnostics }));
        if self.views.len() > MAX_VIEWS {
            drop(self.views.pop_front());
        }
        Ok(overview)
    }

    /// Why a connection is allowed or denied.
    ///
    /// # Errors
    /// The view is gone, or there is no such end.
    pub(super) fn explain(&self, question: &ExplainQuestion) -> anyhow::Result<Explained> {
        let ExplainQuestion { view, from, to, port, protocol } = question;
        let found = self.views.iter().find(|(number, _)| number == view);
        let (_, View { matrix, diagnostics }) =
            found.context("these objects are no longer known: reload the page")?;
        let cluster = matrix.cluster();
        let end = |text: &str| {
            let found = resolve(cluster.state(), text, None);
            found.map_err(|unknown| anyhow::Error::msg(unknown.to_string()))
        };
        let transport = Transport::from_argument(protocol).map_err(anyhow::Error::msg)?;
        let port = PortChoice::from_argument(port).map_err(anyhow::Error::msg)?;
        let probe = Probe { from: end(from)?, to: end(to)?, port, transport };
        let explain = |probe: &Probe| connection(&cluster.explain(probe, diagnostics));
        let families = cluster.of_each_family(&probe);
        let mut connections = families.iter().map(explain).collect::<anyhow::Result<Vec<_>>>()?;
        let is_same = |one: &ExplainedConnection, other: &ExplainedConnection| {
            (one.verdict, &one.policies) == (other.verdict, &other.policies)
        };
        if let [first, rest @ ..] = connections.as_slice()
            && rest.iter().all(|other| is_same(first, other))
        {
            connections = vec![explain(&probe)?];
        }
        Ok(Explained { connections })
    }

    /// The text of a policy.
    ///
    /// # Errors
    /// There is no such policy, or its text cannot be read.
    pub(super) fn policy(&self, name: &PolicyName) -> anyhow::Result<PolicyText> {
        let policy = self.known(name)?;
        let Text { text, place } = self.source.text(&self.input, &policy)?;
        let edited = manifests::parse(EDITED, &text);
        let rules = edited.objects.iter().flat_map(|read| lines(&edited, &read.object)).collect();
        let (_, findings) = self.apply(edited, None);
        Ok(PolicyText { text, place, rules, findings })
    }

    fn known(&self, name: &PolicyName) -> anyhow::Result<ObjectRef> {
        let policy = policies::reference(name).context("no kind of policy")?;
        let objects = self.input.objects();
        if !objects.iter().any(|object| object.object_ref() == policy) {
            bail!("there is no {policy}");
        }
        Ok(policy)
    }

    /// What changes if this text is applied.
    ///
    /// # Errors
    /// There is no policy to delete, or the engine fails.
    pub(super) fn what_if(&mut self, question: &WhatIfQuestion) -> anyhow::Result<WhatIf> {
        let WhatIfQuestion { text, deleted } = question;
        let deleted = deleted.as_ref().map(|name| self.known(name)).transpose()?;
        let edited = manifests::parse(EDITED, if deleted.is_some() { "" } else { text });
        let is_unreadable = input::is_incomplete(&edited);
        let (objects, findings) = self.apply(edited, deleted.as_ref());
        if is_unreadable {
            return Ok(WhatIf { findings, overview: None });
        }
        let matrix = self.matrix(objects, Some(self.input.objects()))?;
        let mut overview = self.show(matrix)?;
        let view = self.views.back_mut().context("no view")?;
        let (pairs, text, totals) = view.1.matrix.all_changes()?;
        let pairs = pairs.into_iter().map(|of| ChangedPair {
            from: of.pair.0,
            to: of.pair.1,
            change: of.change,
            ports: of.ports,
        });
        overview.changes = Some(Changes {
            n_opened: totals.n_opened,
            n_closed: totals.n_closed,
            text,
            pairs: pairs.collect(),
        });
        Ok(WhatIf { findings, overview: Some(overview) })
    }

    /// All objects after an edited text was applied and a policy deleted, and the findings on the text.
    fn apply(
        &self,
        edited: Manifests,
        deleted: Option<&ObjectRef>,
    ) -> (Vec<Object>, Vec<TextFinding>) {
        let mut others = self.input.objects();
        others.retain(|object| Some(&object.object_ref()) != deleted);
        let edited = Input::new(edited, others, Vec::new());
        let objects = edited.objects();
        let scope = if self.source.is_live() || lint::has_every_namespace(&objects) {
            Scope::Complete
        } else {
            Scope::Partial
        };
        let entries = lint::entries(&edited, without_represented(objects.clone()), scope);
        let findings = entries.into_iter().filter_map(finding).collect();
        edited.free();
        (objects, findings)
    }
}

/// The objects with all policies enforced; `None` if all are.
fn enforced(objects: &[Object]) -> Option<Vec<Object>> {
    let mode = |object: &mut Object| match object {
        Object::Policy(policy) => std::mem::take(&mut policy.mode),
        Object::ClusterPolicy(policy) => std::mem::take(&mut policy.mode),
        Object::Pod(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_) => {
            PolicyMode::Enforce
        }
    };
    let mut objects = objects.to_vec();
    let n_audited = objects.iter_mut().map(mode).filter(|mode| *mode == PolicyMode::Audit).count();
    (n_audited > 0).then_some(objects)
}

/// The line of each rule of a policy.
fn lines(edited: &Manifests, object: &Object) -> Vec<(String, usize)> {
    let indices: Vec<(Direction, usize)> = match object {
        Object::Policy(policy) => Direction::ALL
            .into_iter()
            .flat_map(|of| policy.rules(of).iter().map(move |rule| (of, rule.index)))
            .collect(),
        Object::ClusterPolicy(policy) => Direction::ALL
            .into_iter()
            .flat_map(|of| policy.rules(of).iter().map(move |rule| (of, rule.rule.index)))
            .collect(),
        Object::Pod(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_) => Vec::new(),
    };
    let object = object.object_ref();
    let line = |(direction, index)| {
        let rule = format!("{direction}[{index}]");
        let location = edited.location_of(&object, &format!("spec.{rule}"))?;
        Some((rule, location.line))
    };
    indices.into_iter().filter_map(line).collect()
}

/// A finding on the edited text; `None` for one on another object.
fn finding(entry: Entry) -> Option<TextFinding> {
    let location = entry.location.filter(|location| location.file.to_str() == Some(EDITED))?;
    let field = entry.field.filter(|field| !field.is_empty());
    Some(TextFinding {
        line: location.line,
        level: entry.level,
        code: entry.code,
        name: entry.name,
        message: match field {
            Some(field) => format!("{field} {}", entry.message),
            None => entry.message,
        },
        advice: entry.advice,
    })
}

fn connection(explanation: &Explanation) -> anyhow::Result<ExplainedConnection> {
    let mut text = Vec::new();
    explanation.write_text(TextForm::WHOLE, &mut text).map_err(|error: io::Error| error)?;
    let verdict = match explanation {
        Explanation { problem: Some(_), .. } => "impossible",
        Explanation { is_allowed: true, .. } => "allowed",
        Explanation { is_possible: true, .. } => "depends",
        Explanation { .. } => "denied",
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(ExplainedConnection { verdict, text, policies: policies::named(explanation) })
}
