//! Any stream in any chunks: the packets are the same as in one piece, and no more than the limit is held.

#![no_main]

use jmqt_mqtt::FrameDecoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<Vec<u8>>)| {
    let (limit, chunks) = (usize::from(input.0), input.1);
    let stream = chunks.concat();
    let mut whole = FrameDecoder::new(limit);
    let mut rest = stream.as_slice();
    let mut decoder = FrameDecoder::new(limit);
    for chunk in &chunks {
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
});
