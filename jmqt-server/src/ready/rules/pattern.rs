//! The pattern of a rule: an MQTT filter with `%u` and `%c`.

use std::borrow::Cow;
use std::cmp::Ordering;

use jmqt_mqtt::{Filter, client_to_topic};

use super::Asker;

/// A pattern that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Box<str>,
}

/// A pattern in which `%u` and `%c` have been replaced.
#[derive(Debug, Clone)]
pub(super) struct Expanded<'a>(Vec<Level<'a>>);

/// A level of a pattern or of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Level<'a> {
    /// `#`
    Rest,
    /// `+`
    One,
    Text(Cow<'a, str>),
}

impl Pattern {
    /// Checks a pattern; an error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$share/") {
            return Err(format!(
                "{text:?}: leave out $share and the group: rules are for the filter behind them"
            ));
        }
        Filter::parse(text).map_err(|error| format!("{text:?} is not a pattern: {error}"))?;
        Ok(Self { text: text.into() })
    }

    /// The first level if it is text: only filters with the same one, or with a wildcard, are of interest then.
    pub(super) fn first_text(&self) -> Option<&str> {
        self.levels().next().filter(|level| !matches!(*level, "+" | "#") && !is_template(level))
    }

    /// The first `%` with a letter that is neither a name nor an escape such as `%23`.
    pub(super) fn unknown_name(&self) -> Option<&str> {
        let mut places = self.text.match_indices('%').map(|(index, _)| index);
        let index = places.find(|index| {
            let behind = self.text[index + 1..].as_bytes();
            let is_escape = behind.len() > 1 && behind[..2].iter().all(u8::is_ascii_hexdigit);
            behind.first().is_some_and(u8::is_ascii_alphabetic)
                && !is_escape
                && !matches!(behind[0], b'u' | b'c')
        })?;
        Some(&self.text[index..index + 2])
    }

    /// The levels as they are written.
    pub(super) fn levels(&self) -> impl Iterator<Item = &str> {
        self.text.split('/')
    }

    /// The pattern for who asks; `None` if it has `%u` and the client is anonymous.
    pub(super) fn of<'a>(&'a self, asker: Asker<'a>) -> Option<Expanded<'a>> {
        let level = |(index, level): (usize, &'a str)| match level {
            "#" => Some(Level::Rest),
            "+" => Some(Level::One),
            _ => {
                let text = expand(level, asker)?;
                // A name never makes a topic of the server's own.
                let is_own = index == 0 && is_template(level) && text.starts_with('$');
                (!is_own).then_some(Level::Text(text))
            }
        };
        self.levels().enumerate().map(level).collect::<Option<Vec<_>>>().map(Expanded)
    }
}

/// Whether a level has `%u` or `%c`.
pub(super) fn is_template(level: &str) -> bool {
    level.contains("%u") || level.contains("%c")
}

/// A level with the names of who asks, as parts of a topic. They are text and never wildcards, and a name with `/` never fits into one level. `None` if
/// it has `%u` and the client is anonymous.
pub(super) fn expand<'a>(level: &'a str, asker: Asker<'_>) -> Option<Cow<'a, str>> {
    if !is_template(level) {
        return Some(level.into());
    }
    let (mut text, mut rest) = (String::with_capacity(level.len() + 32), level);
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("%u") {
            text.push_str(&client_to_topic(asker.user?));
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("%c") {
            text.push_str(&client_to_topic(asker.client));
            rest = behind;
        } else {
            text.push('%');
            rest = &rest[1..];
        }
    }
    text.push_str(rest);
    Some(text.into())
}

fn levels_of(filter: &str) -> impl Iterator<Item = Level<'_>> {
    filter.split('/').map(|level| match level {
        "#" => Level::Rest,
        "+" => Level::One,
        _ => Level::Text(level.into()),
    })
}

impl Expanded<'_> {
    /// Whether it matches every topic that the filter matches.
    pub(super) fn covers(&self, filter: &str) -> bool {
        self.covers_levels(levels_of(filter))
    }

    /// Whether it matches every topic that the other pattern matches.
    pub(super) fn covers_pattern(&self, other: &Self) -> bool {
        self.covers_levels(other.0.iter().cloned())
    }

    fn covers_levels<'l>(&self, theirs: impl Iterator<Item = Level<'l>>) -> bool {
        let mut theirs = theirs.peekable();
        if self.begins_with_wildcard() && theirs.peek().is_some_and(begins_with_dollar) {
            return false;
        }
        for mine in &self.0 {
            match (mine, theirs.next()) {
                (Level::Rest, _) => return true,
                (Level::One, Some(Level::One | Level::Text(_))) => {}
                (Level::Text(mine), Some(Level::Text(theirs))) if *mine == theirs => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether there is a topic that it and the filter match.
    pub(super) fn overlaps(&self, filter: &str) -> bool {
        let theirs: Vec<Level<'_>> = levels_of(filter).collect();
        let is_apart = (self.begins_with_wildcard() && theirs.first().is_some_and(begins_with_dollar))
            || (filter.starts_with(['+', '#']) && self.0.first().is_some_and(begins_with_dollar));
        !is_apart && meet(&self.0, &theirs)
    }

    /// Compares how specific two patterns are that match the same topic: the greater one is more specific.
    pub(super) fn cmp_specific(&self, other: &Self) -> Ordering {
        let rank = |level: Option<&Level<'_>>| match level {
            Some(Level::Rest) => 0,
            Some(Level::One) => 1,
            // `a` is as specific as `a/b`, and more than `a/#`.
            Some(Level::Text(_)) | None => 2,
        };
        let longest = self.0.len().max(other.0.len());
        let ranks = (0..longest).map(|index| rank(self.0.get(index)).cmp(&rank(other.0.get(index))));
        ranks.fold(Ordering::Equal, Ordering::then)
    }

    fn begins_with_wildcard(&self) -> bool {
        matches!(self.0.first(), Some(Level::Rest | Level::One))
    }
}

fn begins_with_dollar(level: &Level<'_>) -> bool {
    matches!(level, Level::Text(text) if text.starts_with('$'))
}

/// Whether there is a topic with levels that both match.
fn meet(a: &[Level<'_>], b: &[Level<'_>]) -> bool {
    match (a, b) {
        // `a/#` matches `a` too.
        ([Level::Rest, ..], _) | (_, [Level::Rest, ..]) | ([], []) => true,
        ([a, a_rest @ ..], [b, b_rest @ ..]) => {
            let fits = match (a, b) {
                (Level::Text(a), Level::Text(b)) => a == b,
                _ => true,
            };
            fits && meet(a_rest, b_rest)
        }
        _ => false,
    }
}
