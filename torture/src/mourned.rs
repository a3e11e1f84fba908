//! An MQTT client that connects again and again, each time with another will, and publishes nothing else. To the journal each
//! will is a message, which is published if the client leaves without DISCONNECT.

use std::sync::Arc;
use std::time::Duration;

use jmqt_mqtt::Version;
use tokio::time::timeout;

use crate::Random;
use crate::journal::{Sent, channel_name, payload};
use crate::mqtt::{Connecting, EXPIRY};
use crate::session::{Phase, RETRY_EVERY, Shared};

/// It keeps a connection for this long at most.
const LIFE_MS: u64 = 800;

pub(crate) async fn run(shared: Arc<Shared>, number: u32) {
    let name = shared.journal.publisher(number).name.clone();
    let mut random = Random::new(shared.options.seed ^ (0xD000 + u64::from(number)));
    let mut phase = shared.phase.clone();
    // A session that continues deletes wills that are not due, and one that does not makes them due.
    let expiry = if number.is_multiple_of(2) { 0 } else { EXPIRY };
    while *phase.borrow() == Phase::Busy {
        let n = {
            let mut log = shared.journal.publisher(number);
            let n = u32::try_from(log.messages.len()).unwrap();
            let channel = n % shared.options.channels;
            log.messages.push(Sent { channel, attempts: 1, ..Sent::default() });
            n
        };
        let (topic, will) = (channel_name(n % shared.options.channels), payload(number, n));
        let will = Some((&*topic, will.as_bytes()));
        // Not a clean start: it would make a will due that waits.
        let connecting = Connecting { client: &name, version: Version::V5, has_session: true, expiry, will };
        let target = *random.choose(&shared.targets);
        let session = shared.try_connect_mqtt(connecting, target).await;
        {
            let mut log = shared.journal.publisher(number);
            // Without a session nobody knows whether it is published, and no close notifier has this address.
            let local = session.as_ref().map_or(([0, 0, 0, 0], 0).into(), |session| session.local());
            log.wills.get_or_insert_default().push(local);
        }
        let Ok(session) = session else {
            tokio::time::sleep(RETRY_EVERY).await;
            continue;
        };
        let life = Duration::from_millis(random.below(LIFE_MS));
        let _ = timeout(life, phase.wait_for(|phase| *phase != Phase::Busy)).await;
        if random.below(4) == 0 {
            session.leave().await;
        } else if session.abandon().await {
            let mut log = shared.journal.publisher(number);
            log.messages[n as usize].is_acked = true;
            log.acked += 1;
        }
    }
}
