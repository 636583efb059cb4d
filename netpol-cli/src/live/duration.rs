//! Durations as arguments.

use std::time::Duration;

/// Parses `5s`, `500ms`, `1m30s` or `2h`.
///
/// # Errors
/// The text has no unit, or is negative.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    let duration = parsed.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "it is no duration, such as 500ms, 5s or 1m30s".to_owned())
}

/// A duration for people, in its largest unit: `5 s`, `3 min`, `2 h`, `4 d`.
pub(super) fn words(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["5", "", "-5s", "soon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_written_in_their_largest_unit() {
        for (s, expected) in [(5, "5 s"), (180, "3 min"), (7200, "2 h"), (604_800, "7 d")] {
            assert_eq!(words(Duration::from_secs(s)), expected);
        }
    }
}
