//! One of two programs with the same client id: each `conn` ends the session of the other (protocol.md 2.4).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::Random;
use crate::session::{Phase, Shared};

/// A side keeps its session for this long at most, if nobody ends it, and then waits as long.
const TURN_MS: u64 = 400;

pub(crate) async fn run(shared: Arc<Shared>, number: u32) {
    let name = format!("r{}", number / 2);
    let mut random = Random::new(shared.options.seed ^ (0xF000 + u64::from(number)));
    let mut phase = shared.phase.clone();
    while *phase.borrow() != Phase::Leaving {
        let mut session = shared.connect(&name, &mut random).await;
        let keep = Duration::from_millis(random.below(TURN_MS));
        // Nobody talks to it: what comes is the end.
        let ended = timeout(keep, session.connection.next()).await;
        if let Ok(Some(text)) = ended {
            shared.journal.problem(format!("{name} received {text}"));
        }
        drop(session);
        let pause = Duration::from_millis(random.below(TURN_MS));
        let leaving = phase.wait_for(|phase| *phase == Phase::Leaving);
        // It is time for the next session, or to leave.
        let _ = timeout(pause, leaving).await;
    }
}
