//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::settings::patience;

/// Default deadline, ample on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Polling interval.
const PAUSE: Duration = Duration::from_millis(10);

/// The state of a condition.
#[derive(Debug)]
pub enum Look<T> {
    /// It holds.
    Done(T),
    /// It does not hold yet, because of this.
    NotYet(String),
}

/// Polls a condition until it holds.
///
/// # Errors
/// `limit` times [`patience`] passed: the message contains the condition and its last state. Or the poll failed.
#[expect(clippy::disallowed_methods, reason = "a deadline needs the clock")]
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let limit = limit * patience();
    let deadline = Instant::now() + limit;
    loop {
        match look()? {
            Look::Done(value) => return Ok(value),
            Look::NotYet(shown) if Instant::now() >= deadline => {
                bail!("{what}: not within {} s; the last look showed {shown}", limit.as_secs())
            }
            Look::NotYet(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_to_hold_ends_the_wait_with_its_value() {
        let mut n_looks = 0;
        let value = until("three looks", LIMIT, || {
            n_looks += 1;
            Ok(if n_looks == 3 { Look::Done(n_looks) } else { Look::NotYet(n_looks.to_string()) })
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn after_the_deadline_the_last_look_is_told() {
        let error = until::<()>("a miracle", Duration::ZERO, || Ok(Look::NotYet("nothing".into())));
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "a miracle: not within 0 s; the last look showed nothing");
    }
}
