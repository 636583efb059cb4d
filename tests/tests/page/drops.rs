//! Live drops, from an API server of this process whose agents say what the test wants.

use netpol_lab::view::LiveCluster;

use crate::Page;

#[test]
fn drops_of_a_node_appear_with_their_policy_and_are_explained() {
    let cluster = LiveCluster::start().unwrap();
    let Some(page) = Page::open(&["--kubeconfig", &cluster.kubeconfig()]) else { return };
    page.click("[role=tab]", "Drops");
    page.until("document.querySelector('#drops tr.deny') && document.querySelector('#drops tr.audit') && document.querySelector('#drops tr.more')");
    let row = |kind: &str| page.text(&format!("#drops tr.{kind}"));
    let denied = row("deny");
    assert!(
        denied
            .contains("shop/redis ingress shop/web 10.244.1.9 6379/TCP ✕ not-allowed shop/redis 1"),
        "{denied}"
    );
    assert!(row("audit").contains("shop/web fd00::9 6379/TCP A audited"), "{}", row("audit"));
    assert!(row("more").contains("shop/redis: more that are not shown one by one 4968"));
    assert!(page.text("#drops .findings").contains("node n1 does not answer: it has no agent"));
    page.run("document.querySelector('#drops tr.deny button').click()");
    page.until("document.querySelector('.lines')?.innerText.startsWith('shop/web -> shop/redis 6379/TCP: denied')");
    // The policy comes from the API server, without the fields that only the server writes.
    page.run("document.querySelector('.named .policy').click()");
    page.until("document.querySelector('textarea').value.includes('podSelector')");
    let text: String = page.value("document.querySelector('textarea').value");
    assert!(
        text.starts_with("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n"),
        "{text}"
    );
    assert!(!text.contains("managedFields") && !text.contains("uid"), "{text}");
    // New objects are shown when the page asks.
    cluster.put_pod("new", ["10.244.1.10", "fd00::10"]);
    page.click("button", "Reload");
    page.until("document.getElementById('counts').innerText.startsWith('3 pods')");
    page.assert_quiet();
}
