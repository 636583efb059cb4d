//! Ctrl-C and SIGTERM: the labs of this process are removed before it ends.

use std::collections::BTreeSet;
use std::sync::{Mutex, Once, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::teardown;

/// The names of the labs that end with this process.
static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Shared by those that add something to a lab; taken whole, for good, by the one that removes them all.
static CHANGES: RwLock<()> = RwLock::new(());

/// From now on the lab is removed when the process is interrupted.
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

/// The lab is gone, or is to stay.
pub(super) fn unregister(name: &str) {
    LABS.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
}

/// Held while a namespace is made or a process is started. Never returns once an interruption has begun to remove the
/// labs: the process is about to end.
pub(super) fn change() -> RwLockReadGuard<'static, ()> {
    CHANGES.read().unwrap_or_else(PoisonError::into_inner)
}

fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        // What a shell says of a process that a signal ended: 128 and the signal's number.
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
    reason = "the process ends and somebody should know what became of the lab"
)]
fn tell(text: &str) {
    eprintln!("{text}");
}
