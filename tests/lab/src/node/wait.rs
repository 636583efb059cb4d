//! Waiting for a condition, with a deadline. Nothing in a lab waits for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::settings::patience;

/// Long enough for anything that a lab waits for, also on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// What a look at a condition showed.
#[derive(Debug)]
pub enum Look<T> {
    /// It holds.
    Done(T),
    /// Not yet, because of this.
    NotYet(String),
}

/// Looks at a condition until it holds.
///
/// # Errors
/// `limit` passed, as often as this machine is slower than others ([`patience`]): the message says what was waited for and what the last look showed. Or a look failed.
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
