//! Authenticates bus messages with a key from the cluster's database.
//!
//! Every program that can reach Redis can publish there. Bus messages end sessions and are delivered to clients, so each
//! carries a seal: an HMAC-SHA256 over the name of the Redis channel and the bytes, cut to 16 bytes. Messages
//! without a valid seal are refused. The seal does not encrypt messages, and does not prevent replay: use passwords and
//! TLS of Redis for that.
//!
//! A batch of pushes has one seal for all its messages.

use ring::hmac;

/// The size of the seal after a payload.
const BYTES: usize = 16;

/// The key, ready to use.
#[derive(Debug, Clone)]
pub(crate) struct Seal(hmac::Key);

impl Seal {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn tag(&self, channel: &[u8], payload: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(channel.len() as u64).to_be_bytes());
        context.update(channel);
        context.update(payload);
        context.sign()
    }

    /// Appends the seal to a payload for a Redis channel.
    pub(crate) fn put(&self, channel: &str, payload: &mut Vec<u8>) {
        let tag = self.tag(channel.as_bytes(), payload);
        payload.extend_from_slice(&tag.as_ref()[..BYTES]);
    }

    /// Verifies and removes the seal of a received payload; `false` if the seal is not valid in this cluster.
    pub(crate) fn take_off(&self, channel: &[u8], payload: &mut Vec<u8>) -> bool {
        let Some(end) = payload.len().checked_sub(BYTES) else { return false };
        let tag = self.tag(channel, &payload[..end]);
        // Every byte is compared, so that the time does not reveal how many bytes were right.
        let differences = tag.as_ref().iter().zip(&payload[end..]).fold(0, |all, (a, b)| all | (a ^ b));
        payload.truncate(end);
        differences == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_payloads_other_channels_and_other_keys_are_refused() {
        let seal = Seal::new(&[7; 32]);
        let mut sealed = b"{\"Disconnect\":{}}".to_vec();
        seal.put("jmqt:all", &mut sealed);
        let mut heard = sealed.clone();
        assert!(seal.take_off(b"jmqt:all", &mut heard));
        assert_eq!(heard, b"{\"Disconnect\":{}}");
        assert!(!seal.take_off(b"jmqt:al", &mut sealed.clone()), "another channel");
        assert!(!Seal::new(&[8; 32]).take_off(b"jmqt:all", &mut sealed.clone()), "another key");
        for byte in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[byte] ^= 1;
            assert!(!seal.take_off(b"jmqt:all", &mut changed), "byte {byte}");
        }
        for length in 0..sealed.len() {
            assert!(!seal.take_off(b"jmqt:all", &mut sealed[..length].to_vec()), "{length} bytes");
        }
    }
}
