//! Reads of logs: how much at a time, and whether it may be sent to a client.

use bytes::Bytes;
use jmqt_core::ChannelName;

use crate::attributes::Attributes;
use crate::log_limit::log_limited;
use crate::message::Data;

/// The payload limit for one read of the log. A read returns at least one message.
pub(super) const READ_BYTES: usize = 1 << 20;

/// Checks that data from the store has the form that its attributes name. Other data is not sent to clients.
pub(super) fn intact(channel: &ChannelName, data: Bytes, attributes: Attributes) -> Option<Data> {
    let data = Data::parse(data, attributes);
    if data.is_none() {
        log_limited!(
            error, target: "jmqt::store", channel = %channel,
            "skipped a damaged message in the store: check the disk, and restore the database from a backup"
        );
    }
    data
}
