//! The look-up of an address in a table.

use super::entry::Entry;
use super::key::Key;
use super::line::{Header, Line, MAX_REACH, REACH_WORD};

/// The entry of an address in the table with these lines. A missing line has no entries.
///
/// The header is read again for each bucket, because BPF has little stack. Most look-ups read only one bucket.
#[inline(always)]
pub fn find<K: Key, L: Line>(line: impl Fn(u32) -> Option<L>, key: K) -> Entry {
    let (mut distance, mut reach) = (0, 0);
    while distance <= MAX_REACH {
        let Some(header) = line(0) else { return Entry::ABSENT };
        let header = Header::read(header);
        let number = header.line(key.hash(header.seed), distance);
        let Some(bucket) = line(number) else { return Entry::ABSENT };
        let entry = key.entry_in(bucket);
        if entry.is_present() {
            return entry;
        }
        if distance == 0 {
            reach = bucket.word(REACH_WORD);
        }
        if u64::from(distance) >= reach {
            return Entry::ABSENT;
        }
        distance += 1;
    }
    Entry::ABSENT
}
