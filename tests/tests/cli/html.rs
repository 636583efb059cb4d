//! `-o html`: pages that load nothing, read by an XML parser. Their script is not run here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use netpol_lab::repository;
use roxmltree::{Document, Node, ParsingOptions};

use crate::output_in;

/// The page of a command, and its details.
fn page(directory: &Path, command: &str) -> (String, Vec<String>) {
    let output = output_in(directory, command, "");
    let (code, rest) = output.split_once('\n').unwrap();
    assert_eq!(code, "exit code 0", "{output}");
    let page = rest.split_inclusive("</html>\n").next().unwrap();
    let (before, after) = page.split_once("id=\"details\">").unwrap();
    let (details, after) = after.split_once("</script>").unwrap();
    let (between, end) = after.split_once("<script>").unwrap();
    let (_, end) = end.split_once("</script>").unwrap();
    // Style and script are not XML.
    let (head, rest) = before.split_once("<style>").unwrap();
    let (_, rest) = rest.split_once("</style>").unwrap();
    let text = format!("{head}{rest}id=\"details\"></script>{between}{end}");
    (text, serde_json::from_str(details).unwrap())
}

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap()
}

fn elements<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.descendants().filter(move |node| node.has_tag_name(name))
}

fn text_of(node: Node<'_, '_>) -> String {
    node.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).collect()
}

/// The rows of the table; each cell with its class and the reason.
fn table(document: &Document<'_>, details: &[String]) -> Vec<Vec<(String, String, String)>> {
    let rows = elements(document.root_element(), "tr");
    let cell = |cell: Node<'_, '_>| {
        let reason = cell.attribute("data-d").map(|number| number.parse::<usize>().unwrap());
        let reason = reason.map(|number| details.get(number).cloned().unwrap()).unwrap_or_default();
        (text_of(cell), cell.attribute("class").unwrap_or_default().to_owned(), reason)
    };
    rows.map(|row| row.children().filter(Node::is_element).map(cell).collect()).collect()
}

#[test]
fn a_page_loads_nothing_and_has_a_cell_for_each_pair() {
    let directory = repository::path("deploy/tested");
    let (text, details) = page(&directory, "netpol simulate -f DIR -o html");
    let document = parse(&text);
    let root = document.root_element();
    let meta: BTreeMap<_, _> = elements(root, "meta")
        .filter_map(|meta| Some((meta.attribute("http-equiv")?, meta.attribute("content")?)))
        .collect();
    let policy = meta["Content-Security-Policy"];
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let names: BTreeSet<&str> =
        root.descendants().flat_map(|node| node.attributes()).map(|found| found.name()).collect();
    for name in ["src", "href", "action", "style", "onclick"] {
        assert!(!names.contains(name), "{name}");
    }
    let rows = table(&document, &details);
    let n_columns = rows[0].len();
    assert_eq!((rows.len(), n_columns), (5, 4));
    assert!(rows.iter().all(|row| row.len() == n_columns));
    let redis = rows[0].iter().position(|(name, ..)| name == "shop/sts/redis").unwrap();
    let front = rows.iter().find(|row| row[0].0 == "shop/deploy/front").unwrap();
    let (ports, class, reason) = &front[redis];
    assert_eq!((ports.as_str(), class.as_str()), ("6379", "some"));
    assert_eq!(
        reason,
        "6379/TCP allowed: shop/redis ingress[0] allows TCP/redis (6379 on shop/sts/redis) from pods with app in (dump,front) of the policy's namespace\n\
         9121/TCP denied: shop/redis isolates for ingress, and no rule allows it"
    );
}

#[test]
fn a_page_allows_what_the_other_formats_allow() {
    let directory = repository::path("deploy/tested");
    let (text, details) = page(&directory, "netpol simulate -f DIR -o html");
    let rows = table(&parse(&text), &details);
    let csv = output_in(&directory, "netpol simulate -f DIR -o csv", "");
    let mut allowed: BTreeSet<(String, String, String)> = BTreeSet::new();
    for line in csv.lines().filter(|line| line.ends_with(",allow")) {
        let fields: Vec<&str> = line.split(',').collect();
        allowed.insert((fields[0].to_owned(), fields[1].to_owned(), fields[2].to_owned()));
    }
    let mut found = BTreeSet::new();
    for row in &rows[1..] {
        for ((to, ..), (ports, ..)) in rows[0].iter().zip(row).skip(1) {
            let ports = ports.split(", ").filter(|port| !port.is_empty() && *port != "–");
            found.extend(ports.map(|port| (row[0].0.clone(), to.clone(), port.to_owned())));
        }
    }
    assert!(!found.is_empty());
    assert_eq!(found, allowed);
}

#[test]
fn a_page_of_changes_has_a_row_for_each_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let tested = repository::path("deploy/tested");
    for name in ["old", "new"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
        let to = directory.path().join(name).join("workloads.yaml");
        std::fs::copy(tested.join("workloads.yaml"), to).unwrap();
    }
    let to = directory.path().join("new/policies.yaml");
    std::fs::copy(tested.join("policies.yaml"), to).unwrap();
    let (text, details) = page(directory.path(), "netpol diff DIR/old DIR/new -o html");
    let rows = table(&parse(&text), &details);
    let row = rows.iter().find(|row| row[1].0 == "shop/deploy/front").unwrap();
    let texts: Vec<&str> = row.iter().map(|(text, ..)| text.as_str()).collect();
    let expected =
        ["closes", "shop/deploy/front", "shop/sts/redis", "every port but 6379/TCP", "yes", "no"];
    assert_eq!(texts, expected);
    assert_eq!(row[3].2, "1/TCP denied: shop/redis isolates for ingress, and no rule allows it");
    let what_if = "netpol simulate -f DIR/old --matrix --what-if -f DIR/new -o html";
    let (text, details) = page(directory.path(), what_if);
    let rows = table(&parse(&text), &details);
    let row = rows.iter().find(|row| row[0].0 == "shop/deploy/front").unwrap();
    assert_eq!((row[3].0.as_str(), row[3].1.as_str()), ("6379, \u{2212}9121", "closes"));
}

#[test]
fn names_of_the_input_are_text() {
    let directory = tempfile::tempdir().unwrap();
    let name = "</th><script>alert(1)</script>";
    let pod = format!(
        "{{ apiVersion: v1, kind: Pod, metadata: {{ name: \"{name}\", namespace: x }}, status: {{ podIP: 10.0.0.1 }} }}\n---\n{{ apiVersion: v1, kind: Pod, metadata: {{ name: b, namespace: x }}, status: {{ podIP: 10.0.0.2 }} }}\n"
    );
    std::fs::write(directory.path().join("a.yaml"), pod).unwrap();
    let (text, details) = page(directory.path(), "netpol simulate -f DIR -o html");
    let rows = table(&parse(&text), &details);
    assert!(rows.iter().any(|row| row[0].0.starts_with(&format!("x/{name}"))), "{rows:?}");
}
