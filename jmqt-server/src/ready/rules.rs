//! Rules for channels: who may read and write what.

mod parse;
mod pattern;
mod set;
mod tree;

use std::collections::HashMap;

use jmqt_core::{ChannelKind, ChannelName, ClientId};
use jmqt_mqtt::{client_to_topic, name_to_topic};
use ring::digest;

use crate::watched::Problem;
use pattern::{Expanded, Pattern};
use set::RuleSet;
use tree::Tree;

/// A filter for which more pairs of rules would have to be compared is not allowed.
const MOST_COMPARISONS: usize = 100_000;

/// What a client wants to do with a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Subscribe to it.
    Read,
    /// Publish to it.
    Write,
}

/// Rules that allow and deny access to channels. What no rule allows is denied.
///
/// One rule a line: `allow` or `deny`; `all`, `anonymous`, `user NAME` or `client ID`; `read`, `write` or `both`; and a pattern.
///
/// ```text
/// # Everybody reads news, only the editor writes them.
/// allow all         read   news/#
/// allow user editor write  news/#
/// # Each user has a folder. Nobody reads the drafts of others.
/// allow all         both   home/%u/#
/// deny  all         read   news/drafts/#
/// ```
///
/// A pattern is an MQTT filter: `+` is one level, `#` all levels from there on. `%u` in it is the name of the user, `%c` the client
/// id. Channels are written as MQTT topics are: the point-to-point channel of a client is `$p2p/ID`, a channel `a#b` is `a%23b`.
/// Wildcards and names at the beginning do not match topics that begin with `$`. A name with space in it is in double quotes.
///
/// Of the rules that match, the one with the most specific pattern decides: level by level from the left, text is more specific
/// than `+`, and `+` is more specific than `#`. Of rules with equally specific patterns, one for a client comes before one for a user,
/// this before one for anonymous clients, and this before one for all; of two alike, `deny` decides. The order of the lines has no
/// meaning.
///
/// A subscription with wildcards is allowed if every channel that it matches may be read. With very many rules that deny parts of it, it
/// is not.
///
/// ```
/// use jmqt_server::ready::{Access, Rules};
/// use jmqt_server::{ChannelName, ClientId};
///
/// let rules = Rules::parse("allow user alice both home/alice/#\nallow all read news/#")?;
/// let (alice, client) = (Some("alice"), ClientId::parse("alice-phone")?);
/// let news = ChannelName::parse("news/today")?;
/// assert!(rules.allow(alice, &client, Access::Read, &news));
/// assert!(!rules.allow(alice, &client, Access::Write, &news));
/// assert!(rules.allow_filter(alice, &client, "home/alice/+"));
/// assert!(!rules.allow_filter(alice, &client, "home/#"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    tree: Tree,
    /// The rules whose pattern begins with this text.
    by_first: HashMap<Box<str>, RuleSet>,
    /// The rules whose pattern begins with a wildcard or a name.
    by_any: RuleSet,
    all: RuleSet,
    /// Of the rules.
    digest: [u8; 32],
}

/// Text that is not rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InvalidRules(pub Vec<Problem>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// In the text, from 1; 0 if there is none.
    line: usize,
    allows: bool,
    who: Who,
    reads: bool,
    writes: bool,
    pattern: Pattern,
}

/// Whom a rule is for, the most specific last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    All,
    Anonymous,
    User(Box<str>),
    Client(Box<str>),
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Asker<'a> {
    user: Option<&'a str>,
    client: &'a str,
}

impl Rule {
    fn is_for(&self, asker: Asker<'_>, access: Access) -> bool {
        let is_for_access = match access {
            Access::Read => self.reads,
            Access::Write => self.writes,
        };
        is_for_access
            && match &self.who {
                Who::All => true,
                Who::Anonymous => asker.user.is_none(),
                Who::User(user) => asker.user == Some(user),
                Who::Client(client) => asker.client == &**client,
            }
    }

    /// Which of two rules with equally specific patterns decides: the greater one.
    fn rank(&self) -> (u8, bool) {
        let who = match self.who {
            Who::All => 0,
            Who::Anonymous => 1,
            Who::User(_) => 2,
            Who::Client(_) => 3,
        };
        (who, !self.allows)
    }
}

impl Rules {
    /// Reads rules, one a line. Empty lines, lines that begin with `#`, and what follows ` #` behind a pattern, are left out.
    ///
    /// # Errors
    /// [`InvalidRules`] names every mistake with its line.
    pub fn parse(text: &str) -> Result<Self, InvalidRules> {
        parse::rules(text).map(Self::new).map_err(InvalidRules)
    }

    /// Rules that allow everybody to read and to write what these patterns match.
    ///
    /// # Errors
    /// [`InvalidRules`] names every pattern that is none.
    pub fn allowing<'a>(
        read: impl IntoIterator<Item = &'a str>,
        write: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidRules> {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        let read = read.into_iter().map(|pattern| (pattern, true));
        for (pattern, reads) in read.chain(write.into_iter().map(|pattern| (pattern, false))) {
            match Pattern::parse(pattern) {
                Ok(pattern) => {
                    rules.push(Rule { line: 0, allows: true, who: Who::All, reads, writes: !reads, pattern });
                }
                Err(problem) => problems.push(Problem::of_file(problem)),
            }
        }
        if problems.is_empty() { Ok(Self::new(rules)) } else { Err(InvalidRules(problems)) }
    }

    fn new(rules: Vec<Rule>) -> Self {
        let (mut tree, mut by_any, mut all) = (Tree::default(), RuleSet::default(), RuleSet::default());
        let mut by_first: HashMap<Box<str>, RuleSet> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            tree.insert(&rule.pattern, &rule.who, index);
            all.insert(&rule.who, index);
            match rule.pattern.first_text() {
                Some(text) => by_first.entry(text.into()).or_default().insert(&rule.who, index),
                None => by_any.insert(&rule.who, index),
            }
        }
        let digest = digest::digest(&digest::SHA256, format!("{rules:?}").as_bytes());
        let digest = digest.as_ref().try_into().unwrap_or_default();
        Self { rules, tree, by_first, by_any, all, digest }
    }

    /// A digest of the rules: other rules have another one.
    pub(super) const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The number of rules.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// The users whom rules name, each with the line of the rule.
    pub fn users(&self) -> impl Iterator<Item = (usize, &str)> {
        self.rules.iter().filter_map(|rule| match &rule.who {
            Who::User(user) => Some((rule.line, &**user)),
            _ => None,
        })
    }

    /// What looks like a name in a pattern, and is text: `%d`, for example, where only `%u` and `%c` are names. Each with the line
    /// of the rule.
    pub fn unknown_names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.rules.iter().filter_map(|rule| Some((rule.line, rule.pattern.unknown_name()?)))
    }

    /// Whether there is no rule, so that everything is denied.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether this client of this user (`None`: an anonymous client) may do that with this channel.
    #[must_use]
    pub fn allow(
        &self,
        user: Option<&str>,
        client: &ClientId,
        access: Access,
        channel: &ChannelName,
    ) -> bool {
        let asker = Asker { user, client: client.as_str() };
        let name = channel.as_str();
        match channel.kind() {
            ChannelKind::PeerToPeer => {
                let of = name.strip_prefix('#').unwrap_or(name);
                self.allow_topic(asker, access, &format!("$p2p/{}", client_to_topic(of)))
            }
            ChannelKind::Plain | ChannelKind::Control => {
                self.allow_topic(asker, access, &name_to_topic(name))
            }
        }
    }

    fn allow_topic(&self, asker: Asker<'_>, access: Access, topic: &str) -> bool {
        let decisive = self.tree.find(topic, asker, |rules| {
            let rules = rules.map(|index| &self.rules[index]);
            rules.filter(|rule| rule.is_for(asker, access)).max_by_key(|rule| rule.rank())
        });
        decisive.is_some_and(|rule| rule.allows)
    }

    /// Whether this client of this user may read every channel that an MQTT filter matches.
    #[must_use]
    pub fn allow_filter(&self, user: Option<&str>, client: &ClientId, filter: &str) -> bool {
        let asker = Asker { user, client: client.as_str() };
        let rules = self.beginning_like(filter, asker);
        if !rules.iter().any(|(rule, pattern)| rule.allows && pattern.covers(filter)) {
            return false;
        }
        let denying: Vec<_> =
            rules.iter().filter(|(rule, pattern)| !rule.allows && pattern.overlaps(filter)).collect();
        if denying.len().saturating_mul(rules.len()) > MOST_COMPARISONS {
            return false;
        }
        // No rule that denies may decide about a channel of the filter: one that allows must cover the same channels and come first.
        denying.iter().all(|(denying, denied)| {
            rules.iter().filter(|(rule, _)| rule.allows).any(|(allowing, allowed)| {
                let order = allowed.cmp_specific(denied).then_with(|| allowing.rank().cmp(&denying.rank()));
                order.is_gt() && (allowed.covers(filter) || allowed.covers_pattern(denied))
            })
        })
    }

    /// The rules for who asks that may match a topic of a filter.
    fn beginning_like<'r>(&'r self, filter: &str, asker: Asker<'r>) -> Vec<(&'r Rule, Expanded<'r>)> {
        let of = |rule: &'r Rule| {
            let is_for = rule.is_for(asker, Access::Read);
            is_for.then(|| rule.pattern.of(asker)).flatten().map(|pattern| (rule, pattern))
        };
        match filter.split('/').next() {
            Some(first) if !matches!(first, "+" | "#") => {
                let same = self.by_first.get(first).into_iter().flat_map(|rules| rules.of(asker));
                same.chain(self.by_any.of(asker)).filter_map(|index| of(&self.rules[index])).collect()
            }
            _ => self.all.of(asker).filter_map(|index| of(&self.rules[index])).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
