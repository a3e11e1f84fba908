//! Any bytes: the decoder does not panic, and what it has read it reads again the same once it is written.

#![no_main]

use jmqt_mqtt::{Connect, FrameDecoder, Packet, Sender, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let version = [Version::V3_1, Version::V3_1_1, Version::V5][usize::from(input.0 % 3)];
    let sender = if input.0 & 128 == 0 { Sender::Client } else { Sender::Server };
    let mut decoder = FrameDecoder::new(input.1.len());
    let mut stream = input.1;
    while let Ok(Some(frame)) = decoder.next(&mut stream, Some(version)) {
        let _ = Connect::decode(&frame).map_err(|error| (error.answer(), error.statement()));
        let packet = match Packet::decode(&frame, version, sender) {
            Ok(packet) => packet,
            Err(error) => {
                let _ = (error.answer(), error.statement(), error.to_string());
                continue;
            }
        };
        let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
        let written = packet.to_bytes(version).expect("what was read can be written");
        let mut again = FrameDecoder::new(written.len());
        let frame = again.next(&mut written.as_slice(), None).expect("it is a packet").expect("it is whole");
        assert_eq!(Packet::decode(&frame, version, sender).as_ref(), Ok(&packet));
        assert_eq!(packet.to_bytes(version).as_ref(), Ok(&written));
    }
});
