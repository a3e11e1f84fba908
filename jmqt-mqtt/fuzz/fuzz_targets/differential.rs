//! Any bytes, read by this crate and by `mqttbytes`: what both accept is the same packet, and what only `mqttbytes` refuses is on the
//! list in README.md.

#![no_main]

use bytes::BytesMut;
use jmqt_mqtt::{Connect, FrameDecoder, Packet, PacketType, Publish, Sender, Version};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fuzz_target!(|input: (bool, &[u8])| {
    let (version, bytes) = (if input.0 { Version::V5 } else { Version::V3_1_1 }, input.1);
    let mut decoder = FrameDecoder::new(LIMIT);
    let Ok(Some(frame)) = decoder.next(&mut &*bytes, Some(version)) else { return };
    for sender in [Sender::Client, Sender::Server] {
        let Ok(packet) = Packet::decode(&frame, version, sender) else { continue };
        // `mqttbytes` has a reader for each version, and this is for another one.
        if matches!(&packet, Packet::Connect(connect) if connect.version != version) {
            return;
        }
        // `mqttbytes` counts a byte too many for each, and ends the properties early.
        if matches!(&packet, Packet::Publish(publish) if publish.properties.subscription_id().is_some()) {
            return;
        }
        let mut stream = BytesMut::from(bytes);
        let is_same = match version {
            Version::V5 => mqttbytes::v5::read(&mut stream, LIMIT).map(|theirs| match (&packet, &theirs) {
                (Packet::Publish(ours), mqttbytes::v5::Packet::Publish(theirs)) => {
                    is_same_publish(ours, &theirs.topic, theirs.pkid, &theirs.payload)
                }
                (Packet::Connect(ours), mqttbytes::v5::Packet::Connect(theirs)) => {
                    is_same_connect(ours, &theirs.client_id, theirs.keep_alive, theirs.clean_session)
                }
                _ => true,
            }),
            _ => mqttbytes::v4::read(&mut stream, LIMIT).map(|theirs| match (&packet, &theirs) {
                (Packet::Publish(ours), mqttbytes::v4::Packet::Publish(theirs)) => {
                    is_same_publish(ours, &theirs.topic, theirs.pkid, &theirs.payload)
                }
                (Packet::Connect(ours), mqttbytes::v4::Packet::Connect(theirs)) => {
                    is_same_connect(ours, &theirs.client_id, theirs.keep_alive, theirs.clean_session)
                }
                _ => true,
            }),
        };
        match is_same {
            Ok(is_same) => assert!(is_same, "{packet:?}"),
            Err(error) => assert!(is_listed(&packet, frame.body), "{packet:?}: {error:?}"),
        }
    }
});

fn is_same_publish(ours: &Publish<'_>, topic: &str, id: u16, payload: &[u8]) -> bool {
    (ours.topic, ours.delivery.id().map_or(0, |id| id.get()), ours.payload) == (topic, id, payload)
}

fn is_same_connect(ours: &Connect<'_>, client_id: &str, keep_alive: u16, clean_start: bool) -> bool {
    (ours.client_id, ours.keep_alive, ours.clean_start) == (client_id, keep_alive, clean_start)
}

/// Whether README.md says why `mqttbytes` refuses it.
fn is_listed(packet: &Packet<'_>, body: &[u8]) -> bool {
    match packet {
        Packet::Connect(connect) => {
            connect.password.is_some_and(|password| std::str::from_utf8(password).is_err())
        }
        Packet::Disconnect(_) => body.len() < 2,
        _ => packet.packet_type() == PacketType::Auth,
    }
}
