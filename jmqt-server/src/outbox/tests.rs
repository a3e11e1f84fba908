use jmqt_core::{ChannelName, ClientId};
use jmqt_protocol::Packet;

use super::position::LogPosition;
use super::*;
use crate::message::{Data, LoggedPush, PushId, RetainedPush};
use crate::store::{CURSOR_WINDOW, ChannelKey, Cursor, Epoch, LogPlace, Seq, Stamp, StoredSubscription};
use crate::wire::{LoggedPushes, framed};

fn position(acked: u64) -> LogPosition {
    let cursor = Cursor { acked: Seq(acked), beyond: Vec::new() };
    let channel = ChannelName::parse("news").unwrap();
    LogPosition::new(&StoredSubscription {
        channel,
        key: ChannelKey(1),
        cursor,
        last: Seq(acked),
        options: crate::options::SubscriptionOptions::JMQT,
    })
}

#[test] // protocol.md 2.14
fn deleted_messages_are_skipped_up_to_the_horizon() {
    let mut position = position(10);
    position.pass_over(1 << 40); // in one step, for any distance
    assert_eq!((position.next, position.acked.up_to()), ((1 << 40) + 1, 1 << 40));
    let sent = position.next;
    position.next += 1; // one push is outstanding
    position.pass_over(sent + 2 * CURSOR_WINDOW);
    assert_eq!((position.next, position.acked.up_to()), (sent + CURSOR_WINDOW, sent - 1));
    assert!(position.acked.insert(sent));
    position.pass_over(sent + 2 * CURSOR_WINDOW);
    assert_eq!(position.acked.up_to(), sent + 2 * CURSOR_WINDOW);
}

#[test] // there is one for every connection
fn an_outbox_is_small() {
    assert!(size_of::<Outbox>() <= 264, "{}", size_of::<Outbox>());
}

/// The outbox of an encrypted connection, which is written only when a test requests it.
fn outbox() -> Arc<Outbox> {
    let context = OutboxContext {
        queue_bytes: 1 << 20,
        outbound: Arc::new(Budget::new(1 << 30)),
        counters: Arc::default(),
        ids: IdSpace::new(Epoch(1), 1),
        moved_cursors: Mutex::default(),
        unrecorded: Default::default(),
        groups: Default::default(),
    };
    let outbox = Outbox::new(Form::JmqtNul, None, Arc::new(context));
    outbox.set_window(128, Redelivery::AtOnce);
    Arc::new(outbox)
}

fn subscribe(outbox: &Arc<Outbox>, stage: Stage, log: LogState) -> Arc<Subscription> {
    let (news, bob) = (ChannelName::parse("news").unwrap(), ClientId::parse("bob").unwrap());
    let subscription = Arc::new(Subscription::new(news, bob, Arc::clone(outbox), stage, log));
    assert!(outbox.insert_subscription(&subscription));
    subscription
}

fn logged(seqs: std::ops::RangeInclusive<u64>) -> LoggedPushes {
    let message = |seq: u64| {
        let id = PushId::Logged(LogPlace { key: ChannelKey(1), seq: Seq(seq), stamp: Stamp(9) });
        LoggedPush { id, sender: None, data: Data::checked_before(seq.to_string().into()) }
    };
    let (ids, channel) = (IdSpace::new(Epoch(1), 1), ChannelName::parse("news").unwrap());
    LoggedPushes::new(ids, channel, seqs.map(message).collect())
}

fn retained() -> RetainedPush {
    RetainedPush {
        sender: None,
        data: Data::checked_before("\"retained\"".into()),
        id: PushId::Memory { process: 1, number: 0 },
        counted: None,
    }
}

fn stored(last: u64) -> StoredSubscription {
    let cursor = Cursor { acked: Seq(last), beyond: Vec::new() };
    let channel = ChannelName::parse("news").unwrap();
    StoredSubscription {
        channel,
        key: ChannelKey(1),
        cursor,
        last: Seq(last),
        options: crate::options::SubscriptionOptions::JMQT,
    }
}

/// The packets since the last call: packet types, retained messages and the data of pushes.
fn got(outbox: &Outbox) -> Vec<String> {
    let mut bytes = Vec::new();
    let drained = outbox.drain_with(|piece| {
        bytes.extend_from_slice(piece);
        Ok(piece.len())
    });
    assert!(drained.unwrap());
    let texts = bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty());
    let short = |text: &[u8]| {
        let text: serde_json::Value = serde_json::from_slice(text).unwrap();
        let (kind, value) = text.as_object().unwrap().iter().next().unwrap();
        match value.get("dt") {
            Some(_) if value.get("rt").is_some() => "retained".to_owned(),
            Some(data) => data.to_string(),
            None => kind.clone(),
        }
    };
    texts.map(short).collect()
}

fn ack() -> Vec<u8> {
    let status = jmqt_core::StatusCode::OK;
    let ack = jmqt_protocol::SubAck { status, channel: Some("news".into()), is_filter: false };
    framed(Form::JmqtNul, &Packet::SubAck(ack))
}

#[test] // protocol.md 2.2, 2.3: the application subscribes a client that is connecting
fn a_retained_message_waits_until_the_session_is_live() {
    let outbox = outbox();
    let subscription = subscribe(&outbox, Stage::Live, LogState::Temporary);
    outbox.open(&subscription, None, Some(retained()));
    outbox.flush();
    assert!(got(&outbox).is_empty());
    outbox.answer(framed(Form::JmqtNul, &Packet::HbAck)); // in place of a `connAck`
    outbox.go_live();
    assert_eq!(got(&outbox), ["hbAck", "retained"]);
}

#[test] // protocol.md 2.20
fn an_ended_subscription_receives_no_retained_message() {
    let outbox = outbox();
    outbox.go_live();
    let subscription = subscribe(&outbox, Stage::Opening, LogState::Temporary);
    outbox.remove_subscription("news");
    outbox.open(&subscription, Some(ack()), Some(retained()));
    assert_eq!(got(&outbox), ["subAck"]);
}

#[test] // protocol.md 2.3
fn no_push_of_either_kind_of_subscription_comes_before_its_sub_ack() {
    for persistent in [false, true] {
        let outbox = outbox();
        outbox.go_live();
        let subscription = subscribe(&outbox, Stage::Opening, LogState::Temporary);
        if persistent {
            outbox.attach(&subscription, &stored(0));
        }
        outbox.offer(&subscription, &logged(1..=2), Source::Live);
        outbox.answer(framed(Form::JmqtNul, &Packet::HbAck)); // so that a write lets waiting pushes follow
        assert_eq!(got(&outbox), ["hbAck"]);
        assert!(!outbox.begin_resume() || outbox.next_missing().is_none());
        outbox.open(&subscription, Some(ack()), Some(retained()));
        if persistent {
            assert!(outbox.begin_resume());
            assert_eq!(outbox.next_missing().unwrap().after, 0);
            outbox.offer(&subscription, &logged(1..=2), Source::Memory);
        }
        assert_eq!(got(&outbox), ["subAck", "retained", "1", "2"]);
    }
}

#[test] // protocol.md 2.10, 2.14, 2.20
fn messages_during_a_change_to_persistent_are_pushed_once() {
    let outbox = outbox();
    outbox.go_live();
    let subscription = subscribe(&outbox, Stage::Live, LogState::Temporary);
    outbox.offer(&subscription, &logged(1..=1), Source::Live);
    outbox.begin_change(&subscription);
    // The store subscribes between 3 and 4, and reports it after both.
    outbox.offer(&subscription, &logged(2..=4), Source::Live);
    assert_eq!(got(&outbox), ["1"]);
    outbox.attach(&subscription, &stored(3));
    outbox.end_change(&subscription);
    assert_eq!(got(&outbox), ["2", "3"]);
    assert!(outbox.begin_resume());
    assert_eq!(outbox.next_missing().unwrap().after, 3);
    outbox.offer(&subscription, &logged(4..=4), Source::Memory);
    outbox.offer(&subscription, &logged(5..=5), Source::Live);
    assert_eq!(got(&outbox), ["4", "5"]);
}

#[test] // protocol.md 2.14, 2.20: where nobody is persistently subscribed, the log does not have it
fn unlogged_messages_are_pushed_during_a_change_of_the_subscription() {
    let outbox = outbox();
    outbox.set_window(3, Redelivery::AtOnce);
    outbox.go_live();
    let subscription = subscribe(&outbox, Stage::Live, LogState::Attaching { seen: None });
    outbox.attach(&subscription, &stored(0));
    // The store has made it temporary between 1 and the next, or persistent behind the one before.
    let mut pushes = logged(1..=3);
    pushes.messages[1].id = PushId::Memory { process: 7, number: 2 };
    outbox.offer(&subscription, &pushes, Source::Live);
    assert_eq!(got(&outbox), ["1", "2"]);
    outbox.offer(&subscription, &pushes, Source::Memory);
    assert_eq!(got(&outbox), [""; 0], "it comes once");
    outbox.detach(&subscription);
    outbox.offer(&subscription, &logged(4..=4), Source::Live);
    assert_eq!(got(&outbox), ["4"]);
}

#[test] // protocol.md 2.20
fn messages_during_a_failed_change_are_pushed_afterwards() {
    let outbox = outbox();
    outbox.go_live();
    let subscription = subscribe(&outbox, Stage::Live, LogState::Temporary);
    outbox.begin_change(&subscription);
    outbox.offer(&subscription, &logged(1..=2), Source::Live);
    outbox.end_change(&subscription);
    outbox.offer(&subscription, &logged(3..=3), Source::Live);
    assert_eq!(got(&outbox), ["1", "2", "3"]);
}
