//! What holds for any bytes and any text. The fuzz targets and the tests check the same.

use jmqt_core::Payload;
use jmqt_mqtt::payload::{Declared, to_data, to_payload};
use jmqt_mqtt::{
    Connect, Filter, Frame, FrameDecoder, Packet, Sender, TopicName, Trie, Version, name_to_topic,
    topic_to_name,
};

/// Of a longer packet not every truncation is tried.
const TRUNCATIONS: usize = 256;

/// The positions at which something of this length is cut off: each, if there are not too many.
fn truncations(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length / TRUNCATIONS + 1)
}

/// A stream of any bytes: the decoder does not panic, and what it has read it reads again the same once it is written.
pub(crate) fn any_bytes(bytes: &[u8], version: Version, sender: Sender) {
    let mut decoder = FrameDecoder::new(bytes.len());
    let mut stream = bytes;
    while let Ok(Some(frame)) = decoder.next(&mut stream, Some(version)) {
        any_frame(&frame, version, sender);
        // As if the stream ended early, with a length that is right, at every byte.
        for end in truncations(frame.body.len()) {
            any_frame(&Frame { body: &frame.body[..end], ..frame }, version, sender);
        }
    }
}

fn any_frame(frame: &Frame<'_>, version: Version, sender: Sender) {
    let connect = Connect::decode(frame);
    if let Err(error) = &connect {
        let _ = (error.answer(), error.statement(), error.to_string());
    }
    let packet = match Packet::decode(frame, version, sender) {
        Ok(packet) => packet,
        Err(error) => {
            let _ = (error.answer(), error.statement(), error.to_string());
            return;
        }
    };
    let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
    let written = packet.to_bytes(version).unwrap_or_else(|error| panic!("{packet:?}: {error}"));
    let again = Frame::of(&written).unwrap_or_else(|| panic!("{packet:?} was written as {written:02x?}"));
    assert_eq!(Packet::decode(&again, version, sender).as_ref(), Ok(&packet), "{written:02x?}");
    assert_eq!(packet.to_bytes(version).as_ref(), Ok(&written), "{packet:?}");
    // As a stream that ends early it is no packet yet.
    for end in truncations(written.len()) {
        let mut decoder = FrameDecoder::new(written.len());
        assert_eq!(decoder.next(&mut &written[..end], None), Ok(None), "{packet:?} up to {end}");
    }
}

/// Any stream in any chunks: the packets are the same as in one piece, and no more than the limit is held.
pub(crate) fn any_chunks(limit: usize, chunks: &[Vec<u8>]) {
    let stream = chunks.concat();
    let mut whole = FrameDecoder::new(limit);
    let mut rest = stream.as_slice();
    let mut decoder = FrameDecoder::new(limit);
    for chunk in chunks {
        let mut chunk = chunk.as_slice();
        loop {
            match decoder.next(&mut chunk, None) {
                Ok(Some(frame)) => assert_eq!(Ok(Some(frame)), whole.next(&mut rest, None)),
                Ok(None) => break,
                Err(_) => {
                    // A limit of less than five bytes may be noticed before a length of five.
                    assert!(whole.next(&mut rest, None).is_err());
                    return;
                }
            }
            assert!(decoder.buffered() <= limit);
        }
        assert!(decoder.buffered() <= limit);
    }
    assert_eq!(Ok(None), whole.next(&mut rest, None));
}

/// Any text as topic, filter and payload: names and payloads come back, and the trie finds what `matches` says.
pub(crate) fn any_names(filters: &[&str], topic: &str, payload: &[u8]) {
    let filters: Vec<Filter<'_>> = filters.iter().filter_map(|filter| Filter::parse(filter).ok()).collect();
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
            assert!(matches, "{topic}");
            found += 1;
        });
        let mut expected = 0;
        for filter in &filters {
            expected += usize::from(trie.remove(filter.levels()) == Some(true));
        }
        assert_eq!((found, trie.len()), (expected, 0), "{topic}");
    }
    for declared in [Declared::Nothing, Declared::Text, Declared::Json, Declared::Binary] {
        let data = to_data(payload, declared);
        let content = to_payload(Payload::parse(&data.json).expect("data is JSON"), data.literal);
        assert!(content.bytes == payload || content.bytes == payload.trim_ascii(), "{payload:02x?}");
    }
}
