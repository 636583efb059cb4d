//! On Ctrl-C and SIGTERM, removes the labs of this process before it ends.

use std::collections::BTreeSet;
use std::sync::{Mutex, Once, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::teardown;

/// The labs to remove.
static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Read-locked while something is added to a lab; write-locked for good by the removal of all labs.
static CHANGES: RwLock<()> = RwLock::new(());

/// Registers a lab for removal on interruption.
pub(super) fn register(name: &str) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        std::thread::spawn(|| {
            if let Err(error) = watch() {
                tell(&format!("signals are not watched, nothing is removed on Ctrl-C: {error:#}"));
            }
        });
    });
    LABS.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
}

/// Unregisters a lab that is removed or is to be kept.
pub(super) fn unregister(name: &str) {
    LABS.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
}

/// A guard to hold while a namespace is made or a process is started. Blocks forever once an interruption removes the labs,
/// because the process is about to end.
pub(super) fn change() -> RwLockReadGuard<'static, ()> {
    CHANGES.read().unwrap_or_else(PoisonError::into_inner)
}

fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        // The exit code that shells use for a signal: 128 plus its number.
        anyhow::Ok(tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        })
    })?;
    let _changes = CHANGES.write().unwrap_or_else(PoisonError::into_inner);
    let names = LABS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for name in names {
        tell(&format!("interrupted: removing the lab {name}"));
        if let Err(error) = teardown::remove(&name) {
            tell(&format!("{error:#}"));
        }
    }
    std::process::exit(exit_code)
}

#[expect(
    clippy::print_stderr,
    reason = "the process ends; the terminal is the only place for a report"
)]
fn tell(text: &str) {
    eprintln!("{text}");
}
