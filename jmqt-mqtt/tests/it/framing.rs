//! Packets cut from a stream.

use jmqt_mqtt::{Answer, FrameDecoder, Header, Peek, ReasonCode, Version, Violation, peek};

use crate::bytes;

#[test] // 2.1.4
fn a_remaining_length_has_one_to_four_bytes() {
    let known = |packet: &[u8]| match peek(packet, usize::MAX) {
        Ok(Peek::Known(header)) => (header.length, header.body_length, header.minimal_length),
        other => panic!("{packet:02x?}: {other:?}"),
    };
    assert_eq!(known(&[0x30, 0x00]), (2, 0, true));
    assert_eq!(known(&[0x30, 0x7F]), (2, 127, true));
    assert_eq!(known(&[0x30, 0x80, 0x01]), (3, 128, true));
    assert_eq!(known(&[0x30, 0xFF, 0x7F]), (3, 16_383, true));
    assert_eq!(known(&[0x30, 0x80, 0x80, 0x01]), (4, 16_384, true));
    assert_eq!(known(&[0x30, 0xFF, 0xFF, 0x7F]), (4, 2_097_151, true));
    assert_eq!(known(&[0x30, 0x80, 0x80, 0x80, 0x01]), (5, 2_097_152, true));
    assert_eq!(known(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), (5, 268_435_455, true));
    assert_eq!(known(&[0x30, 0x81, 0x00]), (3, 1, false));
    assert_eq!(peek(&[], 10), Ok(Peek::Unknown));
    assert_eq!(peek(&[0x30], 10), Ok(Peek::Unknown));
    assert_eq!(peek(&[0x30, 0xFF, 0xFF, 0xFF], 10), Ok(Peek::Unknown));
    assert_eq!(peek(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 10), Err(Violation::LengthTooLong));
}

#[test] // 3.1.2.11.4: the limit is for the whole packet
fn a_packet_of_the_limit_passes_and_one_byte_more_does_not() {
    assert_eq!(
        peek(&[0x30, 98], 100),
        Ok(Peek::Known(Header { first: 0x30, length: 2, body_length: 98, minimal_length: true }))
    );
    assert_eq!(peek(&[0x30, 99], 100), Err(Violation::TooLarge { limit: 100 }));
    // Also where the length is not yet known.
    assert_eq!(peek(&[0x30, 0x80, 0x80], 4), Ok(Peek::Unknown));
    assert_eq!(peek(&[0x30, 0x80, 0x80], 3), Err(Violation::TooLarge { limit: 3 }));
    let mut decoder = FrameDecoder::new(100);
    let error = decoder.next(&mut &[0x30, 99][..], Some(Version::V5)).unwrap_err();
    assert_eq!(error.answer(), Answer::Disconnect(ReasonCode::PACKET_TOO_LARGE));
    assert_eq!(decoder.buffered(), 0, "refused before anything is kept");
}

#[test]
fn packets_end_at_their_length_wherever_the_chunks_end() {
    let stream = bytes("C0 00  30 05 00 01 'a' 'xy'  E0 00  30 80 01 00 01 'b'");
    let stream = [stream, vec![b'z'; 125], bytes("D0 00")].concat();
    for size in 1..=stream.len() {
        let mut decoder = FrameDecoder::new(200);
        let mut packets = Vec::new();
        for mut chunk in stream.chunks(size) {
            while let Some(frame) = decoder.next(&mut chunk, None).unwrap() {
                packets.push((frame.first, frame.body.len()));
            }
        }
        assert_eq!(packets, [(0xC0, 0), (0x30, 5), (0xE0, 0), (0x30, 128), (0xD0, 0)], "chunks of {size}");
        assert!(!decoder.is_mid_packet());
    }
}

#[test] // attack: announce a large packet, send little of it
fn memory_grows_with_received_bytes_and_not_with_announced_lengths() {
    let mut decoder = FrameDecoder::new(300_000_000);
    assert_eq!(decoder.next(&mut &[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1][..], None), Ok(None));
    assert!(decoder.is_mid_packet());
    assert!(decoder.buffered() < 100);
    for _ in 0..100 {
        assert_eq!(decoder.next(&mut &[0; 100][..], None), Ok(None));
    }
    assert!(decoder.buffered() < 30_000);
}

#[test]
fn at_most_the_limit_is_buffered() {
    let mut decoder = FrameDecoder::new(10_000);
    let mut packet = vec![0x30, 0x8D, 0x4E]; // 9,997 bytes follow
    packet.resize(10_000, 0);
    for mut chunk in packet.chunks(777) {
        while decoder.next(&mut chunk, None).unwrap().is_some() {}
        assert!(decoder.buffered() <= 10_000);
    }
    assert!(!decoder.is_mid_packet());
    assert_eq!(decoder.next(&mut &[][..], None), Ok(None));
    assert_eq!(decoder.buffered(), 0, "an idle decoder holds no memory");
}

#[test]
fn a_reserved_type_is_refused_with_the_first_byte() {
    let mut decoder = FrameDecoder::new(100);
    let error = decoder.next(&mut &[0x0F][..], Some(Version::V5)).unwrap_err();
    assert_eq!(error.violation, Violation::ReservedType(0));
    assert_eq!(error.answer(), Answer::Disconnect(ReasonCode::MALFORMED_PACKET));
}
