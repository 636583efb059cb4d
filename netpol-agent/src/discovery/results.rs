//! Tells when the container runtime has written a CNI result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::folder_events::FolderEvents;

/// How often it is checked whether a folder exists, or has been replaced.
const CHECKED_EVERY: Duration = Duration::from_secs(1);

/// Sends a message after each change in one of the folders, until `cancel` is cancelled. Changes in short succession can make one
/// message.
pub fn watch(folders: Vec<PathBuf>, cancel: CancellationToken) -> mpsc::Receiver<()> {
    let (news_in, news) = mpsc::channel(1);
    tokio::spawn(async move {
        let changed = Arc::new(Notify::new());
        let mut events: Vec<FolderEvents> =
            folders.iter().map(|_| FolderEvents::default()).collect();
        loop {
            for (events, folder) in events.iter_mut().zip(&folders) {
                events.ensure(folder, &changed);
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = changed.notified() => {
                    // If a message waits already, this change is a part of it.
                    if let Err(TrySendError::Closed(())) = news_in.try_send(()) {
                        return;
                    }
                }
                () = sleep(CHECKED_EVERY) => {}
            }
        }
    });
    news
}
