//! An explanation as text for people.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::SocketAddr;

use super::explanation::{DirectionExplanation, Explanation, Packets, RuleExplanation};
use crate::resolve::{MissReason, PolicyRef};

/// The largest number of policies, and of rules of one kind, of a folded answer. A list with one more is not folded.
const MAX_SHOWN: usize = 5;

/// The indentation of the second line of a sentence, in addition to that of the first.
const CONTINUED: usize = 4;

/// How an explanation is written.
#[derive(Clone, Copy, Debug)]
pub struct TextForm {
    /// Whether long lists of policies and rules are folded.
    pub details: Details,
    /// The number of columns at which sentences are wrapped; `None` for no limit.
    pub width: Option<usize>,
    /// Whether verdicts have colours.
    pub paint: Paint,
}

impl TextForm {
    /// Everything, without colours, each sentence on one line.
    pub const WHOLE: Self = Self { details: Details::All, width: None, paint: Paint::Plain };
}

/// How much of a long answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// What is nearest to the connection; the rest is counted.
    Folded,
    /// Everything.
    All,
}

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Without.
    Plain,
    /// With the colours of a terminal.
    Coloured,
}

impl Explanation {
    /// Writes the explanation for people, as several lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_text(&self, form: TextForm, out: &mut dyn Write) -> io::Result<()> {
        write_text(self, &mut Page { form, out })
    }
}

/// The colour of a part of a line.
#[derive(Clone, Copy)]
enum Colour {
    None,
    Good,
    Bad,
    Open,
}

impl Colour {
    /// The sequence that begins it on a terminal.
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Good => Some("\u{1b}[32m"),
            Self::Bad => Some("\u{1b}[31m"),
            Self::Open => Some("\u{1b}[33m"),
        }
    }
}

/// Lines of text in a form.
struct Page<'a> {
    form: TextForm,
    out: &'a mut dyn Write,
}

impl Page<'_> {
    fn blank(&mut self) -> io::Result<()> {
        writeln!(self.out)
    }

    /// Writes a sentence without colours.
    fn plain(&mut self, indent: usize, text: &str) -> io::Result<()> {
        self.line(indent, &[(Colour::None, text)])
    }

    /// Writes a sentence, wrapped at spaces. The parts are separated by spaces.
    fn line(&mut self, indent: usize, parts: &[(Colour, &str)]) -> io::Result<()> {
        write!(self.out, "{:indent$}", "")?;
        let mut column = indent;
        let words = parts.iter().flat_map(|(colour, text)| {
            let words = text.split(' ').filter(|word| !word.is_empty());
            words.map(move |word| (*colour, word))
        });
        for (at, (colour, word)) in words.enumerate() {
            let n_letters = word.chars().count();
            let end = column.saturating_add(n_letters).saturating_add(1);
            if at > 0 && self.form.width.is_some_and(|width| end > width) {
                column = indent.saturating_add(CONTINUED);
                write!(self.out, "\n{:column$}", "")?;
            } else if at > 0 {
                write!(self.out, " ")?;
                column = column.saturating_add(1);
            }
            match colour.code() {
                Some(code) if self.form.paint == Paint::Coloured => {
                    write!(self.out, "{code}{word}\u{1b}[0m")?;
                }
                Some(_) | None => write!(self.out, "{word}")?,
            }
            column = column.saturating_add(n_letters);
        }
        writeln!(self.out)
    }

    /// The number of items that are written of a list.
    const fn n_shown(&self, n_items: usize) -> usize {
        match self.form.details {
            Details::Folded if n_items > MAX_SHOWN + 1 => MAX_SHOWN,
            Details::Folded | Details::All => n_items,
        }
    }
}

fn write_text(explanation: &Explanation, page: &mut Page<'_>) -> io::Result<()> {
    let Explanation {
        from,
        to,
        port,
        protocol,
        is_allowed,
        is_possible,
        problem,
        service,
        ranges,
        connection,
        published,
        egress,
        ingress,
        diagnostics,
    } = explanation;
    let verdict = match (problem, is_allowed, is_possible) {
        (Some(_), _, _) => (Colour::Open, "impossible"),
        (None, true, _) => (Colour::Good, "allowed"),
        (None, false, true) => (Colour::Open, "depends on an address that is not known"),
        (None, false, false) => (Colour::Bad, "denied"),
    };
    let question = format!("{from} -> {to} {port}/{protocol}:");
    page.line(0, &[(Colour::None, &question), verdict])?;
    for sentence in [problem, service, ranges].into_iter().flatten() {
        page.plain(2, sentence)?;
    }
    if let Some(Packets { source, destination, port }) = connection {
        let destination = match destination.parse() {
            Ok(address) => SocketAddr::new(address, *port).to_string(),
            Err(_) => format!("{destination}, port {port}"),
        };
        page.plain(2, &format!("packets: {source} -> {destination}"))?;
        for sentence in published {
            page.plain(2, sentence)?;
        }
        write_direction(egress.as_ref(), "egress:", from, page)?;
        write_direction(ingress.as_ref(), "ingress:", to, page)?;
    }
    if !diagnostics.is_empty() {
        page.blank()?;
        page.plain(0, "findings on these policies:")?;
        for diagnostic in diagnostics {
            page.line(2, &[(Colour::Open, "!"), (Colour::None, diagnostic)])?;
        }
    }
    Ok(())
}

fn write_direction(
    explanation: Option<&DirectionExplanation>,
    direction: &str,
    name: &str,
    page: &mut Page<'_>,
) -> io::Result<()> {
    page.blank()?;
    let Some(explanation) = explanation else {
        let summary = format!("policies do not apply to {name}");
        let parts =
            [(Colour::None, direction), (Colour::Good, "allowed:"), (Colour::None, &summary)];
        return page.line(0, &parts);
    };
    let DirectionExplanation {
        pod: _,
        direction: _,
        verdict: _,
        is_allowed,
        summary,
        tier: _,
        isolating,
        cluster_policies,
        denying,
        passing,
        allowing,
        possible,
        misses,
    } = explanation;
    let (verdict, reason) = summary.split_once(' ').unwrap_or((summary, ""));
    let colour = match (is_allowed, possible.is_empty()) {
        (true, _) => Colour::Good,
        (false, true) => Colour::Bad,
        (false, false) => Colour::Open,
    };
    page.line(0, &[(Colour::None, direction), (colour, verdict), (Colour::None, reason)])?;
    let near = speaking(explanation);
    write_policies("isolated by", "isolate", isolating, &near, page)?;
    write_policies("subject of", "have rules for it", cluster_policies, &near, page)?;
    write_rules((Colour::Open, ">"), "rules pass it on", passing, page)?;
    write_rules((Colour::Bad, "x"), "rules deny it", denying.as_slice(), page)?;
    write_rules((Colour::Good, "+"), "rules allow it", allowing, page)?;
    write_rules((Colour::Open, "?"), "rules allow it for some addresses", possible, page)?;
    write_rules((Colour::None, "-"), "rules do not match", misses, page)
}

/// The policies with a rule that matches the peer.
fn speaking(explanation: &DirectionExplanation) -> BTreeSet<&PolicyRef> {
    let DirectionExplanation { denying, passing, allowing, possible, misses, .. } = explanation;
    let near = misses.iter().filter(|rule| match rule.miss {
        Some(MissReason::Port | MissReason::Precedence | MissReason::Capacity) | None => true,
        Some(MissReason::Peer | MissReason::Both) => false,
    });
    let matching = denying.iter().chain(passing).chain(allowing).chain(possible);
    matching.chain(near).map(|rule| &rule.rule.policy).collect()
}

/// The names of policies; of many, their number and the names of those that speak of the peer.
fn write_policies(
    heading: &str,
    verb: &str,
    policies: &[PolicyRef],
    speaking: &BTreeSet<&PolicyRef>,
    page: &mut Page<'_>,
) -> io::Result<()> {
    let names = |policies: &[&PolicyRef]| {
        let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    let all: Vec<&PolicyRef> = policies.iter().collect();
    if all.is_empty() {
        return Ok(());
    }
    if page.n_shown(all.len()) == all.len() {
        return page.plain(2, &format!("{heading} {}", names(&all)));
    }
    let near: Vec<&PolicyRef> = all.iter().copied().filter(|of| speaking.contains(of)).collect();
    let shown = near.get(..page.n_shown(near.len())).unwrap_or_default();
    let (n_all, n_near) = (all.len(), near.len());
    let verb_near = if n_near == 1 { "speaks" } else { "speak" };
    let what = match n_near.saturating_sub(shown.len()) {
        _ if near.is_empty() => "none speaks of this peer".to_owned(),
        0 => format!("{n_near} {verb_near} of this peer: {}", names(shown)),
        n_more => format!("{n_near} {verb_near} of this peer: {}, {n_more} more", names(shown)),
    };
    page.plain(2, &format!("{n_all} policies {verb}; {what}"))
}

/// The sentences on rules; of many, the first ones and the number of the others.
fn write_rules(
    (colour, mark): (Colour, &str),
    effect: &str,
    rules: &[RuleExplanation],
    page: &mut Page<'_>,
) -> io::Result<()> {
    let shown = rules.get(..page.n_shown(rules.len())).unwrap_or_default();
    for rule in shown {
        page.line(2, &[(colour, mark), (Colour::None, &rule.sentence)])?;
    }
    match rules.len().saturating_sub(shown.len()) {
        0 => Ok(()),
        n_more => {
            let more = format!("{n_more} more {effect} (--all shows them)");
            page.line(2, &[(colour, mark), (Colour::None, &more)])
        }
    }
}
