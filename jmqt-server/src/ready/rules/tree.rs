//! Finds the rules of a topic, the most specific pattern first, without looking at all rules.

use std::collections::HashMap;

use super::Asker;
use super::pattern::{Pattern, expand, is_template};

/// A level of the patterns, with those that go on behind it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The rules whose pattern ends here.
    rules: Vec<usize>,
    /// The rules whose pattern ends with a `#` here.
    rest: Vec<usize>,
    text: HashMap<Box<str>, Tree>,
    /// Levels with `%u` and `%c`.
    templates: Vec<(Box<str>, Tree)>,
    one: Option<Box<Tree>>,
}

impl Tree {
    /// Adds a rule with this pattern.
    pub(super) fn insert(&mut self, pattern: &Pattern, rule: usize) {
        let mut tree = self;
        for level in pattern.levels() {
            tree = match level {
                "#" => {
                    tree.rest.push(rule);
                    return;
                }
                "+" => tree.one.get_or_insert_default(),
                level if is_template(level) => {
                    let known = tree.templates.iter().position(|(of, _)| **of == *level);
                    let index = known.unwrap_or_else(|| {
                        tree.templates.push((level.into(), Self::default()));
                        tree.templates.len() - 1
                    });
                    &mut tree.templates[index].1
                }
                level => tree.text.entry(level.into()).or_default(),
            };
        }
        tree.rules.push(rule);
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
    let rest = || choose(&mut trees.iter().flat_map(|tree| tree.rest.iter().copied()));
    let Some(topic) = topic else {
        return choose(&mut trees.iter().flat_map(|tree| tree.rules.iter().copied())).or_else(rest);
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
        let is_level = move |(of, _): &&(Box<str>, Self)| expand(of, asker).as_deref() == Some(level);
        let templates = self.templates.iter().filter(move |_| with_templates).filter(is_level);
        self.text.get(level).into_iter().chain(templates.map(|(_, tree)| tree))
    }
}
