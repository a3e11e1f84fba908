//! How fast one client may send: MAX_PACKETS_PER_SECOND_PER_CLIENT and MAX_BYTES_PER_SECOND_PER_CLIENT.
//!
//! A client that sends faster is read from more slowly, so that it waits, and nobody else. It is looked at once for each read.

use std::time::Duration;

use tokio::time::Instant;

/// What a client may send at once, beyond what it may send in the time.
const BURST: Duration = Duration::from_secs(1);
/// A client that would have to wait for longer is disconnected.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What one client may send in a second. `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimits {
    pub(crate) packets: Option<u32>,
    pub(crate) bytes: Option<u32>,
}

/// What one client has sent.
#[derive(Debug)]
pub(super) struct Rate {
    limits: RateLimits,
    /// When all that it has sent would be allowed, at the full rate.
    packets_until: Instant,
    bytes_until: Instant,
    /// Since the last look.
    packets: u32,
    bytes: usize,
}

/// What is to be done with a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It may go on.
    Free,
    /// It is not read from until then.
    Until(Instant),
    /// It is disconnected.
    TooFast,
}

impl Rate {
    /// `None` without limits, so that a connection has nothing to look at.
    pub(super) fn new(limits: RateLimits, now: Instant) -> Option<Self> {
        let is_limited = limits.packets.is_some() || limits.bytes.is_some();
        let rate = Self { limits, packets_until: now, bytes_until: now, packets: 0, bytes: 0 };
        is_limited.then_some(rate)
    }

    pub(super) fn add_packets(&mut self, packets: u32) {
        self.packets = self.packets.saturating_add(packets);
    }

    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Looks at what has been sent.
    pub(super) fn look(&mut self, now: Instant) -> Pace {
        let (packets, bytes) = (std::mem::take(&mut self.packets), std::mem::take(&mut self.bytes));
        if let Some(limit) = self.limits.packets {
            self.packets_until = after(self.packets_until.max(now), packets.into(), limit);
        }
        if let Some(limit) = self.limits.bytes {
            self.bytes_until = after(self.bytes_until.max(now), bytes as u64, limit);
        }
        let until = self.packets_until.max(self.bytes_until) - BURST;
        match until.checked_duration_since(now) {
            None | Some(Duration::ZERO) => Pace::Free,
            Some(pause) if pause > LONGEST_PAUSE => Pace::TooFast,
            Some(_) => Pace::Until(until),
        }
    }
}

/// When so much is allowed at this rate, from then on.
fn after(from: Instant, count: u64, per_second: u32) -> Instant {
    // At most an hour, which is more than any pause, so that no clock overflows.
    let micros = count.saturating_mul(1_000_000) / u64::from(per_second.max(1));
    from + Duration::from_micros(micros.min(3_600_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(packets: Option<u32>, bytes: Option<u32>, now: Instant) -> Rate {
        Rate::new(RateLimits { packets, bytes }, now).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_sends_at_the_limit_never_waits() {
        let mut now = Instant::now();
        let mut rate = rate(Some(100), None, now);
        for _ in 0..1000 {
            rate.add_packets(10);
            assert_eq!(rate.look(now), Pace::Free);
            now += Duration::from_millis(100);
        }
        // And a second's worth at once after a rest.
        now += Duration::from_secs(60);
        rate.add_packets(100);
        assert_eq!(rate.look(now), Pace::Free);
        rate.add_packets(10);
        assert_eq!(rate.look(now), Pace::Until(now + Duration::from_millis(100)));
    }

    #[tokio::test]
    async fn the_stricter_limit_counts_and_what_takes_too_long_ends_the_connection() {
        let now = Instant::now();
        let mut rate = rate(Some(100), Some(1000), now);
        rate.add_packets(1);
        rate.add_bytes(3000);
        assert_eq!(rate.look(now), Pace::Until(now + Duration::from_secs(2)));
        rate.add_bytes(8000);
        assert_eq!(rate.look(now), Pace::Until(now + Duration::from_secs(10)));
        rate.add_bytes(1);
        assert_eq!(rate.look(now), Pace::TooFast);
        rate.add_bytes(usize::MAX);
        assert_eq!(rate.look(now), Pace::TooFast);
        assert!(Rate::new(RateLimits { packets: None, bytes: None }, now).is_none());
    }
}
