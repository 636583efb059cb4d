//! The syntax of names, label keys and label values.
//!
//! Source: apimachinery `validation`: DNS-1123 label and subdomain, qualified name, label value.

/// Longest DNS label, label value and name part of a label key.
const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
const SUBDOMAIN_MAX: usize = 253;

/// Whether the text is a DNS label, as a namespace's name must be.
pub(super) fn is_dns_label(text: &str) -> bool {
    text.len() <= LABEL_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && has_alphanumeric_ends(text)
}

/// Whether the text is a DNS subdomain, as most objects' names must be.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && has_alphanumeric_ends(part)
    };
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_part)
}

/// Whether the text can be the key of a label: a name, perhaps behind a DNS subdomain and a slash.
pub(super) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((prefix, name)) => (Some(prefix), name),
    };
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether the text can be the value of a label; it may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.is_empty()
        || (text.len() <= LABEL_MAX && text.bytes().all(is_plain) && has_alphanumeric_ends(text))
}

/// Whether the text has a first and a last character and both are letters or digits.
fn has_alphanumeric_ends(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_end(text.as_bytes().first()) && is_end(text.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accepts: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(accepts(text), "{text:?} is valid");
        }
        for text in bad {
            assert!(!accepts(text), "{text:?} is invalid");
        }
    }

    #[test]
    fn names_are_checked_as_the_api_server_does() {
        let (long, too_long) = ("a".repeat(63), "a".repeat(64));
        let bad = ["", "A", "-a", "a-", "a_b", "a b", "ä", "a/b"];
        check(is_dns_label, &["a", "1", "a-b", "a--b", &long], &bad);
        check(is_dns_label, &[], &["a.b", &too_long]);
        check(is_dns_subdomain, &["a", "1.2", "a.b-c.d", &too_long], &bad);
        check(is_dns_subdomain, &[], &["a..b", ".a", "a.", "a.-b", &"a".repeat(254)]);
    }

    #[test]
    fn labels_are_checked_as_the_api_server_does() {
        let (long, too_long) = ("a".repeat(63), "a".repeat(64));
        check(
            is_label_value,
            &["", "a", "A.b_c-1", &long],
            &["-a", "a-", "a b", "a/b", "ä", &too_long],
        );
        check(
            is_label_key,
            &["a", "A_b", "app.kubernetes.io/name", &long],
            &["", "a/", "/a", "a/b/c"],
        );
        check(is_label_key, &[], &["A.B/c", "a..b/c", &too_long]);
    }
}
