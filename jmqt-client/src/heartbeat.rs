//! When to send a heartbeat, and when a server that says nothing is gone (§7.e, §7.f).

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How long a server may take to answer a probe, if its timeout is not less.
const PROBE: Duration = Duration::from_secs(3);
/// How far the clock of the wall may go ahead of ours before the machine is taken to have slept. A clock that is set does
/// no harm: the connection is probed.
const SLEPT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// `ts`.
    timeout: Duration,
    heard: Instant,
    sent: Instant,
    looked: Instant,
    looked_at_wall: SystemTime,
    /// A heartbeat is under way.
    asked: bool,
    /// Until when something has to be heard.
    probe: Option<Instant>,
}

/// What a look at the clock says is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Send a heartbeat.
    Beat,
}

impl Heartbeat {
    pub(crate) fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            timeout,
            heard: now,
            sent: now,
            looked: now,
            looked_at_wall: SystemTime::now(),
            asked: false,
            probe: None,
        }
    }

    /// How often to look at the clock. A twelfth of the time the server allows is exact enough.
    pub(crate) fn interval(&self) -> Duration {
        (self.timeout / 12).max(Duration::from_millis(20))
    }

    /// Something has arrived.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
        self.asked = false;
        self.probe = None;
    }

    /// Something was given to the socket.
    pub(crate) fn sent(&mut self) {
        self.sent = Instant::now();
    }

    /// The caller sends a heartbeat now, and something has to be heard soon.
    pub(crate) fn probe(&mut self) {
        let now = Instant::now();
        self.asked = true;
        self.sent = now;
        self.probe.get_or_insert(now + PROBE.min(self.timeout * 2 / 3));
    }

    /// When to look at the clock at the latest, if a probe is under way.
    pub(crate) const fn probe_ends(&self) -> Option<Instant> {
        self.probe
    }

    /// Whether a heartbeat is due. The error is a silence that has lasted for what is allowed. `busy`: the server may
    /// have a reason not to answer at once.
    pub(crate) fn look(&mut self, allowed: Duration, busy: bool, wall: SystemTime) -> Result<Due, Duration> {
        let now = Instant::now();
        let third = self.timeout / 3;
        let ours = now - self.looked;
        let walls = wall.duration_since(self.looked_at_wall).unwrap_or_default();
        (self.looked, self.looked_at_wall) = (now, wall);
        // After a sleep of our own the clock says nothing about the server, and the connection may be long dead: it gets
        // the time for an answer.
        if ours > third.max(self.interval() * 2) || walls.saturating_sub(ours) > SLEPT {
            self.heard = self.heard.max(now.checked_sub(third).unwrap_or(now));
            self.asked = false;
            self.probe = None;
            if !busy {
                self.probe();
                return Ok(Due::Beat);
            }
        }
        let silence = now - self.heard;
        if silence >= allowed || self.probe.is_some_and(|ends| ends <= now) {
            return Err(silence);
        }
        // An unanswered heartbeat is proof of nothing yet, but the server has heard from us.
        let is_due = silence >= third && !self.asked || now - self.sent >= third;
        if !is_due {
            return Ok(Due::Nothing);
        }
        self.asked = true;
        self.sent = now;
        Ok(Due::Beat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// The clock of the wall goes like ours.
    fn look(heartbeat: &mut Heartbeat) -> Result<Due, Duration> {
        let wall = heartbeat.looked_at_wall + (Instant::now() - heartbeat.looked);
        heartbeat.look(TIMEOUT, false, wall)
    }

    /// Looks at the clock as a client does that runs, until the server is given up: when heartbeats were sent, and
    /// the silence in the end.
    async fn run(heartbeat: &mut Heartbeat) -> (Vec<u64>, Duration) {
        let start = Instant::now();
        let mut beats = Vec::new();
        loop {
            advance(heartbeat.interval()).await;
            match look(heartbeat) {
                Ok(Due::Beat) => beats.push(start.elapsed().as_secs()),
                Ok(Due::Nothing) => {}
                Err(silence) => return (beats, silence),
            }
        }
    }

    #[tokio::test(start_paused = true)] // §7.e
    async fn a_silent_server_gets_a_heartbeat_and_is_closed_after_its_timeout() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        assert_eq!(run(&mut heartbeat).await, (vec![20, 40], TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_begins_the_wait_again() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        for _ in 0..100 {
            advance(TIMEOUT / 3).await;
            assert_eq!(look(&mut heartbeat), Ok(Due::Beat));
            heartbeat.heard();
        }
        assert_eq!(run(&mut heartbeat).await, (vec![20, 40], TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stop_of_the_process_the_server_is_asked_and_has_three_seconds() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(look(&mut heartbeat), Ok(Due::Beat));
        assert_eq!(heartbeat.probe_ends(), Some(Instant::now() + PROBE));
        advance(PROBE).await;
        assert!(look(&mut heartbeat).is_err());
        // It answers: all is well.
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(look(&mut heartbeat), Ok(Due::Beat));
        heartbeat.heard();
        advance(PROBE).await;
        assert_eq!(look(&mut heartbeat), Ok(Due::Nothing));
        // Stopped again before the probe was over, it is asked again.
        heartbeat.probe();
        advance(TIMEOUT).await;
        assert_eq!(look(&mut heartbeat), Ok(Due::Beat));
    }

    #[tokio::test(start_paused = true)] // this clock stops while a machine is suspended; the wall clock does not
    async fn after_a_sleep_of_the_machine_the_server_is_asked() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        advance(Duration::from_secs(5)).await;
        let wall = SystemTime::now() + Duration::from_secs(1800);
        assert_eq!(heartbeat.look(TIMEOUT, false, wall), Ok(Due::Beat));
        assert!(heartbeat.probe_ends().is_some());
        // A server that may be busy gets the usual time, and a clock that is set back changes nothing.
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        advance(Duration::from_secs(5)).await;
        assert_eq!(heartbeat.look(TIMEOUT, true, wall), Ok(Due::Nothing));
        assert_eq!(heartbeat.look(TIMEOUT, false, SystemTime::UNIX_EPOCH), Ok(Due::Nothing));
        assert_eq!(heartbeat.probe_ends(), None);
    }
}
