//! The lines that differ between two versions of a text, if they differ in one place.

/// Lines that are shown before and after those that differ.
const CONTEXT: usize = 3;

/// The lines that differ, each with `-` or `+`, and some around them.
pub(super) fn lines(before: &str, after: &str) -> String {
    let (before, after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let n_first = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let rest = before.len().min(after.len()).saturating_sub(n_first);
    let pairs = before.iter().rev().zip(after.iter().rev()).take(rest);
    let n_last = pairs.take_while(|(a, b)| a == b).count();
    let part = |lines: &[&str], sign: &str, from: usize, to: usize| -> String {
        let shown = lines.get(from..to.min(lines.len())).unwrap_or_default().iter();
        shown.flat_map(|line| [sign, *line, "\n"]).collect()
    };
    let [end_before, end_after] = [&before, &after].map(|lines| lines.len().saturating_sub(n_last));
    [
        part(&before, " ", n_first.saturating_sub(CONTEXT), n_first),
        part(&before, "-", n_first, end_before),
        part(&after, "+", n_first, end_after),
        part(&before, " ", end_before, end_before.saturating_add(CONTEXT)),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_differ_are_shown_with_those_around_them() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        assert_eq!(
            lines(before, "1\n2\n3\n4\n5\na\nb\n7\n8\n9\n"),
            " 3\n 4\n 5\n-6\n+a\n+b\n 7\n 8\n 9\n"
        );
        assert_eq!(lines("a\na\n", "a\na\na\n"), " a\n a\n+a\n");
        assert_eq!(lines("a\n", "a\n"), " a\n");
    }
}
