//! When every kind of object was last up to date, kept across restarts of the agent.
//!
//! After a start without API server the maps hold the policies of the earlier run. This tells how old they are. In: the time of
//! day, while all is up to date. Out: the time of the earlier run. Must not: read a clock.

use std::fs;
use std::io;
use std::path::PathBuf;

use tracing::warn;

use crate::agent::saved_file;

/// The file is written again after this many seconds.
const PERIOD_S: u64 = 30;

/// The time in a file, in seconds since 1970. By default there is no file.
#[derive(Debug, Default)]
pub(in crate::agent) struct LastHeard {
    path: Option<PathBuf>,
    unix_s: Option<u64>,
    has_failed: bool,
}

impl LastHeard {
    /// Reads the time that an earlier run has written.
    pub(in crate::agent) fn open(path: PathBuf) -> Self {
        let unix_s = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().ok(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(file = %path.display(), %error, "time of the earlier run not read");
                }
                None
            }
        };
        Self { path: Some(path), unix_s, has_failed: false }
    }

    /// The latest known time.
    pub(in crate::agent) fn unix_s(&self) -> Option<u64> {
        self.unix_s
    }

    /// Records that all is up to date now.
    pub(in crate::agent) fn record(&mut self, now_unix_s: u64) {
        if self.unix_s.is_some_and(|at| at <= now_unix_s && now_unix_s < at + PERIOD_S) {
            return;
        }
        self.unix_s = Some(now_unix_s);
        let Some(path) = &self.path else { return };
        let written = saved_file::replace(path, format!("{now_unix_s}\n").as_bytes());
        if let Err(error) = written
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!(file = %path.display(), %error, "time not written; the next agent cannot say how old its policies are");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_survives_a_restart_and_is_written_seldom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heard");
        let mut heard = LastHeard::open(path.clone());
        assert_eq!(heard.unix_s(), None);
        for now in [1000, 1001, 1029] {
            heard.record(now);
        }
        assert_eq!(LastHeard::open(path.clone()).unix_s(), Some(1000));
        heard.record(1030);
        assert_eq!(LastHeard::open(path.clone()).unix_s(), Some(1030));
        // The clock was set back.
        heard.record(500);
        assert_eq!(LastHeard::open(path.clone()).unix_s(), Some(500));
        fs::write(&path, "soon").unwrap();
        assert_eq!(LastHeard::open(path).unix_s(), None);
    }
}
