//! Reads the rules again after changes.
//!
//! In: the number of the kernel's rule set, every second, and the time, because nothing tells that rules of the older iptables change. Out:
//! the rules, if they differ. kube-proxy can change tens of thousands of rules all the time, so a look follows an earlier one after
//! [`PAUSE`] at the earliest, and takes one percent of the time of a processor at most.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Depth, Error, Reader, RuleSet};

/// Interval in which the number of the rule set is asked for.
const TICK: Duration = Duration::from_secs(1);
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(3);
/// Time between two looks, as a multiple of the time that one takes.
const REST: u32 = 100;

/// What is known of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetfilterNews {
    /// The rules of others.
    Rules(RuleSet),
    /// They cannot be read, for this reason.
    NotRead(String),
}

/// Sends the rules now and after every change, from a thread that ends within a second after the receiver is dropped.
///
/// The thread is not one of the runtime's pool: each of those keeps the memory of the largest rule set that it has read.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(depth: Depth, out: mpsc::Sender<NetfilterNews>) -> io::Result<()> {
    let looking = Looking::new(depth);
    thread::Builder::new().name("netfilter".to_owned()).spawn(move || send_news(looking, &out))?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "no verdict depends on when a look begins")]
fn send_news(mut looking: Looking, out: &mpsc::Sender<NetfilterNews>) {
    let mut sent = None;
    while !out.is_closed() {
        if let Some(news) = looking.look(Instant::now())
            && sent.as_ref() != Some(&news)
        {
            sent = Some(news.clone());
            if out.blocking_send(news).is_err() {
                return;
            }
        }
        thread::sleep(TICK);
    }
}

/// What the next look depends on.
struct Looking {
    depth: Depth,
    reader: Reader,
    /// The rules of `nf_tables`, and the number of the rule set before they were read.
    nf_tables: Option<(u32, RuleSet)>,
    legacy: Option<RuleSet>,
    next: Option<Instant>,
    next_legacy: Option<Instant>,
}

impl Looking {
    fn new(depth: Depth) -> Self {
        let reader = Reader::default();
        Self { depth, reader, nf_tables: None, legacy: None, next: None, next_legacy: None }
    }

    /// Reads what may have changed; `None` if nothing has.
    fn look(&mut self, now: Instant) -> Option<NetfilterNews> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let looked = self.try_to_look(now);
        let is_changed = match looked {
            Ok(is_changed) => is_changed,
            // Others change rules all the time: what was read last counts until the next look.
            Err(Error::NfTables(error) | Error::Legacy { source: error, .. })
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) && self.nf_tables.is_some()
                    && self.legacy.is_some() =>
            {
                self.rest(now);
                return None;
            }
            Err(error) => {
                self.reader = Reader::default();
                (self.nf_tables, self.legacy, self.next_legacy) = (None, None, None);
                self.rest(now);
                let mut text = error.to_string();
                if let Some(source) = std::error::Error::source(&error) {
                    text = format!("{text}: {source}");
                }
                return Some(NetfilterNews::NotRead(text));
            }
        };
        if !is_changed {
            return None;
        }
        self.rest(now);
        let mut all = self.legacy.clone().unwrap_or_default();
        all.extend(self.nf_tables.as_ref().map(|(_, rules)| rules)?);
        Some(NetfilterNews::Rules(all))
    }

    fn try_to_look(&mut self, now: Instant) -> Result<bool, Error> {
        let mut is_changed = false;
        let generation = self.reader.generation()?;
        if self.nf_tables.as_ref().is_none_or(|(of, _)| *of != generation) {
            let rules = self.reader.read_nf_tables(self.depth)?;
            self.nf_tables = Some((generation, rules));
            is_changed = true;
        }
        if self.next_legacy.is_none_or(|next| now >= next) {
            let rules = self.reader.read_legacy(self.depth)?;
            is_changed |= self.legacy.as_ref() != Some(&rules);
            self.legacy = Some(rules);
            let interval = match self.depth {
                Depth::Rules => Duration::from_secs(30),
                Depth::Engines => Duration::from_mins(5),
            };
            self.next_legacy = Some(now + interval);
        }
        Ok(is_changed)
    }

    /// After a look that began at this time.
    #[expect(clippy::disallowed_methods, reason = "no verdict depends on how long a look takes")]
    fn rest(&mut self, began: Instant) {
        let now = Instant::now();
        let took = now.duration_since(began);
        self.next = Some(now + took.saturating_mul(REST).max(PAUSE));
    }
}
