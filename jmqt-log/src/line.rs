//! One event as one line, with any content of its values.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The longest line in bytes, without the note about the bytes left out. With the number of lines in a queue it bounds
/// the memory of the log.
const LONGEST_LINE: usize = 8 << 10;

/// `MM-DD HH:MM:SS [program:COMPONENT] LVL : message key=value`.
pub(super) struct LineFormat {
    program: String,
}

impl LineFormat {
    pub(super) fn new(program: &str) -> Self {
        Self { program: program.to_owned() }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = prefix(&self.program, event.metadata().target(), *event.metadata().level());
        let mut values = Values { message: String::new(), fields: String::new() };
        event.record(&mut values);
        line.push_str(&values.message);
        line.push_str(&values.fields);
        shorten(&mut line);
        line.push('\n');
        writer.write_str(&line)
    }
}

/// Everything before the message.
pub(super) fn prefix(program: &str, target: &str, level: Level) -> String {
    let now = chrono::Local::now().format("%m-%d %H:%M:%S");
    let component = target.rsplit("::").next().unwrap_or(target).to_uppercase();
    let level = match level {
        Level::ERROR => "ERR",
        Level::WARN => "WRN",
        Level::INFO => "INF",
        Level::DEBUG => "DBG",
        Level::TRACE => "TRC",
    };
    format!("{now} [{program}:{component}] {level} : ")
}

fn shorten(line: &mut String) {
    if line.len() > LONGEST_LINE {
        let end = (0..=LONGEST_LINE).rev().find(|end| line.is_char_boundary(*end)).unwrap_or_default();
        let left_out = line.len() - end;
        line.truncate(end);
        line.push_str(&format!("... ({left_out} bytes left out)"));
    }
}

/// An event's message, and its other fields as ` key=value`, escaped for one line.
struct Values {
    message: String,
    fields: String,
}

impl Values {
    fn add(&mut self, field: &Field, value: &str) {
        // A second field with this name is a field like any other.
        if field.name() == "message" && self.message.is_empty() {
            escape(value, &mut self.message);
            return;
        }
        self.fields.push(' ');
        self.fields.push_str(field.name());
        self.fields.push('=');
        if is_plain(value) || is_quoted(value) {
            self.fields.push_str(value);
        } else {
            self.fields.push('"');
            escape_quoted(value, &mut self.fields);
            self.fields.push('"');
        }
    }
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    /// Also values given with `%`: their `Debug` is their `Display`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, &with_causes(value));
    }
}

/// The error's text, followed by the texts of its causes that it does not repeat.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Whether the value needs no quotes: it contains no white space, and nothing in it looks like another field.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && !value.chars().any(|c| is_unfit(c) || c.is_whitespace() || matches!(c, '"' | '=' | '\\'))
}

/// Whether the value is already a string in quotes, as `Debug` makes it.
fn is_quoted(value: &str) -> bool {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let mut escaped = false;
    let sound = inner.chars().all(|c| {
        let ends_here = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        !ends_here && !is_unfit(c)
    });
    sound && !escaped
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if is_unfit(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
}

fn escape_quoted(text: &str, out: &mut String) {
    for c in text.chars() {
        if is_unfit(c) || matches!(c, '"' | '\\') { out.extend(c.escape_default()) } else { out.push(c) }
    }
}

/// Characters that end lines, drive terminals, or turn the direction of what follows.
fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no commit")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no commit: {0}")]
    struct Repeating(#[source] std::io::Error);

    #[test]
    fn an_error_is_text_with_each_cause_once() {
        let full = || std::io::Error::other("disk full");
        assert_eq!(with_causes(&Outer(full())), "no commit: disk full");
        assert_eq!(with_causes(&Repeating(full())), "no commit: disk full");
    }

    #[test]
    fn the_component_is_the_last_part_of_the_target() {
        let component = |target| {
            let line = prefix("P", target, Level::INFO);
            line[line.find('[').unwrap()..].to_owned()
        };
        assert_eq!(component("jmqt::socket"), "[P:SOCKET] INF : ");
        assert_eq!(component("jmqt_server::listener::socket"), "[P:SOCKET] INF : ");
        assert_eq!(component("my_app"), "[P:MY_APP] INF : ");
    }

    #[test]
    fn quoted_values_differ_from_values_that_look_quoted() {
        for quoted in [r#""""#, r#""a b""#, r#""a \" b""#, r#""\\""#] {
            assert!(is_quoted(quoted), "{quoted}");
        }
        for not in ["", "a", "\"", r#""a" b="c""#, r#""\""#, r#"x"a""#, "\"a\nb\""] {
            assert!(!is_quoted(not), "{not}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_between_characters() {
        let mut line = "é".repeat(5000) + "x";
        shorten(&mut line);
        assert_eq!(line, "é".repeat(4096) + "... (1809 bytes left out)");
    }
}
