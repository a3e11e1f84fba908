//! JMQT names as MQTT topics and back: a bijection.
//!
//! Only `#` and `+` cannot be in a topic name and may be in a JMQT name. As topic, `#` is `%23` and `+` is `%2B`. A JMQT
//! name that has such a sequence itself gets one more `25`: `%23` is `%2523`, `%2523` is `%252523`. So each name has one
//! topic and each topic one name, and every name without these sequences is its own topic.
//!
//! At the very beginning of a name the sequences for `#` are left as they are in both directions: the topic `%23bob` must not
//! become the point-to-point channel `#bob`. Point-to-point channels have topics of their own, `$p2p/bob`.

use std::borrow::Cow;

/// The topic of a plain or control JMQT name.
///
/// The name must not begin with `#`, which is point-to-point; one that does is no valid topic.
#[must_use]
pub fn name_to_topic(name: &str) -> Cow<'_, str> {
    rewrite(name, true, add)
}

/// The filter for topics that matches the topics of those names that a filter for JMQT names matches.
///
/// In a filter `#` and `+` are always wildcards. So they stay as they are, and only sequences that are a part of names are
/// escaped. Where a wildcard is not allowed the result is invalid too.
#[must_use]
pub fn name_filter_to_topic_filter(filter: &str) -> Cow<'_, str> {
    rewrite(filter, true, |piece, out| match piece {
        Piece::Wildcard(of) => out.push(char::from(of)),
        Piece::Sequence { .. } => add(piece, out),
    })
}

/// The JMQT name of a topic.
#[must_use]
pub fn topic_to_name(topic: &str) -> Cow<'_, str> {
    rewrite(topic, true, remove)
}

/// A client id as a part of a topic: `$p2p/ID`. A `#` at its beginning is escaped like any other.
#[must_use]
pub fn client_to_topic(client: &str) -> Cow<'_, str> {
    rewrite(client, false, add)
}

/// The client id that was a part of a topic.
#[must_use]
pub fn topic_to_client(part: &str) -> Cow<'_, str> {
    rewrite(part, false, remove)
}

/// A level of a filter that is not the first: its first character is not the beginning of a name.
pub(crate) fn inner_level_to_name(level: &str) -> Cow<'_, str> {
    rewrite(level, false, remove)
}

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// `#` or `+`.
    Wildcard(u8),
    /// `%`, then `25` as often as this, then `23` or `2B`, which stands for this character.
    Sequence { fives: usize, of: u8 },
}

/// The piece at the beginning of `bytes`, and its length; `None` if there is none.
fn piece(bytes: &[u8]) -> Option<(Piece, usize)> {
    match bytes.first()? {
        &wildcard @ (b'#' | b'+') => return Some((Piece::Wildcard(wildcard), 1)),
        b'%' => {}
        _ => return None,
    }
    let mut fives = 0;
    while bytes[1 + 2 * fives..].starts_with(b"25") {
        fives += 1;
    }
    let end = 1 + 2 * fives;
    let of = match bytes.get(end..end + 2)? {
        b"23" => b'#',
        b"2B" => b'+',
        _ => return None,
    };
    Some((Piece::Sequence { fives, of }, end + 2))
}

fn add(piece: Piece, out: &mut String) {
    match piece {
        Piece::Wildcard(of) => sequence(0, of, out),
        Piece::Sequence { fives, of } => sequence(fives + 1, of, out),
    }
}

fn remove(piece: Piece, out: &mut String) {
    match piece {
        // A topic has none; it is left as it is.
        Piece::Wildcard(of) | Piece::Sequence { fives: 0, of } => out.push(char::from(of)),
        Piece::Sequence { fives, of } => sequence(fives - 1, of, out),
    }
}

fn sequence(fives: usize, of: u8, out: &mut String) {
    out.push('%');
    out.extend(std::iter::repeat_n("25", fives));
    out.push_str(if of == b'#' { "23" } else { "2B" });
}

/// Replaces each piece; `at_start` says that the text begins where a name begins.
fn rewrite(text: &str, at_start: bool, replace: fn(Piece, &mut String)) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    // Up to here everything is in `out`; or nothing has been replaced yet.
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr3(b'#', b'+', b'%', &bytes[at..]) {
        at += found;
        let Some((piece, length)) = piece(&bytes[at..]) else {
            at += 1;
            continue;
        };
        let is_barred = matches!(piece, Piece::Sequence { of: b'#', .. } | Piece::Wildcard(b'#'));
        if !(at == 0 && at_start && is_barred) {
            out.push_str(&text[copied..at]);
            replace(piece, &mut out);
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILDCARDS: [char; 2] = ['+', '#'];

    #[test]
    fn wildcard_characters_of_names_are_escaped_in_topics() {
        for (name, topic) in [
            ("news", "news"),
            ("room#3", "room%233"),
            ("c++", "c%2B%2B"),
            ("+", "%2B"),
            ("100%", "100%"),
            ("a%23", "a%2523"),
            ("a%2523", "a%252523"),
            ("a%25", "a%25"),
            ("a%2b", "a%2b"),
            ("%2B", "%252B"),
            ("a/#", "a/%23"),
            ("é#/%", "é%23/%"),
            // At the beginning of a name the sequences for `#` stand for themselves.
            ("%23bob", "%23bob"),
            ("%2523bob", "%2523bob"),
            ("%23#", "%23%23"),
        ] {
            assert_eq!(name_to_topic(name), topic, "{name}");
            assert_eq!(topic_to_name(topic), name, "{topic}");
        }
        assert_eq!((client_to_topic("#x"), topic_to_client("%23x")), ("%23x".into(), "#x".into()));
    }

    #[test]
    fn filters_for_names_match_the_topics_of_these_names() {
        for (filter, name) in [
            ("a%23/+", "a%23/b"),
            ("%23/+", "%23/b"),
            ("+/%2B/#", "a/%2B/c"),
            ("a/#", "a/b"),
            ("+", "x%2523"),
        ] {
            let topics = name_filter_to_topic_filter(filter);
            let parsed = crate::Filter::parse(&topics).unwrap();
            assert!(parsed.matches(&name_to_topic(name)), "{filter} as {topics} and {name}");
        }
        assert!(!crate::Filter::parse(&name_filter_to_topic_filter("a%23/+")).unwrap().matches("a%23/b"));
        for bad in ["a#", "#/a", "a+/b", "#bob"] {
            crate::Filter::parse(&name_filter_to_topic_filter(bad)).unwrap_err();
        }
    }

    #[test]
    fn text_without_the_sequences_is_not_copied() {
        assert!(matches!(name_to_topic("a/b%20c%25"), Cow::Borrowed(_)));
        assert!(matches!(topic_to_name("%23a/b"), Cow::Borrowed(_)));
    }

    #[test] // attack: a rewrite that looks at the same characters again and again
    fn long_runs_take_one_pass() {
        let run = format!("a%{}23", "25".repeat(100_000));
        assert_eq!(topic_to_name(&name_to_topic(&run)), run);
        let near = format!("a%{}", "25".repeat(100_000));
        assert_eq!(name_to_topic(&near), near);
    }

    /// All strings of these characters, each once.
    fn each(length: usize, check: &mut impl FnMut(&str)) {
        const ALPHABET: &[u8; 9] = b"#+%235B/a";
        let mut digits = vec![0; length];
        let mut text = "#".repeat(length);
        loop {
            check(&text);
            let Some(at) = digits.iter().position(|&digit| digit < 8) else { return };
            digits[at] += 1;
            digits[..at].fill(0);
            text = digits.iter().map(|&digit| char::from(ALPHABET[digit])).collect();
        }
    }

    fn is_a_bijection(length: usize) {
        each(length, &mut |text| {
            if !text.starts_with('#') {
                let topic = name_to_topic(text);
                assert!(!topic.contains(WILDCARDS), "{text} became {topic}");
                assert_eq!(topic_to_name(&topic), text, "the topic {topic} of {text}");
            }
            if !text.contains(WILDCARDS) {
                let name = topic_to_name(text);
                assert!(!name.starts_with('#'), "{text} became {name}");
                assert_eq!(name_to_topic(&name), text, "the name {name} of {text}");
                assert_eq!(client_to_topic(&topic_to_client(text)), text);
            }
            assert_eq!(topic_to_client(&client_to_topic(text)), text);
        });
    }

    #[test]
    fn each_name_has_one_topic_and_each_topic_one_name() {
        (0..=5).for_each(is_a_bijection);
    }

    #[test]
    #[ignore = "48 million strings take minutes without optimisation"]
    fn each_name_has_one_topic_and_each_topic_one_name_up_to_eight_characters() {
        (6..=8).for_each(is_a_bijection);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4096))]

        #[test]
        fn longer_texts_come_back_too(text in "([#+%a/é]|%(25){0,3}(23|2B|2b|2)){0,12}") {
            let topic = client_to_topic(&text);
            proptest::prop_assert_eq!(&*topic_to_client(&topic), &*text);
            if !text.starts_with('#') {
                let topic = name_to_topic(&text);
                proptest::prop_assert_eq!(&*topic_to_name(&topic), &*text);
            }
        }
    }
}
