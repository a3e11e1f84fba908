//! Encodes the lines that clients of the test language receive.

use bytes::Bytes;
use jmqt_core::{ChannelName, StatusCode};

use super::RetainedPieces;
use super::ids::{IdSpace, IdText};
use crate::message::{LoggedPush, Pieces, RetainedPush, Run, place};

/// One line.
pub(crate) fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

pub(super) fn receipt(id: Option<&str>, status: StatusCode) -> Vec<u8> {
    line(&format!("DONE {} {}", id.unwrap_or("-"), status.code()))
}

pub(super) fn encode_run(channel: &ChannelName, run: &Run) -> Pieces {
    pieces(run.data().map(|data| format!("MSG {channel} {}\n", String::from_utf8_lossy(data))))
}

pub(super) fn encode_logged(ids: IdSpace, channel: &ChannelName, messages: &[LoggedPush]) -> Pieces {
    let mut id_text = IdText::new(ids);
    pieces(messages.iter().map(|message| {
        let id = id_text.of(message.id).to_owned();
        format!("MSG1 {id} {channel} {}\n", String::from_utf8_lossy(message.data.as_bytes()))
    }))
}

pub(super) fn retained(channel: &ChannelName, retained: RetainedPush) -> RetainedPieces {
    let head = format!("KEPT {channel} ").into_bytes();
    RetainedPieces { head, data: retained.data.into_parts().0, tail: b"\n".to_vec() }
}

fn pieces(lines: impl Iterator<Item = String>) -> Pieces {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for line in lines {
        bytes.extend_from_slice(line.as_bytes());
        ends.push(place(bytes.len()));
    }
    Pieces { bytes: Bytes::from(bytes), ends: ends.into() }
}
