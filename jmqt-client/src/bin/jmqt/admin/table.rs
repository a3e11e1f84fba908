//! Answers as tables for people.

use serde_json::Value;

/// Columns as wide as their widest cell.
pub(super) struct Table {
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &'static [&'static str]) -> Self {
        Self { head, rows: Vec::new() }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| Some(row.get(column)?.chars().count()));
            cells.chain(self.head.get(column).map(|head| head.len())).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| {
                format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count())))
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let rows = self.rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
        std::iter::once(line(self.head.to_vec())).chain(rows).collect::<Vec<_>>().join("\n")
    }
}

/// A member as text.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

/// A table of the objects in a list, with these members.
fn table(list: &Value, head: &'static [&'static str], members: &[&str]) -> String {
    let mut table = Table::new(head);
    for entry in list.as_array().into_iter().flatten() {
        table.row(members.iter().map(|member| cell(&entry[*member])));
    }
    table.text()
}

/// A table, and below it how many there are and how to see the others.
fn page(answer: &Value, list: &str, table: String) -> String {
    let shown = answer[list].as_array().map_or(0, Vec::len);
    let more = match answer["next"].as_str() {
        Some(next) => format!("; more: --after {next:?}"),
        None => String::new(),
    };
    format!("{table}\n{shown} of {}{more}", cell(&answer["matching"]))
}

/// Seconds since 1970 as a local time.
fn time(value: &Value) -> String {
    let seconds = value.as_i64().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    let local =
        seconds.map(|time| time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string());
    local.unwrap_or_default()
}

pub(super) fn ready(answer: &Value) -> String {
    let mut table = Table::new(&["CHECK", "RESULT"]);
    for (name, result) in answer["checks"].as_object().into_iter().flatten() {
        table.row([name.clone(), cell(result)]);
    }
    table.text()
}

pub(super) fn nodes(answer: &Value) -> String {
    table(&answer["nodes"], &["NODE", "THIS", "PRESENT"], &["node", "this", "present"])
}

pub(super) fn counters(answer: &Value) -> String {
    let mut table = Table::new(&["COUNTER", "VALUE"]);
    for name in ["uptime_seconds", "sessions", "subscriptions", "queued_bytes", "in_flight"] {
        table.row([name.to_owned(), cell(&answer[name])]);
    }
    for (name, count) in answer["counters"].as_object().into_iter().flatten() {
        table.row([name.clone(), cell(count)]);
    }
    table.text()
}

pub(super) fn connections(answer: &Value) -> String {
    let mut rows = Table::new(&["CLIENT", "ADDRESS", "PROTOCOL", "NODE", "SINCE"]);
    for entry in answer["connections"].as_array().into_iter().flatten() {
        let protocol = format!("{} {}", cell(&entry["protocol"]), cell(&entry["transport"]));
        rows.row([
            cell(&entry["client"]),
            cell(&entry["address"]),
            protocol,
            cell(&entry["node"]),
            time(&entry["since"]),
        ]);
    }
    page(answer, "connections", rows.text())
}

pub(super) fn connection(answer: &Value) -> String {
    let mut about = Table::new(&["CLIENT", ""]);
    about.row(["id".to_owned(), cell(&answer["client"])]);
    about.row(["connected".to_owned(), cell(&answer["connected"])]);
    about.row(["remembered".to_owned(), cell(&answer["remembered"])]);
    for name in ["address", "protocol", "transport", "node"] {
        about.row([name.to_owned(), cell(&answer["connection"][name])]);
    }
    about.row(["since".to_owned(), time(&answer["connection"]["since"])]);
    for name in ["queued_bytes", "in_flight", "window_full"] {
        about.row([name.to_owned(), cell(&answer["load"][name])]);
    }
    about.row(["subscriptions".to_owned(), cell(&answer["subscription_count"])]);
    about.row(["pending messages".to_owned(), cell(&answer["pending_messages"])]);
    let mut subscriptions = Table::new(&["SUBSCRIPTION", "PERSISTENT", "PENDING"]);
    let pending = answer["pending"].as_array();
    for entry in answer["subscriptions"].as_array().into_iter().flatten() {
        let of = |entry: &Value| (entry["channel"].clone(), entry["filter"].clone());
        let waiting = pending.into_iter().flatten().find(|pending| of(pending) == of(entry));
        let name = format!("{}{}", cell(&entry["channel"]), cell(&entry["filter"]));
        let waiting = waiting.map_or_else(String::new, |pending| cell(&pending["messages"]));
        subscriptions.row([name, cell(&entry["persistent"]), waiting]);
    }
    format!("{}\n\n{}", about.text(), subscriptions.text())
}

pub(super) fn slow(answer: &Value) -> String {
    let head = &["CLIENT", "ADDRESS", "QUEUED BYTES", "IN FLIGHT", "WINDOW FULL"];
    table(&answer["clients"], head, &["client", "address", "queued_bytes", "in_flight", "window_full"])
}

pub(super) fn subscriptions(answer: &Value) -> String {
    let list = table(&answer["subscriptions"], &["CLIENT", "PERSISTENT"], &["client", "persistent"]);
    page(answer, "subscriptions", list)
}

pub(super) fn pending(answer: &Value) -> String {
    let mut table = Table::new(&["CHANNEL", "MESSAGES"]);
    for entry in answer["pending"].as_array().into_iter().flatten() {
        let name = format!("{}{}", cell(&entry["channel"]), cell(&entry["filter"]));
        table.row([name, cell(&entry["messages"])]);
    }
    format!("{}\n{} messages", table.text(), cell(&answer["messages"]))
}

fn existed(answer: &Value, done: &str, nothing: &str) -> String {
    if answer["existed"] == true { done.to_owned() } else { nothing.to_owned() }
}

pub(super) fn unsubscribed(answer: &Value) -> String {
    existed(answer, "unsubscribed", "the client had no such subscription")
}

pub(super) fn disconnected(answer: &Value) -> String {
    existed(answer, "disconnected", "the client was not connected")
}

pub(super) fn cleared(answer: &Value) -> String {
    existed(answer, "deleted", "the channel had no retained message")
}

pub(super) fn purged(answer: &Value) -> String {
    format!("dropped {} messages", cell(&answer["dropped"]))
}

pub(super) fn drained(answer: &Value) -> String {
    format!(
        "closing {} sessions; the server must be restarted to serve clients again",
        cell(&answer["sessions"])
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let answer = json!({ "nodes": [{ "node": "üä", "this": true, "present": false }, { "node": "longer", "this": false }] });
        assert_eq!(nodes(&answer), "NODE    THIS  PRESENT\nüä      yes   no\nlonger  no");
        let answer =
            json!({ "subscriptions": [{ "client": "a", "persistent": true }], "matching": 7, "next": "a" });
        assert_eq!(subscriptions(&answer), "CLIENT  PERSISTENT\na       yes\n1 of 7; more: --after \"a\"");
    }
}
