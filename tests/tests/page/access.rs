//! Who can use the page: with a keyboard, with a screen reader, in the dark; and who cannot, without the token.

use netpol_lab::browser::Scheme;

use crate::{Page, key};

/// Interactive elements without a name, images without a text, tabs without a panel, repeated ids, labels without an element.
const FAULTS: &str = "(() => {
  const faults = [];
  const shown = (of) => of.checkVisibility() && !of.closest('[hidden]');
  const name = (of) => of.getAttribute('aria-label') ?? (of.labels?.length ? of.labels[0].textContent : of.textContent) ?? '';
  for (const of of document.querySelectorAll('button, a, input, select, textarea, summary, [role=tab], [role=gridcell], [role=columnheader], [role=rowheader], [tabindex=\"0\"]')) {
    if (shown(of) && name(of).trim() === '' && !of.hasAttribute('aria-labelledby')) faults.push('no name: ' + of.outerHTML.slice(0, 120));
  }
  for (const of of document.images) if (!of.hasAttribute('alt')) faults.push('no alt: ' + of.src);
  const ids = [...document.querySelectorAll('[id]')].map((of) => of.id);
  if (new Set(ids).size !== ids.length) faults.push('repeated id');
  for (const attribute of ['aria-controls', 'aria-labelledby', 'aria-describedby', 'aria-activedescendant']) {
    for (const of of document.querySelectorAll(`[${attribute}]`)) {
      if (!document.getElementById(of.getAttribute(attribute))) faults.push(attribute + ' of nothing: ' + of.getAttribute(attribute));
    }
  }
  if (document.documentElement.lang !== 'en') faults.push('no language');
  if (document.querySelectorAll('main').length !== 1 || document.querySelectorAll('h1').length !== 1) faults.push('landmarks');
  for (const row of document.querySelectorAll('#grid [role=row]')) if (!row.closest('[role=grid]') || !row.querySelector('[role=rowheader], [role=columnheader]')) faults.push('row');
  return faults;
})()";

/// Texts whose contrast with their background is below 4.5 (WCAG 2, level AA).
const FAINT: &str = "(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const background = (of) => { for (let at = of; at; at = at.parentElement) { const found = channels(getComputedStyle(at).backgroundColor); if (found.length < 4 || found[3] === 1) return found; } return [255, 255, 255]; };
  const faint = new Set();
  for (const of of document.querySelectorAll('body *')) {
    const isText = [...of.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== '');
    if (!isText || !of.checkVisibility() || of.closest('.unseen, noscript, option, svg, :disabled')) continue;
    const [a, b] = [luminance(channels(getComputedStyle(of).color)), luminance(background(of))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.add(`${of.tagName}.${of.className} ${ratio.toFixed(2)} ${of.textContent.slice(0, 20)}`);
  }
  return [...faint];
})()";

#[test]
fn everything_has_a_name_and_enough_contrast_in_light_and_dark() {
    let Some(page) = Page::shop() else { return };
    let none: Vec<String> = Vec::new();
    let check = |what: &str| {
        assert_eq!(page.value::<Vec<String>>(FAULTS), none, "{what}");
        for scheme in [Scheme::Light, Scheme::Dark] {
            page.browser.prefer(scheme).unwrap();
            assert_eq!(page.value::<Vec<String>>(FAINT), none, "{what}, {scheme:?}");
        }
    };
    page.browser.prefer(Scheme::Light).unwrap();
    let colour = "getComputedStyle(document.body.parentElement).backgroundColor";
    let light: String = page.value(colour);
    check("matrix");
    assert_ne!(page.value::<String>(colour), light, "dark has other colours");
    page.run("document.querySelector('[aria-label^=\"shop/web ×2 to shop/redis\"]').click()");
    page.until("document.querySelector('.lines')");
    check("explanation");
    page.run("document.querySelector('.named .policy').click()");
    page.until("document.querySelector('.gutter div')");
    check("editor");
    page.click("[role=tab]", "Graph");
    page.until("document.querySelector('.node')");
    check("graph");
    page.assert_quiet();
}

#[test]
fn the_tab_key_reaches_every_part_once_in_the_order_of_the_page() {
    let Some(page) = Page::shop() else { return };
    let mut reached = Vec::new();
    for _ in 0..18 {
        page.press(&[key::TAB]);
        let of: String = page.value(
            "document.activeElement.id || document.activeElement.name || document.activeElement.className || document.activeElement.textContent",
        );
        reached.push(of);
    }
    assert_eq!(
        reached,
        [
            "skip",
            "tab-matrix",
            "reload",
            "filter-from",
            "filter-to",
            "filter-port",
            "unfold",
            "fold",
            "grid",
            "tab-explain",
            "from",
            "to",
            "port",
            "protocol",
            "Explain",
        ]
        .into_iter()
        .chain(reached.iter().skip(15).map(String::as_str))
        .collect::<Vec<_>>()
    );
    page.run("document.getElementById('tab-matrix').focus()");
    page.press(&[key::RIGHT]);
    assert_eq!(page.value::<String>("document.activeElement.id"), "tab-graph");
    assert!(page.value::<bool>(
        "!document.getElementById('graph').hidden && document.getElementById('matrix').hidden"
    ));
}

#[test]
fn the_token_is_gone_from_the_address_and_does_not_work_again() {
    let Some(page) = Page::shop() else { return };
    assert_eq!(page.value::<String>("location.search"), "");
    assert_eq!(page.value::<String>("document.cookie"), "", "scripts do not see the cookie");
    page.browser.open(page.view.url()).unwrap();
    page.until(
        "document.body.innerText.startsWith('open the address that `netpol ui` has printed')",
    );
    // What has the cookie still works, by its other name not.
    let origin = page.view.url().split("/?").next().unwrap().to_owned();
    page.browser.open(&origin).unwrap();
    page.until("document.querySelector('#grid .cell')");
    page.browser.open(&origin.replace("127.0.0.1", "127.0.0.1.nip.invalid")).unwrap_err();
}
