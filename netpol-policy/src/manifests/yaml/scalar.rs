//! The value of a YAML scalar, as `kubectl` reads it.
//!
//! `kubectl` reads YAML 1.1 (`yes` is a boolean, `010` is eight) and converts it to JSON. A file must have the same
//! meaning here and there.

use std::borrow::Cow;

use granit_parser::{ScalarStyle, Tag};
use serde_json::{Number, Value};

/// Go writes whole floats below this limit as integers in JSON.
const WHOLE_LIMIT: f64 = 1e21;

/// The value of a scalar; `None` if JSON has no such value or the value does not match the tag.
pub(super) fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let tag = tag.map(|tag| tag.core_suffix().unwrap_or(""));
    match (tag, style) {
        (None, ScalarStyle::Plain) => plain(text).into_value(text),
        (Some("null" | "bool" | "int" | "float"), _) => {
            let value = plain(text).into_value(text)?;
            let fits = match tag {
                Some("null") => value.is_null(),
                Some("bool") => value.is_boolean(),
                Some("int") => value.is_i64() || value.is_u64(),
                _ => value.is_number(),
            };
            fits.then_some(value)
        }
        (Some(_) | None, _) => Some(Value::from(text)),
    }
}

/// The JSON key of a scalar; `None` for null.
pub(super) fn key<'t>(
    text: &'t str,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Option<Cow<'t, str>> {
    let is_text = match tag {
        None => style != ScalarStyle::Plain || matches!(plain(text), Plain::Text),
        Some(_) => false,
    };
    if is_text {
        return Some(Cow::Borrowed(text));
    }
    match resolve(text, style, tag)? {
        Value::String(text) => Some(text.into()),
        Value::Bool(truth) => Some(truth.to_string().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A plain scalar.
enum Plain {
    /// It is text.
    Text,
    /// It has this value.
    Value(Value),
    /// JSON has no such value.
    NotInJson,
}

impl Plain {
    fn into_value(self, text: &str) -> Option<Value> {
        match self {
            Self::Text => Some(Value::from(text)),
            Self::Value(value) => Some(value),
            Self::NotInJson => None,
        }
    }
}

fn plain(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Value(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Plain::Value(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Plain::Value(Value::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" => return Plain::NotInJson,
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Plain::NotInJson;
    }
    let is_number_like = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    let number = if is_number_like { number(text, unsigned) } else { None };
    number.map_or(Plain::Text, |number| Plain::Value(Value::Number(number)))
}

fn number(text: &str, unsigned: &str) -> Option<Number> {
    // An address or a block of addresses has these.
    if unsigned.contains(['/', ':']) {
        return None;
    }
    let is_negative = text.starts_with('-');
    let digits = unsigned.replace('_', "");
    let integer = integer(&digits).and_then(|magnitude| {
        if is_negative {
            0_i64.checked_sub_unsigned(magnitude).map(Number::from)
        } else {
            Some(Number::from(magnitude))
        }
    });
    integer.or_else(|| {
        let magnitude = float(&digits)?;
        in_json(if is_negative { -magnitude } else { magnitude })
    })
}

/// An integer with an optional prefix for its base; a leading zero alone means octal.
fn integer(digits: &str) -> Option<u64> {
    let prefixed = |lower: &str, upper: &str| {
        digits.strip_prefix(lower).or_else(|| digits.strip_prefix(upper))
    };
    let (digits, base) = if let Some(digits) = prefixed("0x", "0X") {
        (digits, 16)
    } else if let Some(digits) = prefixed("0b", "0B") {
        (digits, 2)
    } else if let Some(digits) = prefixed("0o", "0O") {
        (digits, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (digits, 8)
    } else {
        (digits, 10)
    };
    // The caller removed the sign, so a sign here is a second one.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(digits, base).ok()
}

/// A decimal fraction with an optional exponent.
fn float(digits: &str) -> Option<f64> {
    let is_decimal = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !digits.chars().all(is_decimal) || digits.starts_with(['+', '-']) {
        return None;
    }
    digits.parse().ok().filter(|float: &f64| float.is_finite())
}

/// The JSON number that Go writes for a float: whole floats become integers.
fn in_json(float: f64) -> Option<Number> {
    if float.fract() == 0.0 && float.abs() < WHOLE_LIMIT {
        let whole: Option<i64> = format!("{float:.0}").parse().ok();
        if let Some(whole) = whole {
            return Some(Number::from(whole));
        }
    }
    Number::from_f64(float)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: impl Into<Option<Value>>) {
        let expected = expected.into();
        assert_eq!(resolve(text, ScalarStyle::Plain, None), expected, "{text}");
        let quoted = resolve(text, ScalarStyle::DoubleQuoted, None);
        assert_eq!(quoted, Some(Value::from(text)), "quoted {text}");
    }

    // The expected values are the output of `kubectl annotate --local -o json` (1.32).

    #[test]
    fn plain_words_have_the_value_that_kubectl_reads() {
        for text in ["yes", "y", "on", "true", "TRUE"] {
            check(text, Value::Bool(true));
        }
        for text in ["n", "Off", "no", "False"] {
            check(text, Value::Bool(false));
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            check(text, Value::Null);
        }
        for text in [
            "oN",
            "tRue",
            "nUll",
            "_1",
            "1e400",
            "0x",
            "0xG",
            ".",
            "=",
            "<<",
            "a",
            "10.0.0.0/8",
            "-",
        ] {
            check(text, Value::from(text));
        }
        for text in [
            "2001-01-01",
            "12:30:45",
            "10.0.0.1",
            "::1",
            "1.2.3",
            "5e",
            "0b2",
            "1e2e3",
            "+-5",
            "--5",
        ] {
            check(text, Value::from(text));
        }
        for text in [".inf", "-.Inf", "+.INF", ".nan"] {
            check(text, None);
        }
    }

    #[test]
    fn plain_numbers_have_the_value_that_kubectl_reads() {
        for (text, number) in [
            ("010", 8),
            ("0x10", 16),
            ("0o17", 15),
            ("0O17", 15),
            ("0b11", 3),
            ("0B11", 3),
            ("1e3", 1000),
            ("80.0", 80),
            ("1_000", 1000),
            ("1__0", 10),
            ("1_", 1),
            ("+5", 5),
            ("1.", 1),
            ("09", 9),
            ("-0", 0),
            ("0.0", 0),
            ("-0.0", 0),
            ("00", 0),
            ("0_8", 8),
            ("-0x1F", -31),
            ("-010", -8),
            ("-0o17", -15),
            ("+0x10", 16),
            ("1E2", 100),
            ("1.5e1", 15),
            ("0x1_0", 16),
            ("65535", 65535),
        ] {
            check(text, json!(number));
        }
        for (text, number) in
            [("80.5", 80.5), (".5", 0.5), ("+.5", 0.5), ("08.5", 8.5), ("1e-2", 0.01)]
        {
            check(text, json!(number));
        }
        check("9223372036854775808", json!(9_223_372_036_854_775_808_u64));
        check("99999999999999999999999", json!(1e23));
    }

    #[test]
    fn keys_are_text_whatever_they_look_like() {
        let key = |text| key(text, ScalarStyle::Plain, None);
        assert_eq!(key("yes").as_deref(), Some("true"));
        assert_eq!(key("1.0").as_deref(), Some("1"));
        assert_eq!(key("app").as_deref(), Some("app"));
        assert_eq!(key("~"), None);
    }
}
