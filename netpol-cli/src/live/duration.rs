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
}
