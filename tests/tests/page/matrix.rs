//! The matrix, the graph, and explanations.

use crate::{Page, key};

#[test]
fn a_cell_says_who_reaches_whom_and_explains_itself() {
    let Some(page) = Page::shop() else { return };
    let cell = |name: &str| page.cells(name).join("; ");
    assert_eq!(cell("shop/web ×2 to shop/redis"), "shop/web ×2 to shop/redis: 6379/TCP denied",);
    assert_eq!(cell("shop/cart to shop/redis"), "shop/cart to shop/redis: 6379/TCP allowed");
    assert_eq!(
        cell("shop/redis to payments/api"),
        "shop/redis to payments/api: 8443/TCP IPv4 only"
    );
    assert_eq!(
        cell("shop/redis to shop/cart"),
        "shop/redis to shop/cart: 8081/TCP allowed by audit mode only"
    );
    assert_eq!(
        cell("monitoring/prometheus to shop/web"),
        "monitoring/prometheus to shop/web ×2: 8080/TCP allowed; 9090/TCP allowed"
    );
    page.run("document.querySelector('[aria-label^=\"shop/web ×2 to shop/redis\"]').click()");
    page.until("document.querySelector('.lines')");
    let text = page.text(".lines");
    assert!(
        text.starts_with("shop/web-6d5f8-b2k9x -> shop/redis-0 6379/TCP: denied packets:"),
        "{text}"
    );
    assert!(text.contains("isolated by shop/redis"), "{text}");
    assert_eq!(page.text(".named .deciding"), "shop/redis isolates (decides)");
    // IPv6 has a verdict of its own.
    page.run("document.querySelector('[aria-label^=\"shop/redis to payments/api\"]').click()");
    page.until("document.querySelectorAll('.verdict').length === 2");
    let verdicts: Vec<String> =
        page.value("[...document.querySelectorAll('.verdict')].map((of) => of.innerText)");
    assert_eq!(verdicts, ["✓ allowed", "✕ denied"]);
    assert!(page.text(".result").contains("[fd00:1::20]:8443"));
    // A rule of the Admin tier.
    page.run("document.querySelector('[aria-label^=\"shop/web ×2 to payments/ledger\"]').click()");
    page.until(
        "document.querySelector('.named .deciding')?.innerText.startsWith('ClusterNetworkPolicy')",
    );
    assert_eq!(
        page.text(".named .deciding"),
        "ClusterNetworkPolicy ledger-of-payments ingress[1] denies (decides)"
    );
    // Any connection, by the names of a form.
    page.run(
        "const form = document.querySelector('.ask'); form.elements.from.value = 'shop/cart'; \
         form.elements.to.value = 'redis.shop.svc'; form.elements.port.value = '6379'; form.requestSubmit()",
    );
    page.until(
        "document.querySelector('.lines')?.innerText.includes('svc/shop/redis 6379/TCP: allowed')",
    );
    page.assert_quiet();
}

#[test]
fn the_keyboard_alone_folds_a_namespace_and_explains_a_cell() {
    let Some(page) = Page::shop() else { return };
    page.run("document.getElementById('grid').focus()");
    page.press(&[key::HOME]);
    assert_eq!(page.active(), "namespace kube-system, 1 workload");
    page.press(&[key::DOWN, key::DOWN, key::DOWN, key::DOWN]);
    assert_eq!(page.active(), "namespace payments, 2 workloads");
    let n_rows = "Number(document.getElementById('grid').getAttribute('aria-rowcount'))";
    let before: usize = page.value(n_rows);
    page.press(&[' ']);
    assert_eq!(page.value::<usize>(n_rows), before - 2);
    let expanded = "document.querySelector('[aria-label^=\"namespace payments\"]').getAttribute('aria-expanded')";
    assert_eq!(page.value::<String>(expanded), "false");
    assert_eq!(page.text("#announcement"), "namespace payments folded");
    assert_eq!(page.active(), "namespace payments, 2 workloads", "the active cell stays");
    page.press(&[key::ENTER]);
    assert_eq!(page.value::<usize>(n_rows), before);
    // To the right is the cell with kube-system; below it are those of payments' workloads.
    page.press(&[key::RIGHT, key::DOWN, key::RIGHT]);
    assert_eq!(
        page.active(),
        "payments/api to kube-system/coredns: 53/TCP allowed; 53/UDP allowed"
    );
    page.press(&[key::ENTER]);
    page.until("document.querySelector('.lines')");
    assert!(page.text(".lines").starts_with(
        "payments/api-5f6d7-l8c2v -> kube-system/coredns-565d8-7qk2p 53/TCP: allowed"
    ));
    page.press(&[key::LEFT, key::UP]);
    assert_eq!(page.active(), "namespace payments to namespace kube-system: all 2 pairs: allowed");
    page.press(&[key::ENTER]);
    page.until("document.querySelectorAll('.pairs li').length === 2");
    page.assert_quiet();
}

#[test]
fn filters_ports_and_the_graph_show_a_part() {
    let Some(page) = Page::shop() else { return };
    let input = |id: &str, value: &str| {
        page.run(&format!(
            "const of = document.getElementById({id:?}); of.value = {value:?}; of.dispatchEvent(new Event('input'))"
        ));
    };
    input("filter-from", "monitoring");
    input("filter-to", "shop");
    input("filter-port", "8080/TCP");
    assert_eq!(
        page.cells("monitoring/prometheus to"),
        [
            "monitoring/prometheus to namespace shop: 8080/TCP allowed",
            "monitoring/prometheus to shop/cart: no such port",
            "monitoring/prometheus to shop/redis: no such port",
            "monitoring/prometheus to shop/web ×2: 8080/TCP allowed",
        ]
    );
    input("filter-from", "nobody");
    assert_eq!(page.text("#grid"), "Nothing matches.");
    input("filter-from", "");
    page.click("[role=tab]", "Graph");
    page.until("document.querySelectorAll('.node').length === 5");
    page.run("document.querySelector('[data-key=\"namespace shop\"]').focus()");
    page.press(&[key::ENTER]);
    page.until("document.querySelector('.neighbours h2')?.innerText === 'shop'");
    assert!(page.text("#announcement").starts_with("shop reaches 4 and is reached by"));
    page.press(&[key::ENTER]);
    page.until("document.querySelectorAll('.node').length === 7");
    let focused: String = page.value("document.activeElement.getAttribute('aria-label')");
    assert_eq!(focused, "shop/cart");
    page.click(".neighbours .pair", "shop/redis");
    page.until("document.querySelector('.lines')?.innerText.includes('shop/cart-7b9c4-x2m5d -> shop/redis-0')");
    page.assert_quiet();
}
