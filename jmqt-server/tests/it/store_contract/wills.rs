//! Wills: stored with the session, due after its end, published once.

use jmqt_server::store::{FireWill, StoredWill, WILLS_AT_A_TIME, WillKey};

use super::*;

const NODE: &str = "node";

/// The will of the session of a client with this generation.
fn will(who: &str, generation: u64, delay: u32) -> StoredWill {
    StoredWill {
        key: WillKey { client: client(who), generation, node: NODE.to_owned() },
        protocol: "MQTT".to_owned(),
        address: "[::1]:4711".to_owned(),
        channel: channel("gone"),
        data: Bytes::from_static(b"lost"),
        attributes: Attributes::NONE,
        qos: Qos::AtLeastOnce,
        retain: false,
        delay,
    }
}

/// Begins a session with a will; returns `true` if an earlier one continues.
async fn begins_with(store: &dyn Store, will: &StoredWill, is_clean: bool, expiry: u32) -> bool {
    let begin = BeginSession {
        owner: None,
        checked: None,
        client: will.key.client.clone(),
        generation: will.key.generation,
        is_clean,
        expiry: Some(expiry),
        now: SystemTime::now(),
        will: Some(Box::new(will.clone())),
    };
    one(store, Operation::BeginSession(begin)).await == Outcome::Begun { is_resumed: true }
}

fn session_of(will: &StoredWill) -> (ClientId, u64) {
    (will.key.client.clone(), will.key.generation)
}

/// Ends the connection of the client that left this will.
async fn end(store: &dyn Store, will: &StoredWill, at_least: u32) {
    store.end_wills(&[session_of(will)], &will.key.node, at_least).await.unwrap();
}

/// The clients whose wills are due in some seconds, with the generations.
async fn due(store: &dyn Store, seconds: u64) -> Vec<(String, u64)> {
    let due = store.due_wills(None, in_seconds(seconds), 0).await.unwrap();
    due.into_iter().map(|will| (will.key.client.as_str().to_owned(), will.key.generation)).collect()
}

fn fire(will: &StoredWill) -> Operation {
    let append = Append {
        channel: will.channel.clone(),
        sender: Some(will.key.client.clone()),
        data: will.data.clone(),
        attributes: will.attributes.clone(),
        log: will.qos != Qos::AtMostOnce,
        retain: will.retain,
        once: None,
        received: None,
    };
    Operation::FireWill(Box::new(FireWill { will: will.key.clone(), append }))
}

pub(super) async fn a_will_is_published_once(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "carol", "gone").await.key;
    let bobs = will("bob", 1, 0);
    begins_with(&*store, &bobs, true, 0).await;
    assert_eq!(due(&*store, 3600).await, [], "he is connected");
    end(&*store, &bobs, 0).await;
    store.close().await;
    let store = on.open().await;
    assert_eq!(due(&*store, 0).await, [("bob".to_owned(), 1)]);
    // Two nodes, or one that does not know that its commit was carried out.
    let outcomes = store.commit(&[fire(&bobs), append("gone", "other"), fire(&bobs)]).await.unwrap();
    assert_eq!(
        outcomes.iter().filter_map(placed_if_appended).collect::<Vec<_>>(),
        [(key, Seq(1)), (key, Seq(2))]
    );
    assert_eq!(outcomes[2], Outcome::NoWill);
    assert_eq!(one(&*store, fire(&bobs)).await, Outcome::NoWill);
    assert_eq!(due(&*store, 3600).await, []);
    assert_eq!(log(&*store, key).await, [(1, "lost".to_owned()), (2, "other".to_owned())]);
    store.close().await;
    let store = on.open().await;
    assert_eq!(one(&*store, fire(&bobs)).await, Outcome::NoWill);
    assert_eq!(log(&*store, key).await.len(), 2);
}

fn placed_if_appended(outcome: &Outcome) -> Option<(ChannelKey, Seq)> {
    match outcome {
        Outcome::Appended(place) => place.map(|place| (place.key, place.seq)),
        _ => None,
    }
}

pub(super) async fn a_will_is_kept_byte_for_byte(on: &dyn Database) {
    let store = on.open().await;
    let all = StoredWill {
        channel: ChannelName::exact(&format!(" {}", "x".repeat(2000))).unwrap(),
        data: Bytes::from((0..=255).collect::<Vec<u8>>().repeat(1000)),
        attributes: of_mqtt(Some(60_000)),
        qos: Qos::ExactlyOnce,
        retain: true,
        ..will("bob", u64::MAX >> 1, u32::MAX)
    };
    let empty = StoredWill { data: Bytes::new(), qos: Qos::AtMostOnce, ..will("Bob", 1, 0) };
    for will in [&all, &empty] {
        begins_with(&*store, will, true, u32::MAX).await;
        end(&*store, will, 0).await;
    }
    store.close().await;
    let store = on.open().await;
    assert_eq!(store.due_wills(None, in_seconds(1), 0).await.unwrap(), [empty]);
    let of = client("bob");
    let late = in_seconds(u64::from(u32::MAX) + 1);
    assert_eq!(store.due_wills(Some(&of), late, 0).await.unwrap(), [all]);
    assert_eq!(store.due_wills(Some(&client("nobody")), late, 0).await.unwrap(), []);
}

pub(super) async fn a_will_is_due_after_its_delay_or_with_the_end_of_the_session(on: &dyn Database) {
    let store = on.open().await;
    // Delay, expiry, and the seconds after which it is due.
    for (number, (delay, expiry, seconds)) in
        [(0, 0, 0), (600, 0, 0), (0, 600, 0), (300, 600, 300), (600, 300, 300), (300, u32::MAX, 300)]
            .into_iter()
            .enumerate()
    {
        let mourned = will(&format!("client {number}"), 1, delay);
        begins_with(&*store, &mourned, true, expiry).await;
        end(&*store, &mourned, 0).await;
        let of = mourned.key.client;
        if seconds > 0 {
            assert_eq!(
                store.due_wills(Some(&of), in_seconds(seconds - 60), 0).await.unwrap(),
                [],
                "{number}"
            );
        }
        assert_eq!(store.due_wills(Some(&of), in_seconds(seconds), 0).await.unwrap().len(), 1, "{number}");
    }
    // The end counts once, and the expiry of the moment.
    let bobs = will("bob", 1, 600);
    begins_with(&*store, &bobs, true, 600).await;
    one(&*store, Operation::SetExpiry { client: client("bob"), expiry: 100 }).await;
    end(&*store, &bobs, 0).await;
    end(&*store, &bobs, 5000).await;
    disconnect(&*store, "bob").await;
    let of = client("bob");
    assert_eq!(store.due_wills(Some(&of), in_seconds(40), 0).await.unwrap(), []);
    assert_eq!(store.due_wills(Some(&of), in_seconds(100), 0).await.unwrap().len(), 1);
}

pub(super) async fn who_comes_back_takes_a_will_back_that_is_not_due(on: &dyn Database) {
    let store = on.open().await;
    let (pending, is_due) = (will("bob", 1, 600), will("carol", 1, 0));
    for will in [&pending, &is_due] {
        begins_with(&*store, will, false, 3600).await;
        end(&*store, will, 0).await;
        assert!(store.session(&will.key.client).await.unwrap().unwrap().has_will);
        assert!(resumed(&*store, will.key.client.as_str(), false, 3600).await);
    }
    assert_eq!(due(&*store, 3600).await, [("carol".to_owned(), 1)]);
    assert!(!store.session(&client("bob")).await.unwrap().unwrap().has_will);
    // A JMQT client is the same client.
    let again = will("bob", 2, 600);
    begins_with(&*store, &again, false, 3600).await;
    end(&*store, &again, 0).await;
    one(&*store, begin("bob", false, None, SystemTime::now())).await;
    assert_eq!(due(&*store, 3600).await, [("carol".to_owned(), 1)]);
}

pub(super) async fn a_clean_start_ends_the_delay(on: &dyn Database) {
    let store = on.open().await;
    for (who, is_clean, expiry) in [("bob", true, 0), ("carol", true, 3600)] {
        let (old, new) = (will(who, 1, 600), will(who, 2, 600));
        begins_with(&*store, &old, false, 3600).await;
        end(&*store, &old, 0).await;
        assert!(!begins_with(&*store, &new, is_clean, expiry).await);
    }
    assert_eq!(due(&*store, 0).await, [("bob".to_owned(), 1), ("carol".to_owned(), 1)]);
    assert_eq!(due(&*store, 3600).await.len(), 2, "those of the new connections are not due");
    // The session has expired, and so has the delay.
    let (old, new) = (will("dora", 1, 600), will("dora", 2, 600));
    begins_with(&*store, &old, false, 60).await;
    end(&*store, &old, 0).await;
    disconnect_at(&*store, &old).await;
    let too_late = BeginSession {
        owner: None,
        checked: None,
        client: client("dora"),
        generation: 1,
        is_clean: false,
        expiry: Some(60),
        now: in_seconds(70),
        will: Some(Box::new(new)),
    };
    assert_eq!(one(&*store, Operation::BeginSession(too_late)).await, Outcome::Begun { is_resumed: false });
    let of = client("dora");
    assert_eq!(store.due_wills(Some(&of), in_seconds(70), 0).await.unwrap(), [old]);
}

async fn disconnect_at(store: &dyn Store, will: &StoredWill) {
    store.sessions_closed(&[session_of(will)], &will.key.node, Unanswered::Recorded).await.unwrap();
}

pub(super) async fn a_postponed_will_is_dropped_when_the_client_comes_back(on: &dyn Database) {
    let store = on.open().await;
    let (bobs, carols, doras) = (will("bob", 1, 0), will("carol", 1, 600), will("dora", 1, 0));
    for will in [&bobs, &carols, &doras] {
        begins_with(&*store, will, true, if will == &doras { 0 } else { 3600 }).await;
        end(&*store, will, 300).await;
    }
    assert_eq!(due(&*store, 240).await, []);
    let mut at_last = due(&*store, 300).await;
    at_last.sort();
    assert_eq!(at_last, [("bob".to_owned(), 1), ("dora".to_owned(), 1)]);
    assert_eq!(due(&*store, 600).await.len(), 3);
    // On another node, or in the next process: as if the connection had not ended.
    for who in ["bob", "dora"] {
        begins_with(&*store, &will(who, 2, 0), true, 0).await;
    }
    assert_eq!(due(&*store, 3600).await, [("carol".to_owned(), 1)]);
}

pub(super) async fn the_end_of_an_older_connection_concerns_no_newer_will(on: &dyn Database) {
    let store = on.open().await;
    let (old, new) = (will("bob", 1, 0), will("bob", 2, 0));
    let elsewhere =
        StoredWill { key: WillKey { node: "elsewhere".to_owned(), ..new.key.clone() }, ..new.clone() };
    for will in [&old, &new] {
        begins_with(&*store, will, false, 3600).await;
    }
    for _ in 0..2 {
        end(&*store, &old, 0).await;
        end(&*store, &elsewhere, 0).await;
        disconnect_at(&*store, &old).await;
        disconnect_at(&*store, &elsewhere).await;
        assert_eq!(due(&*store, 3600).await, [("bob".to_owned(), 1)]);
    }
    store.delete_wills(&[session_of(&old), session_of(&old)], NODE).await.unwrap();
    store.delete_wills(&[session_of(&new)], "elsewhere").await.unwrap();
    assert_eq!(due(&*store, 3600).await, []);
    assert_eq!(one(&*store, fire(&old)).await, Outcome::NoWill);
    end(&*store, &new, 0).await;
    assert_eq!(due(&*store, 0).await, [("bob".to_owned(), 2)]);
}

pub(super) async fn the_end_of_a_session_makes_its_will_due(on: &dyn Database) {
    let store = on.open().await;
    let wills: Vec<_> = (1..=3).map(|it| will(&format!("client {it}"), it, 0)).collect();
    for will in &wills {
        begins_with(&*store, will, true, 0).await;
        store
            .sessions_opened(&[session(will.key.client.as_str(), will.key.generation, NODE, 1)])
            .await
            .unwrap();
    }
    disconnect_at(&*store, &wills[0]).await;
    assert_eq!(due(&*store, 0).await, [("client 1".to_owned(), 1)]);
    drop(store); // as if the process had died
    let store = on.open().await;
    let orphans = store.claim_orphans("next").await.unwrap();
    assert_eq!(orphans.len(), 2);
    store.orphan_closed(&orphans[0]).await.unwrap();
    if on.is_shared() {
        assert_eq!(due(&*store, 0).await.len(), 2, "another node may serve the third");
    }
    store.orphan_closed(&orphans[1]).await.unwrap();
    assert_eq!(due(&*store, 0).await.len(), 3);
}

pub(super) async fn wills_without_a_session_are_due_after_a_crash(on: &dyn Database) {
    if on.is_shared() {
        return; // there, sessions are recorded first
    }
    let store = on.open().await;
    let (bobs, carols) = (will("bob", 1, 0), will("carol", 2, 600));
    begins_with(&*store, &bobs, true, 0).await;
    begins_with(&*store, &carols, true, 3600).await;
    drop(store);
    let store = on.open().await;
    assert_eq!(due(&*store, 0).await, [("bob".to_owned(), 1)]);
    assert_eq!(due(&*store, 540).await.len(), 1);
    assert_eq!(due(&*store, 600).await.len(), 2);
}

pub(super) async fn a_will_is_retained_within_the_limits(on: &dyn Database) {
    let store = on.open_with(RetainedLimits { messages: Some(1), ..RetainedLimits::default() }).await;
    let bobs = StoredWill { retain: true, qos: Qos::AtMostOnce, ..will("bob", 1, 0) };
    let carols = StoredWill {
        channel: channel("elsewhere"),
        ..StoredWill { key: will("carol", 1, 0).key, ..bobs.clone() }
    };
    for will in [&bobs, &carols] {
        begins_with(&*store, will, true, 0).await;
        end(&*store, will, 0).await;
    }
    let outcomes = store.commit(&[fire(&bobs), fire(&carols)]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Appended(None), Outcome::TooManyRetained]);
    let kept = kept(&*store, "gone").await.unwrap();
    assert_eq!((kept.sender, &kept.data[..]), (Some(client("bob")), &b"lost"[..]));
    assert_eq!(due(&*store, 0).await, [("carol".to_owned(), 1)], "it was not published");
    let plain = StoredWill { retain: false, ..carols };
    assert_eq!(one(&*store, fire(&plain)).await, Outcome::Appended(None));
    assert_eq!(due(&*store, 0).await, []);
}

pub(super) async fn a_will_reaches_persistent_filters(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "carol", false, 60).await;
    one(&*store, subscribe_filter("carol", "#", Qos::AtLeastOnce)).await;
    let bobs = will("bob", 1, 0);
    begins_with(&*store, &bobs, true, 0).await;
    end(&*store, &bobs, 0).await;
    assert!(placed(&one(&*store, fire(&bobs)).await).is_some());
    assert_eq!(place_of(&*store, "carol", "gone").await, Some((0, 1, true)));
}

pub(super) async fn many_wills_are_published_a_few_at_a_time(on: &dyn Database) {
    const MANY: u64 = 150;
    let store = on.open().await;
    let wills: Vec<_> = (0..MANY).map(|it| will(&format!("client {it}"), it, 0)).collect();
    let begin = |will: &StoredWill| {
        Operation::BeginSession(BeginSession {
            owner: None,
            checked: None,
            client: will.key.client.clone(),
            generation: 1,
            is_clean: true,
            expiry: Some(0),
            now: SystemTime::now(),
            will: Some(Box::new(will.clone())),
        })
    };
    store.commit(&wills.iter().map(begin).collect::<Vec<_>>()).await.unwrap();
    let (first, others) = wills.split_at(50);
    for part in [first, others] {
        store.end_wills(&part.iter().map(session_of).collect::<Vec<_>>(), NODE, 0).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await; // so that the times differ
    }
    // Page by page.
    let mut skipped = Vec::new();
    while let page = store.due_wills(None, SystemTime::now(), skipped.len()).await.unwrap()
        && !page.is_empty()
    {
        skipped.extend(page.into_iter().map(|will| will.key.generation));
    }
    skipped.sort_unstable();
    assert_eq!(skipped, (0..MANY).collect::<Vec<_>>());
    let mut seen = Vec::new();
    loop {
        let due = store.due_wills(None, SystemTime::now(), 0).await.unwrap();
        if due.is_empty() {
            break;
        }
        assert!(due.len() <= WILLS_AT_A_TIME);
        seen.extend(due.iter().map(|will| will.key.generation));
        let outcomes = store.commit(&due.iter().map(fire).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(outcomes, vec![Outcome::Appended(None); due.len()]);
    }
    assert!(seen[..50].iter().all(|generation| *generation < 50), "those that are due longest come first");
    seen.sort_unstable();
    assert_eq!(seen, (0..MANY).collect::<Vec<_>>());
    store.commit(&wills.iter().map(begin).collect::<Vec<_>>()).await.unwrap();
    store.delete_wills(&wills.iter().map(session_of).collect::<Vec<_>>(), NODE).await.unwrap();
    store.end_wills(&wills.iter().map(session_of).collect::<Vec<_>>(), NODE, 0).await.unwrap();
    assert_eq!(due(&*store, 0).await, []);
}
