//! Finds the rules of a topic, the most specific pattern first, without looking at all rules.

use std::collections::HashMap;

use jmqt_mqtt::client_to_topic;

use super::pattern::{Pattern, expand, is_template};
use super::set::RuleSet;
use super::{Asker, Who};

/// With more templates than these, they are looked up instead of being tried.
const FEW: usize = 8;

/// A level of the patterns, with those that go on behind it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The rules whose pattern ends here.
    rules: RuleSet,
    /// The rules whose pattern ends with a `#` here.
    rest: RuleSet,
    text: HashMap<Box<str>, Tree>,
    templates: Templates,
    one: Option<Box<Tree>>,
}

/// Levels with `%u` and `%c`.
#[derive(Debug, Default)]
struct Templates {
    /// With one name.
    simple: HashMap<Box<str>, Tree>,
    /// With several.
    other: HashMap<Box<str>, Tree>,
    /// The length of the longest simple one.
    longest: usize,
}

impl Templates {
    fn entry(&mut self, level: &str) -> &mut Tree {
        let names = level.matches("%u").count() + level.matches("%c").count();
        if names > 1 {
            return self.other.entry(level.into()).or_default();
        }
        self.longest = self.longest.max(level.len());
        self.simple.entry(level.into()).or_default()
    }

    /// The trees of those that are this level for who asks.
    fn matching<'t>(&'t self, level: &str, asker: Asker<'_>) -> Vec<&'t Tree> {
        let is_level = |of: &str| expand(of, asker).as_deref() == Some(level);
        let try_all = |templates: &'t HashMap<Box<str>, Tree>, found: &mut Vec<&'t Tree>| {
            found.extend(templates.iter().filter(|(of, _)| is_level(of)).map(|(_, tree)| tree));
        };
        let mut found = Vec::new();
        try_all(&self.other, &mut found);
        if self.simple.len() <= FEW {
            try_all(&self.simple, &mut found);
            return found;
        }
        let user = asker.user.map(|user| ("%u", client_to_topic(user)));
        for (name, text) in user.into_iter().chain([("%c", client_to_topic(asker.client))]) {
            // A level that is longer has no template, and must not be looked up for each place.
            if text.is_empty() || (level.len() + name.len()).saturating_sub(text.len()) > self.longest {
                continue;
            }
            for at in places(level, &text) {
                let template = [&level[..at], name, &level[at + text.len()..]].concat();
                if let Some(tree) = self.simple.get(&*template).filter(|_| is_level(&template)) {
                    found.push(tree);
                }
            }
        }
        found
    }
}

/// All places of a text in a level, also overlapping ones.
fn places(level: &str, text: &str) -> impl Iterator<Item = usize> {
    level.char_indices().map(|(at, _)| at).filter(move |at| level[*at..].starts_with(text))
}

impl Tree {
    /// Adds a rule with this pattern.
    pub(super) fn insert(&mut self, pattern: &Pattern, who: &Who, rule: usize) {
        let mut tree = self;
        for level in pattern.levels() {
            tree = match level {
                "#" => {
                    tree.rest.insert(who, rule);
                    return;
                }
                "+" => tree.one.get_or_insert_default(),
                level if is_template(level) => tree.templates.entry(level),
                level => tree.text.entry(level.into()).or_default(),
            };
        }
        tree.rules.insert(who, rule);
    }

    /// What `choose` takes of the rules of the most specific patterns of which it takes something.
    pub(super) fn find<T>(
        &self,
        topic: &str,
        asker: Asker<'_>,
        choose: impl Fn(&mut dyn Iterator<Item = usize>) -> Option<T>,
    ) -> Option<T> {
        // Wildcards and names at the beginning do not match a `$` there.
        find_below(&[self], Some(topic), asker, !topic.starts_with('$'), &choose)
    }
}

/// Looks behind these trees, whose patterns are equally specific so far.
fn find_below<T>(
    trees: &[&Tree],
    topic: Option<&str>,
    asker: Asker<'_>,
    matches_wildcards: bool,
    choose: &impl Fn(&mut dyn Iterator<Item = usize>) -> Option<T>,
) -> Option<T> {
    if trees.is_empty() {
        return None;
    }
    let rest = || choose(&mut trees.iter().flat_map(|tree| tree.rest.of(asker)));
    let Some(topic) = topic else {
        return choose(&mut trees.iter().flat_map(|tree| tree.rules.of(asker))).or_else(rest);
    };
    let (level, behind) = match topic.split_once('/') {
        Some((level, behind)) => (level, Some(behind)),
        None => (topic, None),
    };
    let text: Vec<&Tree> =
        trees.iter().flat_map(|tree| tree.behind_text(level, asker, matches_wildcards)).collect();
    let found = find_below(&text, behind, asker, true, choose);
    if found.is_some() || !matches_wildcards {
        return found;
    }
    let one: Vec<&Tree> = trees.iter().filter_map(|tree| tree.one.as_deref()).collect();
    find_below(&one, behind, asker, true, choose).or_else(rest)
}

impl Tree {
    /// The trees behind a level of text.
    fn behind_text<'t>(
        &'t self,
        level: &str,
        asker: Asker<'_>,
        with_templates: bool,
    ) -> impl Iterator<Item = &'t Self> {
        let templates = if with_templates { self.templates.matching(level, asker) } else { Vec::new() };
        self.text.get(level).into_iter().chain(templates)
    }
}
