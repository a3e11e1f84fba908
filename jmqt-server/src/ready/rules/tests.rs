//! Rules decide as their documentation says.

use proptest::prelude::*;

use super::*;

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap()
}

fn named(user: &str) -> Option<&str> {
    Some(user).filter(|user| !user.is_empty())
}

/// Whether `user` (empty: anonymous) with this client id may do that.
fn may(rules: &Rules, user: &str, client: &str, access: Access, channel: &str) -> bool {
    let (client, channel) = (ClientId::parse(client).unwrap(), ChannelName::parse(channel).unwrap());
    rules.allow(named(user), &client, access, &channel)
}

fn may_read(rules: &Rules, user: &str, channel: &str) -> bool {
    may(rules, user, "c", Access::Read, channel)
}

fn may_filter(rules: &Rules, user: &str, filter: &str) -> bool {
    rules.allow_filter(named(user), &ClientId::parse("c").unwrap(), filter)
}

#[test]
fn what_no_rule_allows_is_denied() {
    assert!(!may_read(&Rules::default(), "alice", "news"));
    let rules = rules("allow all read news/#");
    assert!(may_read(&rules, "", "news") && may_read(&rules, "alice", "news/a/b"));
    assert!(!may_read(&rules, "alice", "newsroom"));
    assert!(!may(&rules, "alice", "c", Access::Write, "news"));
}

#[test]
fn the_most_specific_pattern_decides_and_the_order_of_lines_does_not() {
    let lines = ["allow all read a/#", "deny all read a/+/c", "allow all read a/b/c", "deny all read a/x"];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let rules = rules(&order.map(|index| lines[index]).join("\n"));
        for (channel, expected) in
            [("a", true), ("a/b", true), ("a/b/c", true), ("a/x/c", false), ("a/x", false), ("a/x/d", true)]
        {
            assert_eq!(may_read(&rules, "u", channel), expected, "{channel} {order:?}");
        }
    }
}

#[test]
fn of_equally_specific_patterns_the_one_for_fewer_clients_decides_and_then_deny() {
    let rules = rules(
        "allow all read a\ndeny anonymous read a\n\
         allow all read b\ndeny user bob read b\nallow client c read b\n\
         allow all read home/eve\ndeny user eve read home/%u\n\
         allow user zoe both z\ndeny user zoe write z",
    );
    assert!(may_read(&rules, "u", "a") && !may_read(&rules, "", "a"));
    assert!(may(&rules, "bob", "c", Access::Read, "b") && !may(&rules, "bob", "d", Access::Read, "b"));
    assert!(may_read(&rules, "u", "home/eve") && !may_read(&rules, "eve", "home/eve"));
    assert!(may_read(&rules, "zoe", "z") && !may(&rules, "zoe", "c", Access::Write, "z"));
}

#[test]
fn names_in_patterns_are_those_of_the_client_and_never_wildcards() {
    let rules = rules("allow all both home/%u/#\nallow all both dev-%c/in\nallow all both %c/%u");
    assert!(may(&rules, "alice", "c1", Access::Write, "home/alice/x"));
    assert!(!may(&rules, "bob", "c1", Access::Write, "home/alice/x"));
    assert!(!may(&rules, "", "c1", Access::Write, "home//x"), "an anonymous client has no user name");
    assert!(
        may(&rules, "", "c1", Access::Read, "dev-c1/in") && !may(&rules, "", "c1", Access::Read, "dev-c2/in")
    );
    assert!(may(&rules, "u", "c1", Access::Read, "c1/u") && !may(&rules, "u", "c1", Access::Read, "u/c1"));
    for odd in ["+", "#", "a/b", "%u", "%c"] {
        assert!(!may(&rules, odd, "c", Access::Read, "home/alice/x"), "{odd}");
    }
    assert!(!may_filter(&rules, "+", "home/+/#") && !may_filter(&rules, "#", "home/#"));
}

#[test]
fn a_name_never_makes_another_topic_of_a_pattern() {
    let rules = rules("allow all both %u/own\nallow all both home/%u\nallow all both $p2p/%c");
    assert!(!may_read(&rules, "$SYS", "$SYS/own") && !may(&rules, "$p2p", "c", Access::Write, "#own"));
    assert!(!may_filter(&rules, "$SYS", "$SYS/own"));
    // The topic of the channel `home/a#b` is `home/a%23b`.
    assert!(may_read(&rules, "a#b", "home/a#b"));
    assert!(!may_read(&rules, "%23", "home/#") && !may_read(&rules, "a%23b", "home/a#b"));
    assert!(may(&rules, "u", "c", Access::Write, "#c") && !may(&rules, "u", "c", Access::Write, "#d"));
}

#[test]
fn a_filter_with_too_many_denying_rules_is_refused() {
    let pairs = |count: usize| {
        let lines = (0..count).map(|n| format!("deny all read d/{n}\nallow user u read d/{n}\n"));
        rules(&format!("allow all read d/#\n{}", lines.collect::<String>()))
    };
    assert!(may_filter(&pairs(100), "u", "d/#"));
    assert!(!may_filter(&pairs(1000), "u", "d/#"));
    assert!(may_filter(&pairs(1000), "u", "d/7/#"), "only rules that overlap count");
}

#[test]
fn point_to_point_channels_and_names_with_wildcard_characters_are_written_as_topics() {
    let rules = rules("allow all write $p2p/+\ndeny all write $p2p/boss\nallow all read a%23b");
    assert!(may(&rules, "u", "c", Access::Write, "#bob") && !may(&rules, "u", "c", Access::Write, "#boss"));
    assert!(may_read(&rules, "u", "a#b") && !may_read(&rules, "u", "a"));
}

#[test]
fn wildcards_at_the_beginning_do_not_match_a_dollar_sign() {
    let rules = rules("allow all both #");
    assert!(may_read(&rules, "u", "a") && !may(&rules, "u", "c", Access::Write, "#bob"));
    assert!(may_filter(&rules, "u", "#") && !may_filter(&rules, "u", "$SYS/#"));
}

#[test]
fn a_filter_is_allowed_if_all_that_it_matches_is() {
    let rules = rules(
        "allow all read a/#\ndeny all read a/secret/#\nallow user admin read a/secret/#\nallow all read b/+",
    );
    for (user, filter, expected) in [
        ("u", "a/b/#", true),
        ("u", "a/+", false),
        ("u", "a/#", false),
        ("admin", "a/#", true),
        ("admin", "#", false),
        ("u", "a/secret/x/+", false),
        ("u", "b/+", true),
        ("u", "b/#", false),
        ("u", "+/x", false),
    ] {
        assert_eq!(may_filter(&rules, user, filter), expected, "{user} {filter}");
    }
}

#[test]
fn mistakes_are_named_with_their_lines() {
    let text = "allow all read a\nallov all read a\nallow everybody read a\nallow user\n# fine\n\nallow all look a\nallow all read\n\
        allow all read a/#/b\nallow user \"bob read a\nallow all read $share/g/a\n";
    let error = Rules::parse(text).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines[0], "line 2: expected `allow` or `deny` at the beginning");
    assert_eq!(
        lines[1],
        "line 3: expected `all`, `anonymous`, `user NAME` or `client ID`, found \"everybody\""
    );
    assert_eq!(lines[2], "line 4: expected a user name after `user`");
    assert_eq!(lines[3], "line 7: expected `read`, `write` or `both`, found \"look\"");
    assert_eq!(lines[4], "line 8: expected a pattern, such as news/#, at the end of the line");
    assert!(lines[5].starts_with("line 9: \"a/#/b\" is not a pattern: "), "{error}");
    assert_eq!(lines[6], "line 10: a double quote at the end of the name is missing");
    assert!(lines[7].starts_with("line 11: \"$share/g/a\": leave out $share"), "{error}");
    assert_eq!(lines.len(), 8);
}

#[test]
fn a_name_with_space_is_in_quotes_and_a_pattern_may_have_space() {
    let rules = rules("allow user \"a b\" read my room/+");
    assert!(may_read(&rules, "a b", "my room/1") && !may_read(&rules, "a", "my room/1"));
}

#[test]
fn a_comment_may_follow_a_pattern() {
    let rules = rules(
        "allow all read news/# # everybody\nallow all read #\t#all\nallow user u read my room # and more # x\n",
    );
    assert_eq!(rules.len(), 3);
    assert!(may_read(&rules, "u", "news/a") && may_read(&rules, "v", "x") && may_filter(&rules, "u", "#"));
    assert!(rules.rules.iter().any(|rule| rule.pattern == Pattern::parse("my room").unwrap()), "{rules:?}");
    assert!(Rules::parse("allow all read news/#more").is_err());
}

#[test]
fn users_and_what_looks_like_a_name_are_listed_with_their_lines() {
    let rules = rules(
        "allow all read a%23b/%u/%c\n\nallow user bob read x/%d/%zz\ndeny user \"a b\" read 100%/%2B\n",
    );
    assert_eq!(rules.users().collect::<Vec<_>>(), [(3, "bob"), (4, "a b")]);
    assert_eq!(rules.unknown_names().collect::<Vec<_>>(), [(3, "%d")]);
}

#[test]
fn ten_thousand_rules_are_decided_without_looking_at_each() {
    let count = 10_000;
    for line in [
        |n| format!("allow user u{n} both devices/u{n}/#\n"),
        |n| format!("allow user u{n} both news/#\nallow client c{n} read news/x\n"),
        |n| format!("allow all both dev-{n}-%c/in\nallow all both %u-{n}/#\n"),
    ] {
        let rules = rules(&(0..count).map(line).collect::<String>());
        let start = std::time::Instant::now();
        for n in 0..count {
            let (user, client) = (format!("u{n}"), ClientId::parse(&format!("c{n}")).unwrap());
            let may = |access, channel: &str| {
                rules.allow(Some(&user), &client, access, &ChannelName::parse(channel).unwrap())
            };
            assert!(!may(Access::Read, "devices/other/x") && !may(Access::Write, "dev-7-c/in"));
            let channels = [format!("devices/u{n}/x"), "news/y".to_owned(), format!("dev-7-c{n}/in")];
            assert!(channels.iter().any(|channel| may(Access::Write, channel)), "{n}");
            let filters = [format!("devices/u{n}/+"), "news/#".to_owned(), format!("u{n}-7/#")];
            // Templates at the beginning are tried one by one.
            if n < 20 {
                assert!(filters.iter().any(|filter| rules.allow_filter(Some(&user), &client, filter)), "{n}");
            }
        }
        // To compare 40,000 topics with 10,000 rules each would take minutes in this build.
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

/// A pattern or filter of up to three levels.
fn patterns() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just("a"), Just("b"), Just("%u"), Just("+"), Just("$x")];
    (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, rest)| {
        let path = levels.join("/");
        if rest { format!("{path}/#") } else { path }
    })
}

#[test]
fn many_templates_are_found_as_by_trying_each() {
    let (ends, names) = (["", "a", "aa", "ab", "b", "é", "%", "-"], ["a", "aa", "ab", "aab", "b", "%"]);
    let with = |prefix: &str, name: &str, suffix: &str| format!("{prefix}{name}{suffix}");
    let all = |names: &[&str]| -> Vec<String> {
        let each = ends.iter().flat_map(|prefix| names.iter().map(move |name| (prefix, name)));
        each.flat_map(|(prefix, name)| ends.iter().map(move |suffix| with(prefix, name, suffix))).collect()
    };
    let line = |(index, pattern): (usize, String)| {
        let verb = if index % 3 == 0 { "deny" } else { "allow" };
        format!("{verb} all read {pattern}/x\n{verb} all read y/{pattern}\n")
    };
    let templates = all(&["%u", "%c", "%u%c", "%c-%c"]).into_iter().enumerate();
    let rules = rules(&templates.map(line).collect::<String>());
    let levels = all(&names);
    for (user, client) in [("a", "aa"), ("ab", "b"), ("aab", "a"), ("", "aab"), ("%", "a")] {
        let asker = Asker { user: named(user), client };
        for topic in levels.iter().step_by(7).flat_map(|level| [format!("{level}/x"), format!("y/{level}")]) {
            assert_eq!(
                rules.allow_topic(asker, Access::Read, &topic),
                slowly(&rules, asker, &topic),
                "{topic} for {user} {client}"
            );
        }
    }
}

/// Text of some rules.
fn texts() -> impl Strategy<Value = String> {
    let who = prop_oneof![Just("all"), Just("anonymous"), Just("user a"), Just("client c")];
    let verb = prop_oneof![3 => Just("allow"), 2 => Just("deny")];
    let line =
        (verb, who, patterns()).prop_map(|(verb, who, pattern)| format!("{verb} {who} read {pattern}\n"));
    prop::collection::vec(line, 1..7).prop_map(|lines| lines.concat())
}

/// All topics of up to four levels of `a`, `b`, `z` and `$x`.
fn topics() -> Vec<String> {
    let level = ["a", "b", "z", "$x"];
    let mut topics: Vec<String> = level.map(str::to_owned).to_vec();
    for index in 0.. {
        let Some(topic) = topics.get(index).filter(|topic| topic.matches('/').count() < 3).cloned() else {
            break;
        };
        topics.extend(level.map(|level| format!("{topic}/{level}")));
    }
    topics
}

/// As the documentation of [`Rules`] says, without a tree: compares all rules that match.
fn slowly(rules: &Rules, asker: Asker<'_>, topic: &str) -> bool {
    let matching = rules.rules.iter().filter(|rule| rule.is_for(asker, Access::Read)).filter_map(|rule| {
        let pattern = rule.pattern.of(asker)?;
        pattern.covers(topic).then_some((rule, pattern))
    });
    let decisive = matching.max_by(|(a, a_pattern), (b, b_pattern)| {
        a_pattern.cmp_specific(b_pattern).then_with(|| a.rank().cmp(&b.rank()))
    });
    decisive.is_some_and(|(rule, _)| rule.allows)
}

proptest! {
    #[test]
    fn the_tree_decides_as_comparing_all_rules_does(text in texts(), user in "([ab]|[$]x)?") {
        let rules = rules(&text);
        let asker = Asker { user: named(&user), client: "c" };
        for topic in topics() {
            let found = rules.allow_topic(asker, Access::Read, &topic);
            prop_assert_eq!(found, slowly(&rules, asker, &topic), "{}", topic);
        }
    }

    #[test]
    fn an_allowed_filter_matches_nothing_that_is_denied(text in texts(), filter in patterns(), user in "([ab]|[$]x)?") {
        let rules = rules(&text);
        let filter = filter.replace("%u", "b");
        if may_filter(&rules, &user, &filter) {
            let matcher = jmqt_mqtt::Filter::parse(&filter).unwrap();
            let asker = Asker { user: named(&user), client: "c" };
            for topic in topics().iter().filter(|topic| matcher.matches(topic)) {
                prop_assert!(rules.allow_topic(asker, Access::Read, topic), "{} in {}", topic, filter);
            }
        }
    }
}
