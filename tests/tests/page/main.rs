//! `kubectl netpol ui` in a real browser: what a person sees, clicks and types.
#![forbid(unsafe_code)]
#![cfg(test)]

mod access;
mod drops;
mod hostile;
mod matrix;
mod policies;

use netpol_lab::browser::{Browser, NEEDS};
use netpol_lab::privilege::met;
use netpol_lab::view::{SHOP, View};
use serde::de::DeserializeOwned;

/// Keys of a keyboard, as `WebDriver` names them.
mod key {
    pub(crate) const TAB: char = '\u{E004}';
    pub(crate) const ENTER: char = '\u{E007}';
    pub(crate) const HOME: char = '\u{E011}';
    pub(crate) const LEFT: char = '\u{E012}';
    pub(crate) const UP: char = '\u{E013}';
    pub(crate) const RIGHT: char = '\u{E014}';
    pub(crate) const DOWN: char = '\u{E015}';
}

/// A browser with the page, and the server behind it.
struct Page {
    browser: Browser,
    view: View,
}

impl Page {
    /// Shows these arguments' objects; `None` if there is no browser.
    fn open(args: &[&str]) -> Option<Self> {
        if !met(&NEEDS) {
            return None;
        }
        let view = View::start(args).unwrap();
        let browser = Browser::start((1280, 800)).unwrap();
        browser.open(view.url()).unwrap();
        let page = Self { browser, view };
        page.until("document.querySelector('#grid .cell')");
        Some(page)
    }

    /// The shop of `tests/page`.
    fn shop() -> Option<Self> {
        Self::open(&["-f", SHOP, "--address", "203.0.113.7"])
    }

    #[track_caller]
    fn until(&self, expression: &str) {
        self.browser.until(expression).unwrap();
    }

    #[track_caller]
    fn run(&self, script: &str) {
        self.browser.run::<()>(script).unwrap();
    }

    /// The value of an expression.
    #[track_caller]
    fn value<T: DeserializeOwned>(&self, expression: &str) -> T {
        self.browser.run(&format!("return {expression}")).unwrap()
    }

    #[track_caller]
    fn press(&self, keys: &[char]) {
        self.browser.press(keys).unwrap();
    }

    /// Clicks the first element with this text.
    #[track_caller]
    fn click(&self, selector: &str, text: &str) {
        self.run(&format!(
            "[...document.querySelectorAll({selector:?})].find((of) => of.textContent.includes({text:?})).click()"
        ));
    }

    /// The visible text of an element, with one space between words.
    #[track_caller]
    fn text(&self, selector: &str) -> String {
        let text: String =
            self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The names of cells that begin with this.
    #[track_caller]
    fn cells(&self, beginning: &str) -> Vec<String> {
        self.value(&format!(
            "[...document.querySelectorAll('#grid [role=gridcell]')].map((of) => of.getAttribute('aria-label')).filter((of) => of.startsWith({beginning:?}))"
        ))
    }

    /// The name of the cell or heading that a screen reader reads.
    #[track_caller]
    fn active(&self) -> String {
        self.value(
            "document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant')).getAttribute('aria-label')",
        )
    }

    /// No script has failed, and the content security policy has blocked nothing.
    #[track_caller]
    fn assert_quiet(&self) {
        let messages = self.browser.console().unwrap();
        assert!(messages.is_empty(), "{messages:#?}");
    }
}
