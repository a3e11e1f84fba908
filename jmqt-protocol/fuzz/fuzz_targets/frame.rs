//! Any stream in any chunks: the packets are those between the NULs, and no more than the limit is
//! held.

#![no_main]

use jmqt_protocol::{NUL, NulDecoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<Vec<u8>>)| {
    let (limit, chunks) = (usize::from(input.0), input.1);
    let stream = chunks.concat();
    let mut expected = stream.split(|byte| *byte == NUL);
    let mut decoder = NulDecoder::new(limit);
    for chunk in &chunks {
        let mut chunk = chunk.as_slice();
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(packet)) => assert_eq!(Some(packet), expected.next()),
                Ok(None) => break,
                Err(_) => {
                    assert!(expected.next().is_some_and(|packet| packet.len() > limit));
                    return;
                }
            }
            assert!(decoder.buffered() <= limit);
        }
        assert!(decoder.buffered() <= limit);
    }
    assert_eq!(expected.count(), 1, "what follows the last NUL");
});
