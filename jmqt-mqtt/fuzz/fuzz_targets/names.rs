//! Any text as topic, filter and payload: no panic, names and payloads come back, and the trie finds what `matches` says.

#![no_main]

use jmqt_core::Payload;
use jmqt_mqtt::payload::{Declared, to_data, to_payload};
use jmqt_mqtt::{Filter, TopicName, Trie, name_to_topic, topic_to_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<&str>, &str, &[u8])| {
    let (filters, topic, bytes) = input;
    let filters: Vec<Filter<'_>> =
        filters.into_iter().filter_map(|filter| Filter::parse(filter).ok()).collect();
    if let Ok(topic) = TopicName::parse(topic) {
        let _ = topic.usage();
        let topic = topic.as_str();
        let name = topic_to_name(topic);
        assert_eq!(name_to_topic(&name), topic);
        let mut trie = Trie::new();
        for filter in &filters {
            trie.get_or_insert_with(filter.levels(), || filter.matches(topic));
        }
        let mut found = 0;
        trie.for_each_match(&name, |&matches| {
            assert!(matches);
            found += 1;
        });
        let mut expected = 0;
        for filter in &filters {
            expected += usize::from(trie.remove(filter.levels()) == Some(true));
        }
        assert_eq!((found, trie.len()), (expected, 0));
    }
    for declared in [Declared::Nothing, Declared::Text, Declared::Json, Declared::Binary] {
        let data = to_data(bytes, declared);
        let content = to_payload(Payload::parse(&data.json).expect("data is JSON"), data.literal);
        assert!(content.bytes == bytes || content.bytes == bytes.trim_ascii());
    }
});
