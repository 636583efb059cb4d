//! Label selectors as `kubectl` reads them from an argument.

use std::sync::Arc;

use netpol_policy::model::{Requirement, Selector, Values};

/// Parses a selector such as `app=web,tier!=db,env in (a,b),!legacy`.
///
/// # Errors
/// The part that cannot be understood.
pub(super) fn parse(text: &str) -> Result<Selector, String> {
    let mut requirements = Vec::new();
    for part in parts(text) {
        requirements.push(requirement(part.trim()).ok_or_else(|| {
            format!(
                "{part:?} is not a requirement such as app=web, tier!=db, env in (a,b) or !legacy"
            )
        })?);
    }
    Ok(Selector::new(requirements))
}

/// The parts between commas outside parentheses.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn requirement(text: &str) -> Option<Requirement> {
    let is_word = |text: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
        text.chars().all(is_letter)
    };
    let key = |text: &str| {
        let text = text.trim();
        (!text.is_empty() && is_word(text)).then(|| Arc::from(text))
    };
    let one = |text: &str| {
        let text = text.trim();
        is_word(text).then(|| Values::from([Arc::from(text)]))
    };
    if let Some((name, list)) = text.split_once('(') {
        let values = list.trim_end().strip_suffix(')')?.split(',').map(str::trim);
        let values: Values = values.filter(|value| is_word(value)).map(Arc::from).collect();
        let (name, operator) = name.trim_end().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Requirement::In(key(name)?, values)),
            "notin" => Some(Requirement::NotIn(key(name)?, values)),
            _ => None,
        };
    }
    if let Some((name, value)) = text.split_once("!=") {
        return Some(Requirement::NotIn(key(name)?, one(value)?));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Some(Requirement::In(key(name)?, one(value)?));
    }
    match text.strip_prefix('!') {
        Some(name) => Some(Requirement::DoesNotExist(key(name)?)),
        None => Some(Requirement::Exists(key(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_kubectl_reads_them() {
        for (text, expected) in [
            ("app=web", Some("app=web")),
            ("app==web", Some("app=web")),
            ("app = web , tier!=db", Some("app=web,tier notin (db)")),
            ("env in (a, b),!legacy", Some("env in (a,b),!legacy")),
            ("env notin (a)", Some("env notin (a)")),
            ("app.kubernetes.io/name", Some("app.kubernetes.io/name")),
            ("app=", Some("app=")),
            ("", None),
            ("=web", None),
            ("a b", None),
            ("env within (a)", None),
        ] {
            let found = parse(text).ok().map(|selector| selector.to_string());
            let sorted = |text: Option<&str>| {
                let mut parts: Vec<String> =
                    parts(text.unwrap_or_default()).into_iter().map(ToOwned::to_owned).collect();
                parts.sort();
                parts
            };
            assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}");
            assert_eq!(sorted(found.as_deref()), sorted(expected), "{text}");
        }
    }
}
