//! When to send a heartbeat, and when a server that says nothing is gone (§7.e, §7.f).

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// `ts`.
    timeout: Duration,
    heard: Instant,
    sent: Instant,
    looked: Instant,
    /// A heartbeat is under way.
    asked: bool,
}

impl Heartbeat {
    pub(crate) fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { timeout, heard: now, sent: now, looked: now, asked: false }
    }

    /// How often to look at the clock. A twelfth of the time the server allows is exact enough.
    pub(crate) fn interval(&self) -> Duration {
        (self.timeout / 12).max(Duration::from_millis(20))
    }

    /// Something has arrived.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
        self.asked = false;
    }

    /// Something was given to the socket.
    pub(crate) fn sent(&mut self) {
        self.sent = Instant::now();
    }

    /// Whether a heartbeat is due. The error is a silence that has lasted for what is allowed.
    pub(crate) fn look(&mut self, allowed: Duration) -> Result<bool, Duration> {
        let now = Instant::now();
        let third = self.timeout / 3;
        // After a sleep of our own the clock says nothing about the server: it gets the time for an answer.
        if now - self.looked > third {
            self.heard = self.heard.max(now - third);
            self.asked = false;
        }
        self.looked = now;
        let silence = now - self.heard;
        if silence >= allowed {
            return Err(silence);
        }
        // An unanswered heartbeat is proof of nothing yet, but the server has heard from us.
        let is_due = silence >= third && !self.asked || now - self.sent >= third;
        if is_due {
            self.asked = true;
            self.sent = now;
        }
        Ok(is_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Looks at the clock as a client does that runs, until the server is given up: when heartbeats were sent, and
    /// the silence in the end.
    async fn run(heartbeat: &mut Heartbeat) -> (Vec<u64>, Duration) {
        let start = Instant::now();
        let mut beats = Vec::new();
        loop {
            advance(heartbeat.interval()).await;
            match heartbeat.look(TIMEOUT) {
                Ok(true) => beats.push(start.elapsed().as_secs()),
                Ok(false) => {}
                Err(silence) => return (beats, silence),
            }
        }
    }

    #[tokio::test(start_paused = true)] // §7.e
    async fn a_silent_server_is_asked_and_given_up_after_its_timeout() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        assert_eq!(run(&mut heartbeat).await, (vec![20, 40], TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_begins_the_wait_anew() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        for _ in 0..100 {
            advance(TIMEOUT / 3).await;
            assert_eq!(heartbeat.look(TIMEOUT), Ok(true));
            heartbeat.heard();
        }
        assert_eq!(run(&mut heartbeat).await, (vec![20, 40], TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn its_own_sleep_is_not_taken_for_the_servers() {
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        advance(Duration::from_secs(3600)).await;
        // It is asked at once, and has two thirds of its time for the answer.
        assert_eq!(heartbeat.look(TIMEOUT), Ok(true));
        assert_eq!(run(&mut heartbeat).await, (vec![20], TIMEOUT));
        // A heartbeat that was under way has no answer to wait for either.
        let mut heartbeat = Heartbeat::new(TIMEOUT);
        advance(TIMEOUT / 3).await;
        assert_eq!(heartbeat.look(TIMEOUT), Ok(true));
        advance(TIMEOUT).await;
        assert_eq!(heartbeat.look(TIMEOUT), Ok(true));
        assert_eq!(run(&mut heartbeat).await.1, TIMEOUT);
    }
}
