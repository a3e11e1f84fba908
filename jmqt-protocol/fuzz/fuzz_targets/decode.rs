//! Any text: the decoder does not panic, and what it has read it reads again the same once it is
//! written.

#![no_main]

use jmqt_protocol::{Payload, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Payload::parse(text);
    if let Ok(packet) = decode(text) {
        let strict = packet.to_text();
        assert!(!strict.contains('\0'));
        assert_eq!(decode(&strict), Ok(packet));
    }
});
