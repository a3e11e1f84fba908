//! Placeholders in messages: `{number}`, `{time}` and others.

use chrono::{SecondsFormat, Utc};
use jmqt_client::Push;

use crate::Failure;

/// What is put into a template.
pub(crate) struct Values<'v> {
    /// Which message this is, from 1.
    pub(crate) number: u64,
    /// The message that is answered.
    pub(crate) asked: Option<&'v Push>,
}

/// Replaces each placeholder. Other braces stay as they are, so that templates of JSON need no escapes.
pub(crate) fn fill(template: &str, values: &Values<'_>) -> Result<String, Failure> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        text.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
        match value(&rest[..end], values)? {
            Some(value) => {
                text.push_str(&value);
                rest = &rest[end..];
            }
            None => {
                text.push('{');
                rest = &rest[1..];
            }
        }
    }
    text.push_str(rest);
    Ok(text)
}

fn value(placeholder: &str, values: &Values<'_>) -> Result<Option<String>, Failure> {
    let of_asked = |value: fn(&Push) -> &str| values.asked.map(|push| value(push).to_owned());
    Ok(match placeholder {
        // `{n}` cannot be named in a help text, where clap takes it for a line break.
        "{number}" | "{n}" => Some(values.number.to_string()),
        "{time}" => Some(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)),
        "{ms}" => Some(Utc::now().timestamp_millis().to_string()),
        "{random}" => Some(crate::random_digits()?),
        "{data}" => of_asked(Push::data),
        "{channel}" => of_asked(Push::channel),
        "{publisher}" => of_asked(Push::publisher),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        let values = Values { number: 7, asked: None };
        let fill = |template| fill(template, &values).unwrap();
        assert_eq!(fill(r#"{"n":{n},"x":{"y":{}}}"#), r#"{"n":7,"x":{"y":{}}}"#);
        assert_eq!(fill("{n}{number} {data} {nn} { {n"), "77 {data} {nn} { {n");
        assert!(fill("{time}").ends_with('Z') && fill("{ms}").parse::<u64>().is_ok());
        assert_ne!(fill("{random}"), fill("{random}"));
    }
}
