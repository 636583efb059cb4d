//! The picture of `kubectl netpol ui` in the documentation: `cargo xtask screenshot`.
#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::browser::Browser;
use netpol_lab::repository;
use netpol_lab::view::{SHOP, View};

/// Where the picture is.
const FILE: &str = "docs/images/ui.png";
/// Most bytes of it, because it is in every clone.
const MAX_BYTES: usize = 200_000;

/// Edits a policy, so that the picture shows the matrix, the editor and the cells that change.
const EDIT: &str = "const text = document.querySelector('textarea'); \
    text.value = text.value.replace('app: cart', 'app: web'); text.dispatchEvent(new Event('input'))";

fn main() -> Result<()> {
    let view = View::start(&["-f", SHOP, "--address", "203.0.113.7"])?;
    let browser = Browser::start((1280, 760))?;
    browser.open(view.url())?;
    browser.until("document.querySelector('#grid .cell')")?;
    browser.run::<()>("document.getElementById('tab-policies').click()")?;
    browser.run::<()>(
        "[...document.querySelectorAll('.policy')].find((of) => of.textContent === 'shop/redis').click()",
    )?;
    browser.until("document.querySelector('textarea').value.includes('app: cart')")?;
    browser.run::<()>(EDIT)?;
    browser.until("document.querySelector('#grid .change')")?;
    browser.run::<()>("document.activeElement.blur()")?;
    let png = browser.screenshot()?;
    ensure!(png.len() <= MAX_BYTES, "the picture has {} bytes, more than {MAX_BYTES}", png.len());
    let file = repository::path(FILE);
    let folder = file.parent().context("no folder")?;
    fs::create_dir_all(folder)?;
    fs::write(&file, png).with_context(|| format!("writing {}", file.display()))
}
