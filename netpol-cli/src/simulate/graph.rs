//! Connections between rows as a graph, for Graphviz and Mermaid.
//!
//! In: pairs of rows with the labels of their ports. Out: text in which names cannot end a label. Must not: evaluate policies.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::rows::Row;
use super::table::Change;

/// The connections between rows, with their ports.
#[derive(Default)]
pub(super) struct Graph {
    edges: BTreeMap<(usize, usize, Option<Change>), BTreeSet<String>>,
}

impl Graph {
    /// Adds the connections between two rows, by their positions. An edge for each effect.
    pub(super) fn add(
        &mut self,
        (from, to): (usize, usize),
        ports: String,
        change: Option<Change>,
    ) {
        self.edges.entry((from, to, change)).or_default().insert(ports);
    }

    /// The rows with an edge, if the graph is of changes; else all.
    fn nodes<'a>(&self, rows: &'a [Row], shown: Nodes) -> impl Iterator<Item = (usize, &'a Row)> {
        let connected: BTreeSet<usize> =
            self.edges.keys().flat_map(|(from, to, _)| [*from, *to]).collect();
        rows.iter().enumerate().filter(move |(at, _)| shown == Nodes::All || connected.contains(at))
    }

    pub(super) fn write_dot(
        &self,
        rows: &[Row],
        shown: Nodes,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        writeln!(out, "digraph netpol {{\n  rankdir=LR;\n  node [shape=box];")?;
        for (number, row) in self.nodes(rows, shown) {
            writeln!(out, "  n{number} [label={}];", quoted(&row.name))?;
        }
        for ((from, to, change), ports) in &self.edges {
            let ports: Vec<String> = ports.iter().map(|ports| escaped(ports)).collect();
            let colour = match change {
                Some(Change::Opens) => ", color=green",
                Some(Change::Closes) => ", color=red, style=dashed",
                None => "",
            };
            writeln!(out, "  n{from} -> n{to} [label=\"{}\"{colour}];", ports.join("\\n"))?;
        }
        writeln!(out, "}}")
    }

    pub(super) fn write_mermaid(
        &self,
        rows: &[Row],
        shown: Nodes,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        writeln!(out, "flowchart LR")?;
        for (number, row) in self.nodes(rows, shown) {
            writeln!(out, "  n{number}[\"{}\"]", entities(&row.name))?;
        }
        for ((from, to, change), ports) in &self.edges {
            let ports: Vec<String> = ports.iter().map(|ports| entities(ports)).collect();
            let arrow = match change {
                Some(Change::Opens) => "==>",
                Some(Change::Closes) => "-.->",
                None => "-->",
            };
            writeln!(out, "  n{from} {arrow}|\"{}\"| n{to}", ports.join("<br/>"))?;
        }
        Ok(())
    }
}

/// The rows that a graph contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nodes {
    All,
    /// Those with an edge.
    Connected,
}

/// A string of the DOT language. A backslash would begin an escape sequence.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

/// A label of Mermaid: HTML with entity codes, which begin with `#`.
fn entities(text: &str) -> String {
    let code = |letter: char| match letter {
        '"' | '#' | '&' | '<' | '>' | '\\' | '`' => format!("#{};", u32::from(letter)),
        '\n' => " ".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_a_label() {
        let rows = [Row { name: "x/a\"];\\".to_owned(), members: vec![0] }];
        let mut graph = Graph::default();
        graph.add((0, 0), "80/TCP".to_owned(), None);
        let (mut dot, mut mermaid) = (Vec::new(), Vec::new());
        graph.write_dot(&rows, Nodes::All, &mut dot).unwrap();
        graph.write_mermaid(&rows, Nodes::All, &mut mermaid).unwrap();
        let text = String::from_utf8(dot).unwrap();
        assert!(text.contains(r#"[label="x/a\"];\\"];"#), "{text}");
        let text = String::from_utf8(mermaid).unwrap();
        assert!(text.contains(r#"n0["x/a#34;];#92;"]"#), "{text}");
    }
}
