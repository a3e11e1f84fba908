//! One event as one line.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `MM-DD HH:MM:SS [program:COMPONENT] LVL : message key=value`, in local time.
pub(super) struct LineFormat {
    program: &'static str,
}

impl LineFormat {
    pub(super) const fn new(program: &'static str) -> Self {
        Self { program }
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
        let now = chrono::Local::now().format("%m-%d %H:%M:%S");
        let level = level(*event.metadata().level());
        let component = component(event.metadata().target());
        let mut values = Values::default();
        event.record(&mut values);
        let (message, fields) = (values.message, values.fields);
        writeln!(writer, "{now} [{}:{component}] {level} : {message}{fields}", self.program)
    }
}

/// The last part of the target; what comes from the crate's root is `MAIN`.
fn component(target: &str) -> String {
    match target.rsplit_once("::") {
        Some((_, last)) => last.to_uppercase(),
        None => "MAIN".to_owned(),
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERR",
        Level::WARN => "WRN",
        Level::INFO => "INF",
        Level::DEBUG | Level::TRACE => "DBG",
    }
}

/// An event's message, and its other fields as ` key=value`.
#[derive(Default)]
struct Values {
    message: String,
    fields: String,
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = printable(value);
            return;
        }
        let value = printable(value);
        let quote = if value.is_empty() || value.contains([' ', '=', '"']) { "\"" } else { "" };
        self.fields.push_str(&format!(" {}={quote}{}{quote}", field.name(), value.replace('"', "\\\"")));
    }

    /// Also what was given with `%`: its `Debug` is its `Display`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Without characters that end a line or drive a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { printable.extend(c.escape_default()) } else { printable.push(c) }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_last_part_of_the_target() {
        assert_eq!(component("jmqt_lb"), "MAIN");
        assert_eq!(component("jmqt_lb::backends"), "BACKENDS");
    }

    #[test]
    fn nothing_in_a_value_begins_a_new_line() {
        assert_eq!(printable("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
    }
}
