//! Names that a tenant chooses are text, whatever they contain.

use crate::Page;

/// Names that would be HTML, a script or an attribute. A file may contain them; an API server would refuse some.
const OBJECTS: &str = r#"
{ apiVersion: v1, kind: Pod, metadata: { name: "<img src=x onerror=document.title=1>", namespace: "\"><script>document.title=2", labels: { app: "<svg onload=document.title=3>" } },
  spec: { containers: [{ name: c, ports: [{ containerPort: 80 }] }] }, status: { phase: Running, podIP: 10.0.0.1 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: "' onclick='document.title=4", namespace: "javascript:document.title=5", labels: { app: b } },
  spec: { containers: [{ name: c }] }, status: { phase: Running, podIP: 10.0.0.2 } }
---
{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: { name: "<b>bold</b>", namespace: "\"><script>document.title=2" },
  spec: { podSelector: { matchLabels: { app: "<svg onload=document.title=3>" } }, ingress: [{ from: [{ podSelector: { matchLabels: { "<i>": x } } }] }] } }
"#;

#[test]
fn hostile_names_are_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("objects.yaml"), OBJECTS).unwrap();
    let Some(page) = Page::open(&["-f", folder.path().to_str().unwrap()]) else { return };
    let counts = "[document.images.length, document.scripts.length, document.querySelectorAll('svg, b, i, script, [onclick], [onerror]').length]";
    assert_eq!(
        page.value::<[usize; 3]>(counts),
        [1, 1, 2],
        "the icon, the script and the graph of the page"
    );
    assert!(page.text("#grid").contains("<img src=x onerror=document.title=1>"));
    page.run("document.querySelector('#grid .cell.deny:not(.many)').click()");
    page.until("document.querySelector('.lines')");
    assert!(page.text(".lines").contains("<script>document.title=2"));
    page.run("document.querySelector('.named .policy').click()");
    page.until("document.querySelector('textarea').value.includes('<b>bold</b>')");
    page.click("[role=tab]", "Graph");
    page.until("document.querySelectorAll('.node').length === 2");
    page.run("document.querySelector('.node').dispatchEvent(new MouseEvent('dblclick'))");
    page.until("document.querySelector('.neighbours h2')");
    assert_eq!(
        page.value::<[usize; 2]>("[document.images.length, document.scripts.length]"),
        [1, 1]
    );
    assert!(page.value::<String>("document.title").starts_with("netpol · "));
    page.assert_quiet();
}
