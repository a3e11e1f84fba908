use super::*;

/// What is said of each mistake in a file.
fn problems(text: &str) -> Vec<String> {
    match Config::parse(Path::new("lb.conf"), text) {
        Ok(config) => panic!("{config:?}"),
        Err(ConfigError::Several { problems }) => problems.iter().map(ToString::to_string).collect(),
        Err(problem) => vec![problem.to_string()],
    }
}

fn parse(text: &str) -> Config {
    Config::parse(Path::new("lb.conf"), text).unwrap()
}

const SHIPPED: &str = include_str!("../../../load_balancer.conf");
const GUIDE: &str = include_str!("../../../docs/load-balancer.md");

#[test]
fn the_shipped_file_states_the_defaults() {
    let shipped = parse(SHIPPED);
    let line = "[mappings]\n8010 = 127.0.0.1:9010, 127.0.0.1:9020\n";
    let mut bare = parse(line);
    assert_eq!(bare.options.status_address, None); // a listener that no file mentions does not exist
    bare.options.status_address = shipped.options.status_address;
    assert_eq!(shipped.options, bare.options);
    assert_eq!(shipped.mappings[0].rules, bare.mappings[0].rules);
}

#[test]
fn every_key_is_in_the_shipped_file_and_in_the_guide() {
    for key in OPTION_KEYS {
        assert!(SHIPPED.lines().any(|line| line.starts_with(&format!("{key} ="))), "{key}");
        assert!(GUIDE.contains(&format!("| `{key}` |")), "{key}");
    }
}

#[test]
fn a_file_of_the_original_is_understood() {
    let config = parse(
        "[options]\nbuffer_size=4096\npre_resolve_workers=1\n\n\
         [mappings]\n8010=10.0.0.1:8010,10.0.0.2:8010\nlocalhost:1=a:1\n"
            .replace("localhost:1=a:1\n", "127.0.0.1:8012=ws.example:8012\n")
            .as_str(),
    );
    assert_eq!(config.options.buffer_size, 4096);
    assert!(config.options.pre_resolve);
    let [first, second] = config.mappings.as_slice() else { panic!("{config:?}") };
    assert_eq!(first.listen.to_string(), "0.0.0.0:8010");
    assert_eq!(first.backends.len(), 2);
    assert_eq!(second.listen.to_string(), "127.0.0.1:8012");
    assert_eq!(second.backends[0].name.to_string(), "ws.example:8012");
}

#[test]
fn mappings_take_ipv6_weights_comments_and_rules_of_their_own() {
    let config = parse(
        "; a comment\n[options]\nretries = 1 # another\n[mappings]\n\
         [::]:8010 = [::1]:9000 weight=3, db-1.local:9000 ; and another\n8012 = a:1\n\
         [mapping [::]:8010]\nproxy_protocol = v2\nbalance = Source_Hash\nmax_connections = 7\n",
    );
    let first = &config.mappings[0];
    assert_eq!(first.listen.to_string(), "[::]:8010");
    assert_eq!(first.backends[0].weight, 3);
    assert_eq!(first.backends[0].name.to_string(), "[::1]:9000");
    assert_eq!((first.rules.balance, first.rules.retries), (Balance::SourceHash, 1));
    assert_eq!((first.rules.proxy_protocol, first.max_connections), (ProxyProtocol::V2, Some(7)));
    let second = &config.mappings[1];
    assert_eq!((second.rules.proxy_protocol, second.max_connections), (ProxyProtocol::Off, None));
}

#[test]
fn all_problems_are_reported_together_with_file_line_key_and_expectation() {
    let found = problems(
        "early = 1\n[options]\nbufer_size = 1\nbuffer_size = 12k\nretries = 101\nbalance = best\n\
         idle_timeout_seconds = 1e3\nthreads = 1\nthreads = 2\nnonsense\n[mappings]\n\
         80100 = a:1\n8010 = a, b:0, c:1 weight=0, d:1, d:1\n8010 = 1.2.3:4\n0.0.0.0:8010 = e:1\n\
         [mapping 9]\nretries = 1\n[mapping 8010]\nbuffer_size = 4096\n[other]\nx = y\n[options]\n",
    );
    let expected = [
        "lb.conf, line 1 (early): a line before the first section; expected [options] or [mappings] above it",
        "lb.conf, line 3: bufer_size: there is no such key; did you mean buffer_size?",
        r#"lb.conf, line 4: buffer_size is "12k"; expected a number of bytes from 1024 to 16777216"#,
        r#"lb.conf, line 5: retries is "101"; expected a number of backends from 0 to 100"#,
        r#"lb.conf, line 6: balance is "best"; expected one of least_connections, round_robin, source_hash"#,
        r#"lb.conf, line 7: idle_timeout_seconds is "1e3"; expected a number of seconds from 0.05 to 86400"#,
        "lb.conf, line 9 (threads): duplicate key",
        "lb.conf, line 10 (nonsense): expected `key = value` or `[section]`",
        "lb.conf, line 12 (80100): expected [addr:]port to listen on, such as 8010, 127.0.0.1:8010 or [::]:8010",
        r#"lb.conf, line 13 (8010): found "a", expected a backend host:port, optionally with weight=1 to weight=1000 and node=NAME after it; backends are separated by commas"#,
        r#"lb.conf, line 13 (8010): found "b:0", expected a backend host:port, optionally with weight=1 to weight=1000 and node=NAME after it; backends are separated by commas"#,
        r#"lb.conf, line 13 (8010): found "c:1 weight=0", expected a backend host:port, optionally with weight=1 to weight=1000 and node=NAME after it; backends are separated by commas"#,
        "lb.conf, line 13 (8010): duplicate backend d:1",
        "lb.conf, line 14 (8010): duplicate key",
        "lb.conf, line 15 (0.0.0.0:8010): 0.0.0.0:8010 conflicts with 0.0.0.0:8010 on line 13: one address includes the other",
        "lb.conf, line 16 ([mapping]): [mappings] has no line for 9",
        "lb.conf, line 19: buffer_size: there is no such key",
        "lb.conf, line 20 ([other]): unknown section; expected [options], [mappings] or [mapping ADDRESS]",
        "lb.conf, line 22 ([options]): duplicate section",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_file_without_mappings_has_nothing_to_do() {
    let found = problems("[options]\nretries = 1\n");
    assert!(found[0].starts_with("lb.conf ([mappings]): there is nothing to listen on"), "{found:?}");
}

#[test]
fn addresses_that_cannot_be_listened_on_together_are_found() {
    let found = problems(
        "[options]\nstatus_address = 127.0.0.1:8019\n[mappings]\n8010 = a:1\n127.0.0.1:8010 = a:1\n\
         [::]:8012 = a:1\n0.0.0.0:8012 = a:1\n8019 = a:1\n",
    );
    let beside = |line: usize, key: &str, new: &str, other: &str| {
        format!("lb.conf, line {line} ({key}): {new} conflicts with {other}: one address includes the other")
    };
    let expected = [
        beside(5, "127.0.0.1:8010", "127.0.0.1:8010", "0.0.0.0:8010 on line 4"),
        beside(7, "0.0.0.0:8012", "0.0.0.0:8012", "[::]:8012 on line 6"),
        beside(8, "8019", "0.0.0.0:8019", "127.0.0.1:8019 on line 2"),
    ];
    assert_eq!(found, expected);
    parse("[mappings]\n127.0.0.1:8010 = a:1\n127.0.0.2:8010 = a:1\n0.0.0.0:0 = a:1\n127.0.0.1:0 = a:1\n");
}

#[test]
fn a_mapping_that_leads_to_itself_is_found() {
    let itself = "is this mapping itself, which would connect to itself forever";
    for (listen, backend) in [
        ("8010", "127.0.0.1:8010"),
        ("8010", "localhost:8010"),
        ("10.0.0.1:8010", "10.0.0.1:8010"),
        ("[::]:8010", "[::1]:8010"),
    ] {
        let found = problems(&format!("[mappings]\n{listen} = {backend}\n"));
        assert_eq!(found, [format!("lb.conf, line 2 ({listen}): the backend {backend} {itself}")]);
    }
    parse("[mappings]\n127.0.0.1:8010 = 127.0.0.2:8010, localhost:8011\n");
}

#[test]
fn a_log_file_in_a_folder_that_is_not_there_is_found() {
    let found = problems("[options]\nlog_path = /no/such/folder/lb.log\n[mappings]\n8010 = a:1\n");
    assert!(
        found[0].starts_with("lb.conf, line 2 (log_path): cannot use the folder /no/such/folder: "),
        "{found:?}"
    );
}

#[test]
fn names_of_hosts_have_no_empty_parts() {
    for name in ["a.b..c", ".a", "a..", "-a.b", "a-.b", &"x".repeat(64)] {
        assert!(
            problems(&format!("[mappings]\n8010 = {name}:1\n"))[0].contains("expected a backend"),
            "{name}"
        );
    }
    for name in ["a.b.c", "a.b.", "my_node-1.local"] {
        parse(&format!("[mappings]\n8010 = {name}:1\n"));
    }
}

#[test]
fn backends_of_several_mappings_may_name_their_server() {
    let config = parse("[mappings]\n8010 = a:1 node=one weight=2, b:1 weight=3 node=two, c:1\n");
    let found: Vec<_> =
        config.mappings[0].backends.iter().map(|backend| (backend.weight, backend.node.as_deref())).collect();
    assert_eq!(found, [(2, Some("one")), (3, Some("two")), (1, None)]);
    for wrong in ["a:1 node=", "a:1 node=x node=y", "a:1 weight=1 weight=1", "a:1 nodes=x", "a:1 x"] {
        assert!(
            problems(&format!("[mappings]\n8010 = {wrong}\n"))[0].contains("expected a backend"),
            "{wrong}"
        );
    }
}

/// What documents show of the file, each block by itself.
fn examples(document: &str) -> impl Iterator<Item = String> {
    let mut blocks = document.split("```ini\n").skip(1);
    std::iter::from_fn(move || {
        let (block, _) = blocks.next()?.split_once("```")?;
        // A block of lines alone is part of the section that the one before shows.
        let begins = block.trim_start().starts_with('[');
        Some(if begins { block.to_owned() } else { format!("[mappings]\n{block}") })
    })
}

#[test]
fn the_examples_of_the_documents_are_understood() {
    const README: &str = include_str!("../../README.md");
    let mut count = 0;
    for text in examples(GUIDE).chain(examples(README)) {
        // Rules of a mapping need the mapping.
        let mapping = if text.contains("[mappings]") { "" } else { "[mappings]\n8010 = a:1\n" };
        parse(&format!("{mapping}{text}"));
        count += 1;
    }
    assert_eq!(count, 5, "look at the new one");
}
