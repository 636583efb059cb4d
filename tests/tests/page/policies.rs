//! The editor: findings beside lines, the cells that change, the file.

use std::fs;

use netpol_lab::node::wait::{self, LIMIT, Look};
use netpol_lab::repository;
use netpol_lab::view::SHOP;

use crate::Page;

/// Types into the editor, as a person who replaces a part of the text.
fn replace(page: &Page, old: &str, new: &str) {
    page.run(&format!(
        "const text = document.querySelector('textarea'); text.value = text.value.replace({old:?}, {new:?}); \
         text.dispatchEvent(new Event('input'))"
    ));
}

#[test]
fn an_edited_policy_shows_its_mistakes_and_the_cells_that_change_and_becomes_a_file() {
    let Some(page) = Page::shop() else { return };
    let folder = tempfile::tempdir().unwrap();
    page.browser.download_to(folder.path()).unwrap();
    let before = fs::read_to_string(repository::path(SHOP).join("shop.yaml")).unwrap();
    // From the explanation of a cell to the line of the rule.
    page.run("document.querySelector('[aria-label^=\"shop/cart to shop/redis\"]').click()");
    page.until("document.querySelector('.named .deciding .policy')");
    page.run("document.querySelector('.named .deciding .policy').click()");
    page.until("document.querySelector('.gutter .chosen')");
    assert_eq!(page.text(".gutter .chosen"), "▸ 11");
    assert_eq!(page.text("#announcement"), "ingress[0] is in line 11");

    replace(&page, "app: cart", "app: web");
    page.until("document.querySelector('#grid .change')");
    assert_eq!(
        page.cells("shop/web ×2 to shop/redis"),
        ["shop/web ×2 to shop/redis: opens: 6379/TCP allowed, before denied"]
    );
    assert_eq!(
        page.cells("shop/cart to shop/redis"),
        ["shop/cart to shop/redis: closes: 6379/TCP denied, before allowed"]
    );
    assert!(
        page.text("#what-if").starts_with("What if: shop/redis edited + 2 − 1"),
        "{}",
        page.text("#what-if")
    );
    page.click("button", "Download YAML");
    let file = folder.path().join("redis.yaml");
    page.until("document.getElementById('announcement').textContent === 'redis.yaml downloaded'");
    let downloaded = || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        Ok(if text.contains("app: web") { Look::Done(()) } else { Look::NotYet(text) })
    };
    wait::until("the file is written", LIMIT, downloaded).unwrap();
    // The explanation is that of the edited policy.
    page.run("document.querySelector('[aria-label^=\"shop/web ×2 to shop/redis\"]').click()");
    page.until("document.querySelector('.lines')?.innerText.startsWith('shop/web-6d5f8-b2k9x -> shop/redis-0 6379/TCP: allowed')");

    page.click("[role=tab]", "Policies");
    replace(&page, "port: 6379", "port: 70000");
    page.until("document.querySelector('.gutter .error')");
    assert_eq!(page.text(".gutter .error"), "✕ 15");
    assert!(page.text("#findings").contains("70000 is not within 1 and 65535"));
    replace(&page, "kind: NetworkPolicy", "kind: [");
    page.until(
        "document.querySelector('#policies').innerText.includes('The text cannot be read.')",
    );
    assert!(!page.value::<bool>("Boolean(document.querySelector('#grid .change'))"));
    page.click("button", "What if deleted");
    page.until(
        "document.querySelector('#what-if').textContent.startsWith('What if: shop/redis deleted')",
    );
    assert!(page.value::<bool>("document.querySelector('textarea').disabled"));
    page.click("#what-if button", "Back");
    page.until("document.getElementById('what-if').hidden");
    assert_eq!(
        page.cells("shop/web ×2 to shop/redis"),
        ["shop/web ×2 to shop/redis: 6379/TCP denied"]
    );
    let after = fs::read_to_string(repository::path(SHOP).join("shop.yaml")).unwrap();
    assert_eq!(after, before, "nothing is applied");
    page.assert_quiet();
}
