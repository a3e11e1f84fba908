//! Text to rules.

use super::pattern::Pattern;
use super::{Rule, Who};
use crate::watched::Problem;

/// Reads the lines, or names every mistake.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>, Vec<Problem>> {
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match rule(line) {
            Ok(rule) => rules.push(Rule { line: index + 1, ..rule }),
            Err(problem) => problems.push(Problem::in_line(index + 1, problem)),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn rule(line: &str) -> Result<Rule, String> {
    let mut words = Words(line);
    let allows = match words.next()? {
        Some("allow") => true,
        Some("deny") => false,
        // Not quoted: it may be a line of a file with passwords.
        _ => return Err("expected `allow` or `deny` at the beginning".to_owned()),
    };
    let who = match words.next()? {
        Some("all") => Who::All,
        Some("anonymous") => Who::Anonymous,
        Some("user") => Who::User(words.next()?.ok_or("expected a user name after `user`")?.into()),
        Some("client") => Who::Client(words.next()?.ok_or("expected a client id after `client`")?.into()),
        other => return Err(unexpected("`all`, `anonymous`, `user NAME` or `client ID`", other)),
    };
    let (reads, writes) = match words.next()? {
        Some("read") => (true, false),
        Some("write") => (false, true),
        Some("both") => (true, true),
        other => return Err(unexpected("`read`, `write` or `both`", other)),
    };
    let pattern = match without_comment(words.0.trim()) {
        "" => return Err("expected a pattern, such as news/#, at the end of the line".to_owned()),
        pattern => Pattern::parse(pattern)?,
    };
    Ok(Rule { line: 0, allows, who, reads, writes, pattern })
}

/// The pattern before a comment. A `#` behind space is none of a pattern, in which `#` is a whole level.
fn without_comment(pattern: &str) -> &str {
    let mut before = ' ';
    let comment = pattern.char_indices().find(|&(index, character)| {
        let is_comment = index > 0 && character == '#' && before.is_whitespace();
        before = character;
        is_comment
    });
    comment.map_or(pattern, |(index, _)| pattern[..index].trim_end())
}

fn unexpected(expected: &str, found: Option<&str>) -> String {
    match found {
        Some(found) => format!("expected {expected}, found {found:?}"),
        None => format!("expected {expected}, found the end of the line"),
    }
}

/// The rest of a line.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    /// The next word, without its quotes; `None` at the end.
    fn next(&mut self) -> Result<Option<&'a str>, String> {
        self.0 = self.0.trim_start();
        if let Some(quoted) = self.0.strip_prefix('"') {
            let (word, rest) =
                quoted.split_once('"').ok_or("a double quote at the end of the name is missing")?;
            self.0 = rest;
            return Ok(Some(word));
        }
        let end = self.0.find(char::is_whitespace).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Ok(Some(word).filter(|word| !word.is_empty()))
    }
}
