//! NUL framing (§3), on top of the decoder that both sides share.

use bytes::Bytes;
use jmqt_protocol::NulDecoder;

use super::{BadStream, Incoming};

#[derive(Debug)]
pub(crate) struct NulReader(NulDecoder);

impl NulReader {
    pub(crate) const fn new(limit: usize) -> Self {
        Self(NulDecoder::new(limit))
    }

    /// The next packet in `read` from `at` on.
    pub(crate) fn next<'a>(
        &'a mut self,
        read: &'a Bytes,
        at: &mut usize,
    ) -> Result<Option<Incoming<'a>>, BadStream> {
        let spans_reads = self.0.is_mid_packet();
        let mut rest = &read[*at..];
        let packet = self.0.next(&mut rest).map_err(|error| BadStream::TooLarge(error.limit))?;
        *at = read.len() - rest.len();
        Ok(packet.map(|bytes| Incoming { bytes, whole: (!spans_reads).then_some(read) }))
    }
}
