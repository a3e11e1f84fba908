//! A set of many filters, which finds those that match a name (4.7).
//!
//! It does not depend on packets and escapes: a filter is a sequence of [`Level`]s, a name is text with `/` between its levels. Nothing here
//! recurses, so a filter may have any number of levels.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use foldhash::fast::RandomState;

/// One level of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Level<'a> {
    /// This text.
    Literal(Cow<'a, str>),
    /// `+`: one level of any text, also an empty one.
    One,
    /// `#`: any number of levels, also none. The levels after it are not looked at.
    Rest,
}

/// Filters with a value each, a set of subscribers for example.
///
/// A lookup takes time by the levels of the name and the filters with `+` that go along with it, not by the number of filters. Each filter
/// costs its own levels: those that it shares with others are there once, and removing the last filter frees them.
pub struct Trie<V> {
    root: Node<V>,
    len: usize,
}

struct Node<V> {
    /// Of the filter that ends here.
    value: Option<V>,
    /// Of the filter that goes on with `#` here.
    rest: Option<V>,
    /// The filters that go on with `+`.
    one: Option<Box<Self>>,
    /// The filters that go on with a literal level.
    literals: Literals<V>,
}

/// Most nodes have no child, or one: only the others get a table.
#[allow(clippy::box_collection, reason = "a table in place would make every node half as large again")]
enum Literals<V> {
    None,
    One(Box<str>, Box<Node<V>>),
    Many(Box<HashMap<Box<str>, Node<V>, RandomState>>),
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Trie<V> {
    /// Without filters.
    #[must_use]
    pub const fn new() -> Self {
        Self { root: Node::new(), len: 0 }
    }

    /// How many filters there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no filter.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of this very filter.
    pub fn get<'a>(&self, filter: impl Iterator<Item = Level<'a>>) -> Option<&V> {
        let mut node = &self.root;
        for level in filter {
            node = match level {
                Level::Rest => return node.rest.as_ref(),
                Level::One => node.one.as_deref()?,
                Level::Literal(text) => node.literals.get(&text)?,
            };
        }
        node.value.as_ref()
    }

    /// The value of this very filter, to change it.
    pub fn get_mut<'a>(&mut self, filter: impl Iterator<Item = Level<'a>>) -> Option<&mut V> {
        let mut node = &mut self.root;
        for level in filter {
            node = match level {
                Level::Rest => return node.rest.as_mut(),
                Level::One => node.one.as_deref_mut()?,
                Level::Literal(text) => node.literals.get_mut(&text)?,
            };
        }
        node.value.as_mut()
    }

    /// The value of this filter, which is made if the filter is new.
    pub fn get_or_insert_with<'a>(
        &mut self,
        filter: impl Iterator<Item = Level<'a>>,
        make: impl FnOnce() -> V,
    ) -> &mut V {
        let mut node = &mut self.root;
        let mut ends_with_rest = false;
        for level in filter {
            node = match level {
                Level::Rest => {
                    ends_with_rest = true;
                    break;
                }
                Level::One => node.one.get_or_insert_with(|| Box::new(Node::new())),
                Level::Literal(text) => node.literals.get_or_insert(&text),
            };
        }
        let slot = if ends_with_rest { &mut node.rest } else { &mut node.value };
        self.len += usize::from(slot.is_none());
        slot.get_or_insert_with(make)
    }

    /// Gives a filter this value, and returns the one it had.
    pub fn insert<'a>(&mut self, filter: impl Iterator<Item = Level<'a>>, value: V) -> Option<V> {
        let mut new = Some(value);
        let slot = self.get_or_insert_with(filter, || new.take().expect("it is made once"));
        new.map(|value| std::mem::replace(slot, value))
    }

    /// Removes a filter, and the levels that no other filter has.
    pub fn remove<'a>(&mut self, filter: impl Iterator<Item = Level<'a>>) -> Option<V> {
        let filter: Vec<_> = filter.collect();
        let keep = self.depth_to_keep(&filter)?;
        let mut node = &mut self.root;
        for level in &filter[..keep] {
            node = match level {
                Level::Rest => unreachable!("a filter goes no deeper than its `#`"),
                Level::One => node.one.as_deref_mut()?,
                Level::Literal(text) => node.literals.get_mut(text)?,
            };
        }
        self.len -= 1;
        // What hangs on this node by the next level is for this filter alone.
        let mut cut = match filter.get(keep) {
            None => return node.value.take(),
            Some(Level::Rest) => return node.rest.take(),
            Some(Level::One) => node.one.take()?,
            Some(Level::Literal(text)) => node.literals.remove(text)?,
        };
        for level in &filter[keep + 1..] {
            cut = match level {
                Level::Rest => return cut.rest.take(),
                Level::One => cut.one.take()?,
                Level::Literal(text) => cut.literals.remove(text)?,
            };
        }
        cut.value.take()
    }

    /// How many levels down the last node is that has something beside this filter; `None` if there is no such filter.
    fn depth_to_keep(&self, filter: &[Level<'_>]) -> Option<usize> {
        let mut node = &self.root;
        let mut keep = 0;
        for (depth, level) in filter.iter().enumerate() {
            if node.entries() > 1 {
                keep = depth;
            }
            node = match level {
                Level::Rest => return node.rest.as_ref().map(|_| keep),
                Level::One => node.one.as_deref()?,
                Level::Literal(text) => node.literals.get(text)?,
            };
        }
        if node.entries() > 1 {
            keep = filter.len();
        }
        node.value.as_ref().map(|_| keep)
    }

    /// Gives `visit` the value of each filter that matches this name, each once, in no order.
    ///
    /// Wildcards in the first level do not match names that begin with `$` [MQTT-4.7.2-1], nor the point-to-point names of JMQT,
    /// which begin with `#`.
    pub fn for_each_match<'t>(&'t self, name: &str, mut visit: impl FnMut(&'t V)) {
        let is_hidden = name.starts_with(['$', '#']);
        // A `+` beside a literal level that matches too: it is gone into later, with the part of the name after this place.
        let mut later: Vec<(&Node<V>, usize)> = Vec::new();
        // The first `at` bytes of the name lead to `node`. Past its end there is no level left.
        let (mut node, mut at) = (&self.root, 0);
        loop {
            let takes_wildcards = !(at == 0 && is_hidden);
            if let Some(value) = node.rest.as_ref().filter(|_| takes_wildcards) {
                visit(value);
            }
            let mut next = None;
            if at > name.len() {
                if let Some(value) = &node.value {
                    visit(value);
                }
            } else {
                let rest = &name.as_bytes()[at..];
                let end = at + memchr::memchr(b'/', rest).unwrap_or(rest.len());
                let one = node.one.as_deref().filter(|_| takes_wildcards);
                next = match (node.literals.get(&name[at..end]), one) {
                    (Some(literal), Some(one)) => {
                        later.push((one, end + 1));
                        Some((literal, end + 1))
                    }
                    (literal, one) => literal.or(one).map(|child| (child, end + 1)),
                };
            }
            match next.or_else(|| later.pop()) {
                Some(place) => (node, at) = place,
                None => return,
            }
        }
    }
}

impl<V> fmt::Debug for Trie<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trie").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Takes the nodes apart one by one: dropping them as they hang together would recurse as deep as the longest filter.
impl<V> Drop for Trie<V> {
    fn drop(&mut self) {
        let mut nodes = vec![std::mem::replace(&mut self.root, Node::new())];
        while let Some(mut node) = nodes.pop() {
            nodes.extend(node.one.take().map(|one| *one));
            match std::mem::replace(&mut node.literals, Literals::None) {
                Literals::None => {}
                Literals::One(_, child) => nodes.push(*child),
                Literals::Many(children) => nodes.extend(children.into_values()),
            }
        }
    }
}

impl<V> Node<V> {
    const fn new() -> Self {
        Self { value: None, rest: None, one: None, literals: Literals::None }
    }

    /// How many filters end here or children hang here.
    fn entries(&self) -> usize {
        usize::from(self.value.is_some())
            + usize::from(self.rest.is_some())
            + usize::from(self.one.is_some())
            + self.literals.len()
    }
}

impl<V> Literals<V> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(children) => children.len(),
        }
    }

    fn get(&self, text: &str) -> Option<&Node<V>> {
        match self {
            Self::None => None,
            Self::One(level, child) => (**level == *text).then_some(child),
            Self::Many(children) => children.get(text),
        }
    }

    fn get_mut(&mut self, text: &str) -> Option<&mut Node<V>> {
        match self {
            Self::None => None,
            Self::One(level, child) => (**level == *text).then_some(child),
            Self::Many(children) => children.get_mut(text),
        }
    }

    fn get_or_insert(&mut self, text: &str) -> &mut Node<V> {
        if self.get(text).is_none() {
            *self = match std::mem::replace(self, Self::None) {
                Self::None => Self::One(text.into(), Box::new(Node::new())),
                Self::One(level, child) => {
                    let children = [(level, *child), (text.into(), Node::new())];
                    Self::Many(Box::new(children.into_iter().collect()))
                }
                Self::Many(mut children) => {
                    children.insert(text.into(), Node::new());
                    Self::Many(children)
                }
            };
        }
        self.get_mut(text).expect("the child has just been made")
    }

    /// Gives memory back when few are left of many.
    fn remove(&mut self, text: &str) -> Option<Box<Node<V>>> {
        let (removed, left) = match std::mem::replace(self, Self::None) {
            Self::One(level, child) if *level == *text => (Some(child), Self::None),
            Self::Many(mut children) => {
                let removed = children.remove(text).map(Box::new);
                if children.len() > 1 {
                    if children.len() < children.capacity() / 4 {
                        children.shrink_to_fit();
                    }
                    (removed, Self::Many(children))
                } else {
                    let last = children.into_iter().next();
                    (removed, last.map_or(Self::None, |(level, child)| Self::One(level, Box::new(child))))
                }
            }
            other => (None, other),
        };
        *self = left;
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::filter::Filter;

    impl<V> Trie<V> {
        /// All nodes, and the room of their tables.
        fn size(&self) -> usize {
            let mut nodes = vec![&self.root];
            let mut size = 0;
            while let Some(node) = nodes.pop() {
                size += 1;
                nodes.extend(node.one.as_deref());
                match &node.literals {
                    Literals::None => {}
                    Literals::One(_, child) => nodes.push(child),
                    Literals::Many(children) => {
                        assert!(children.len() > 1);
                        size += children.capacity();
                        nodes.extend(children.values());
                    }
                }
            }
            size
        }
    }

    fn levels(filter: &str) -> impl Iterator<Item = Level<'_>> {
        Filter::parse(filter).unwrap().levels()
    }

    fn matches<'t>(trie: &'t Trie<String>, name: &str) -> Vec<&'t str> {
        let mut found = Vec::new();
        trie.for_each_match(name, |value| found.push(value.as_str()));
        found.sort_unstable();
        found
    }

    fn of(filters: &[&str]) -> Trie<String> {
        let mut trie = Trie::new();
        for filter in filters {
            assert_eq!(trie.insert(levels(filter), (*filter).to_owned()), None);
        }
        trie
    }

    #[test] // 4.7.1.2, 4.7.1.3, [MQTT-4.7.2-1]
    fn all_filters_that_match_are_found() {
        let trie =
            of(&["#", "+", "a", "a/#", "a/+", "a/b", "+/b", "+/+/c", "a/b/#", "/+", "$SYS/#", "$SYS/+"]);
        assert_eq!(matches(&trie, "a"), ["#", "+", "a", "a/#"]);
        assert_eq!(matches(&trie, "a/b"), ["#", "+/b", "a/#", "a/+", "a/b", "a/b/#"]);
        assert_eq!(matches(&trie, "a/"), ["#", "a/#", "a/+"]);
        assert_eq!(matches(&trie, "/x"), ["#", "/+"]);
        assert_eq!(matches(&trie, "x/y/c"), ["#", "+/+/c"]);
        assert_eq!(matches(&trie, "$SYS/b"), ["$SYS/#", "$SYS/+"]);
        assert_eq!(matches(&trie, "$x"), [""; 0]);
        assert_eq!(matches(&trie, "#bob"), [""; 0], "point-to-point names of JMQT");
        assert_eq!(matches(&trie, "x/b"), ["#", "+/b"]);
        assert_eq!(trie.len(), 12);
    }

    #[test]
    fn escaped_levels_match_unescaped_names() {
        let trie = of(&["room%233/+", "c%2B%2B"]);
        assert_eq!(matches(&trie, "room#3/x"), ["room%233/+"]);
        assert_eq!(matches(&trie, "c++"), ["c%2B%2B"]);
        assert_eq!(matches(&trie, "c%2B%2B"), [""; 0]);
    }

    #[test]
    fn values_are_replaced_changed_and_removed() {
        let mut trie = of(&["a/+", "a/#"]);
        assert_eq!(trie.insert(levels("a/+"), "new".into()).as_deref(), Some("a/+"));
        trie.get_or_insert_with(levels("a/#"), || unreachable!("it is there")).push('!');
        trie.get_mut(levels("a/+")).unwrap().push('?');
        assert_eq!(matches(&trie, "a/b"), ["a/#!", "new?"]);
        assert_eq!(trie.remove(levels("a")), None);
        assert_eq!(trie.remove(levels("a/b")), None);
        assert_eq!(trie.remove(levels("a/+")).as_deref(), Some("new?"));
        assert_eq!(trie.remove(levels("a/+")), None);
        assert_eq!((trie.get(levels("a/#")).map(String::as_str), trie.len()), (Some("a/#!"), 1));
    }

    #[test] // attack: a filter so deep that going into it by recursion overflows the stack
    fn a_deep_filter_is_inserted_matched_removed_and_dropped() {
        const DEPTH: usize = 200_000;
        let deep = || std::iter::repeat_n(Level::One, DEPTH);
        let name = "/".repeat(DEPTH - 1);
        let mut trie = Trie::new();
        trie.insert(deep(), 1);
        trie.insert(deep().chain([Level::Literal("x".into())]), 2);
        let mut found = Vec::new();
        trie.for_each_match(&name, |&value| found.push(value));
        assert_eq!(found, [1]);
        assert_eq!((trie.remove(deep()), trie.size()), (Some(1), DEPTH + 2));
        drop(trie);
        let mut trie = Trie::new();
        trie.insert(deep(), 1);
        assert_eq!((trie.remove(deep()), trie.size()), (Some(1), 1));
    }

    #[test] // attack: subscribe and unsubscribe many filters, again and again
    fn memory_is_proportional_to_the_content() {
        let mut trie = of(&["kept/+"]);
        for round in 0..3 {
            for number in 0..5_000 {
                trie.insert(levels(&format!("a/{number}/+/{round}/#")), String::new());
            }
            assert!(trie.size() > 15_000);
            for number in 0..5_000 {
                assert!(trie.remove(levels(&format!("a/{number}/+/{round}/#"))).is_some());
            }
            assert_eq!((trie.len(), trie.size()), (1, 3));
        }
        for number in 0..5_000 {
            trie.insert(levels(&format!("a/{number}")), String::new());
        }
        for number in 10..5_000 {
            trie.remove(levels(&format!("a/{number}")));
        }
        assert!(trie.size() < 100, "{}", trie.size());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(String),
        Remove(String),
        Match(String),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let filter = || r"[ab+](/([ab+]|)){0,3}(/#)?|#|\$[ab](/[a+])?";
        vec(
            prop_oneof![
                filter().prop_map(Step::Insert),
                filter().prop_map(Step::Remove),
                r"[abc$](/[abc]?){0,4}".prop_map(Step::Match),
            ],
            0..60,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn agrees_with_trying_each_filter(steps in steps()) {
            let mut trie = Trie::new();
            let mut all = BTreeMap::new();
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Insert(filter) => {
                        prop_assert_eq!(trie.insert(levels(filter), number), all.insert(filter.clone(), number));
                    }
                    Step::Remove(filter) => {
                        prop_assert_eq!(trie.remove(levels(filter)), all.remove(filter));
                    }
                    Step::Match(name) => {
                        let mut found = Vec::new();
                        trie.for_each_match(name, |&value| found.push(value));
                        found.sort_unstable();
                        let matching = all.iter().filter(|(filter, _)| Filter::parse(filter).unwrap().matches(name));
                        let mut expected: Vec<usize> = matching.map(|(_, &value)| value).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(found, expected, "{}", name);
                    }
                }
                prop_assert_eq!(trie.len(), all.len());
                for (filter, value) in &all {
                    prop_assert_eq!(trie.get(levels(filter)), Some(value));
                }
            }
            for filter in all.keys() {
                prop_assert!(trie.remove(levels(filter)).is_some());
            }
            prop_assert_eq!(trie.size(), 1);
        }
    }
}
