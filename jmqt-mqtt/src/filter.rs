//! Topic filters: wildcards, shared subscriptions, and what they match (4.7, 4.8).

use std::borrow::Cow;

use crate::escape::{inner_level_to_name, topic_to_name};
use crate::topic::{InvalidTopic, check_text, has_wildcard};
use crate::trie::Level;

/// A topic filter that has been checked: 1 to 2,048 bytes, at most 200 `/`, each wildcard alone in its level (4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    whole: &'a str,
    group: Option<&'a str>,
    path: &'a str,
}

impl<'a> Filter<'a> {
    /// Checks a filter of a SUBSCRIBE or UNSUBSCRIBE.
    ///
    /// # Errors
    /// It is not a filter, or above a limit.
    pub fn parse(filter: &'a str) -> Result<Self, InvalidTopic> {
        check_text(filter)?;
        let (group, path) = match filter.strip_prefix("$share/") {
            None if filter == "$share" => return Err(InvalidTopic::Share),
            None => (None, filter),
            Some(rest) => {
                let (group, path) = rest.split_once('/').ok_or(InvalidTopic::Share)?;
                // A group has no `/` here. [MQTT-4.8.2-1] [MQTT-4.8.2-2]
                if group.is_empty() || group.contains(['+', '#']) || path.is_empty() {
                    return Err(InvalidTopic::Share);
                }
                (Some(group), path)
            }
        };
        check_wildcards(path)?;
        Ok(Self { whole: filter, group, path })
    }

    /// The filter as it is on the wire, with `$share/GROUP/`. Two filters are the same if this is the same, character by
    /// character [MQTT-3.10.4-1].
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.whole
    }

    /// The group of a shared subscription (4.8.2).
    #[must_use]
    pub const fn group(self) -> Option<&'a str> {
        self.group
    }

    /// The filter without `$share/GROUP/`.
    #[must_use]
    pub const fn path(self) -> &'a str {
        self.path
    }

    /// Whether it has `+` or `#`. A filter without them is the name of one topic.
    #[must_use]
    pub fn has_wildcard(self) -> bool {
        has_wildcard(self.path)
    }

    /// The JMQT name of the one topic that a filter without wildcards matches; `None` if it has wildcards.
    #[must_use]
    pub fn channel(self) -> Option<Cow<'a, str>> {
        (!self.has_wildcard()).then(|| topic_to_name(self.path))
    }

    /// The levels as a [`Trie`](crate::Trie) of JMQT names takes them: literal levels are not escaped any more.
    pub fn levels(self) -> impl Iterator<Item = Level<'a>> + Clone + use<'a> {
        self.path.split('/').enumerate().map(|(index, level)| match level {
            "+" => Level::One,
            "#" => Level::Rest,
            _ if index == 0 => Level::Literal(topic_to_name(level)),
            _ => Level::Literal(inner_level_to_name(level)),
        })
    }

    /// Whether the filter matches this topic, both as they are on the wire (4.7).
    ///
    /// Wildcards at the beginning do not match a topic that begins with `$` [MQTT-4.7.2-1].
    #[must_use]
    pub fn matches(self, topic: &str) -> bool {
        if topic.starts_with('$') && self.path.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in self.path.split('/') {
            match (wanted, levels.next()) {
                // `a/#` matches `a` too: then there is no level left.
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

fn check_wildcards(path: &str) -> Result<(), InvalidTopic> {
    let mut levels = path.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(InvalidTopic::MultiLevelWildcard);
        }
        if level.contains('+') && level != "+" {
            return Err(InvalidTopic::SingleLevelWildcard);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(filter: &str) -> Filter<'_> {
        Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"))
    }

    #[test] // [MQTT-4.7.1-1] [MQTT-4.7.1-2] (3.1.1: -2, -3) [MQTT-4.7.3-1] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    fn filters_are_checked() {
        for good in [
            "a",
            "#",
            "+",
            "a/#",
            "+/+/#",
            "/+",
            "+/",
            "//",
            "$SYS/#",
            "$share/g/#",
            "$share/g//",
            "$share/g/$x",
            "$sharex",
        ] {
            parse(good);
        }
        for (bad, error) in [
            ("", InvalidTopic::Empty),
            ("a#", InvalidTopic::MultiLevelWildcard),
            ("a/#/b", InvalidTopic::MultiLevelWildcard),
            ("#/", InvalidTopic::MultiLevelWildcard),
            ("##", InvalidTopic::MultiLevelWildcard),
            ("a+", InvalidTopic::SingleLevelWildcard),
            ("+a/b", InvalidTopic::SingleLevelWildcard),
            ("a/++", InvalidTopic::SingleLevelWildcard),
            ("$share", InvalidTopic::Share),
            ("$share/", InvalidTopic::Share),
            ("$share/g", InvalidTopic::Share),
            ("$share/g/", InvalidTopic::Share),
            ("$share//x", InvalidTopic::Share),
            ("$share/g+/x", InvalidTopic::Share),
            ("$share/#/x", InvalidTopic::Share),
            ("$share/g/a#", InvalidTopic::MultiLevelWildcard),
            ("a\u{1}", InvalidTopic::Character(1)),
        ] {
            assert_eq!(Filter::parse(bad), Err(error), "{bad}");
        }
    }

    #[test] // 4.7.1.2, 4.7.1.3, [MQTT-4.7.2-1]
    fn filters_match_what_the_specification_says() {
        for (filter, topic, is_match) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("+", "", true),
            ("#", "$SYS/a", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/+/#", "a/$x", true),
            ("ACCOUNTS", "Accounts", false),
            ("a/b", "a/b", true),
            ("a/b", "a", false),
            ("$share/g/a/+", "a/b", true),
            ("\u{FEFF}a", "a", false), // [MQTT-4.7.3-4]
        ] {
            assert_eq!(parse(filter).matches(topic), is_match, "{filter} and {topic}");
        }
    }

    #[test]
    fn a_filter_knows_its_group_and_its_channel() {
        let filter = parse("$share/g/room%233/x");
        assert_eq!(
            (filter.group(), filter.path(), filter.as_str()),
            (Some("g"), "room%233/x", "$share/g/room%233/x")
        );
        assert_eq!(filter.channel().as_deref(), Some("room#3/x"));
        assert_eq!(parse("a/+").channel(), None);
        let levels: Vec<_> = parse("%23a/+/%23b/#").levels().collect();
        assert_eq!(
            levels,
            [Level::Literal("%23a".into()), Level::One, Level::Literal("#b".into()), Level::Rest]
        );
    }

    /// The rules of 4.7 as they are told, by trying everything a wildcard may stand for.
    pub(crate) fn slowly_matches(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (Some((&"#", _)), _) => true,
            (Some((&"+", filter)), Some((_, topic))) => slowly_matches(filter, topic),
            (Some((level, filter)), Some((other, topic))) => level == other && slowly_matches(filter, topic),
            (None, None) => true,
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        #[test]
        fn matching_agrees_with_the_slow_way(
            filter in r"([ab+]|\$|)(/([ab+]|)){0,4}(/#)?|#",
            topic in r"(a|b|\$|)(/(a|b|)){0,5}",
        ) {
            let levels = |text: &'static str| text.split('/').collect::<Vec<_>>();
            let (filter, topic): (&'static str, &'static str) = (filter.leak(), topic.leak());
            let Ok(parsed) = Filter::parse(filter) else { return Ok(()) };
            let is_hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
            prop_assert_eq!(
                parsed.matches(topic),
                !is_hidden && slowly_matches(&levels(filter), &levels(topic)),
                "{} and {}", filter, topic
            );
        }

        #[test]
        fn any_text_is_a_filter_or_refused(filter in r"(\$share/|[ab+#/$]){0,8}|.{0,12}") {
            if let Ok(parsed) = Filter::parse(&filter) {
                prop_assert_eq!(parsed.levels().count(), parsed.path().split('/').count());
                let _ = parsed.matches("a/b");
            }
        }
    }
}
