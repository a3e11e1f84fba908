//! Receives the pushes of its persistent subscriptions, and acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{Packet, PushAck, Qos, Retain, decode};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until};

use crate::Random;
use crate::journal::{channel_name, message_of};
use crate::session::{HEARTBEAT_EVERY, LoadOptions, RETRY_EVERY, Session, Shared, leaving};

/// Longer than any load runs.
const NEVER: Duration = Duration::from_secs(86_400);

/// How long a subscriber keeps a connection.
pub(crate) fn lifetime(options: &LoadOptions, random: &mut Random) -> Duration {
    options.churn.map_or(NEVER, |mean| {
        let mean = u64::try_from(mean.as_millis()).unwrap();
        Duration::from_millis(mean / 5 + random.below(mean * 2))
    })
}

pub(crate) async fn run(shared: Arc<Shared>, number: u32, subscribed: mpsc::Sender<()>) {
    let name = shared.journal.subscriber(number).name.clone();
    let mut random = Random::new(shared.options.seed ^ (0xA000 + u64::from(number)));
    let mut subscribed = Some(subscribed);
    loop {
        let mut session = shared.connect(&name, &mut random).await;
        shared.journal.connected_again(number);
        if subscribed.is_some() {
            if subscribe(&mut session, &shared.options, number).await.is_none() {
                tokio::time::sleep(RETRY_EVERY).await;
                continue;
            }
            if let Some(subscribed) = subscribed.take() {
                let _ = subscribed.send(()).await; // the receiver may have given up
            }
        }
        if serve(&shared, number, &mut session, &mut random).await.is_some() {
            if !session.leave().await {
                shared.journal.problem(format!("{name} said disconn and was not disconnected"));
            }
            return;
        }
    }
}

async fn subscribe(session: &mut Session, options: &LoadOptions, number: u32) -> Option<()> {
    let has_filter = options.mqtt > 0 && number % 2 == 1;
    let sub = |name: String| format!(r#"{{"sub":{{"cn":"{name}","pr":1}}}}"#);
    let subs = match has_filter {
        true => vec![r#"{"sub":{"cn":"c/#","pr":1,"wc":1}}"#.to_owned()],
        false => (0..options.channels).map(channel_name).map(sub).collect(),
    };
    for sub in subs {
        session.connection.send_text(&sub).await.ok()?;
        let answer = session.connection.next().await?;
        let Ok(Packet::SubAck(ack)) = decode(&answer) else { return None };
        ack.status.is_ok().then_some(())?;
    }
    Some(())
}

/// It is time to leave.
struct Done;

/// Until the connection ends, or is dropped for the sake of churn: `None`.
async fn serve(shared: &Shared, number: u32, session: &mut Session, random: &mut Random) -> Option<Done> {
    let mut phase = shared.phase.clone();
    let mut heartbeat = interval(HEARTBEAT_EVERY);
    let drop_at = sleep_until(Instant::now() + lifetime(&shared.options, random));
    tokio::pin!(drop_at);
    loop {
        tokio::select! {
            biased;
            () = leaving(&mut phase) => return Some(Done),
            () = &mut drop_at => return None,
            text = session.connection.next() => {
                let text = text?;
                let Some(ack) = take(shared, number, &text) else { continue };
                session.connection.send(&Packet::PushAck(ack)).await.ok()?;
            }
            _ = heartbeat.tick() => session.connection.send(&Packet::Hb).await.ok()?,
        }
    }
}

/// Notes a push; returns its acknowledgement.
fn take(shared: &Shared, number: u32, text: &str) -> Option<PushAck<'static>> {
    let push = match decode(text) {
        Ok(Packet::Push(push)) => push,
        Ok(Packet::HbAck) => return None,
        _ => {
            shared.journal.problem(format!("s{number} received {text}"));
            return None;
        }
    };
    let message = message_of(push.data.as_str().as_bytes());
    let (Some((publisher, n)), Some(id), Qos::AtLeastOnce, Retain::No) =
        (message.filter(|(p, _)| push.client == format!("p{p}")), &push.id, push.qos, push.retain)
    else {
        shared.journal.problem(format!("s{number} received {text}"));
        return None;
    };
    let channel = shared.journal.publisher(publisher).messages.get(n as usize).map(|sent| sent.channel);
    if channel.map(channel_name).as_deref() != Some(&*push.channel) {
        shared.journal.problem(format!("s{number} received {text}, which nobody published"));
        return None;
    }
    shared.journal.received(number, (publisher, n), id);
    Some(PushAck { id: id.to_string().into(), status: None })
}
