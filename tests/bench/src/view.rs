//! Row 32: the page of `netpol ui` in a browser.
//!
//! In: a folder with objects. Out: seconds until they are drawn, and until a drop of a node is. Must not: check what is drawn, which the
//! tests do.

use std::path::Path;

use anyhow::{Context as _, Result};
use netpol_lab::browser::Browser;
use netpol_lab::view::{LiveCluster, View};

use crate::Run;
use crate::gates::Unit;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Matrix,
    Drop,
}

/// Measures.
///
/// # Errors
/// There is no browser, or the page does not show what it should.
pub(crate) fn measure(run: &mut Run, folder: &Path) -> Result<()> {
    let folder = folder.to_str().context("the folder's name is not UTF-8")?;
    let browser = Browser::start((1280, 800))?;
    let cluster = LiveCluster::start()?;
    let name = |contender: &Contender| match contender {
        Contender::Matrix => "matrix".to_owned(),
        Contender::Drop => "drop".to_owned(),
    };
    let series = run.interleaved(
        "the page of ui",
        Unit::Seconds,
        &mut [Contender::Matrix, Contender::Drop],
        name,
        |contender, _round| match contender {
            Contender::Matrix => matrix(&browser, folder),
            Contender::Drop => drop_shown(&browser, &cluster),
        },
    )?;
    run.answer("32a", series.level("matrix")?, "from the navigation to the frame with the matrix")?;
    run.answer("32b", series.level("drop")?, "from the start of the agent's program to the row")?;
    run.add(series.noted("A headless Chromium beside the command, on one machine."));
    Ok(())
}

fn matrix(browser: &Browser, folder: &str) -> Result<f64> {
    let view = View::start(&["-f", folder])?;
    browser.open(view.url())?;
    let mark = "performance.getEntriesByName('shown')[0]";
    browser.until(mark)?;
    let milliseconds: f64 = browser.run(&format!("return {mark}.startTime"))?;
    Ok(milliseconds / 1e3)
}

fn drop_shown(browser: &Browser, cluster: &LiveCluster) -> Result<f64> {
    let view = View::start(&["--kubeconfig", &cluster.kubeconfig()])?;
    browser.open(view.url())?;
    browser.until("performance.getEntriesByName('shown')[0]")?;
    browser.run::<()>("document.getElementById('tab-drops').click()")?;
    browser.until("document.querySelector('#drops tr.deny')")?;
    let since = cluster.since_asked().context("no agent was asked")?;
    Ok(since.as_secs_f64())
}
