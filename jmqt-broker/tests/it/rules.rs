//! Who may read and write what.

use std::time::{Duration, Instant};

use jmqt_client::mqtt::{Client, Publish, Qos, Will};
use test_support::DEADLINE;

use crate::support::{Broker, Folder};

fn broker() -> Broker {
    let folder = Folder::new(
        "AUTH = 'password_file, anonymous'\nPASSWORD_FILE = 'users.passwd'\nACL = 'file'\nACL_FILE = 'rules.acl'",
    );
    folder.add_user("alice", "a");
    folder.add_user("bob", "b");
    folder.write(
        "rules.acl",
        "allow all both home/%u/#\nallow all read public/#\ndeny anonymous read public/inside/#\n\
         allow user alice write public/#\nallow all write $p2p/+\n",
    );
    folder.start()
}

async fn publish(client: &Client, topic: &str, payload: &str) -> bool {
    let message = Publish::new(topic, payload.to_owned()).unwrap().at_least_once();
    client.publish(&message).await.is_ok_and(|reason| !reason.is_error())
}

#[tokio::test]
async fn clients_read_and_write_what_the_rules_allow_and_nothing_else() {
    let broker = broker();
    let alice = broker.login("alice", "a").await.unwrap();
    let bob = broker.login("bob", "b").await.unwrap();
    let anonymous = broker.login("", "").await.unwrap();

    let mut news = bob.subscribe("public/#", Qos::AtLeastOnce).await.unwrap();
    assert!(anonymous.subscribe("public/#", Qos::AtLeastOnce).await.is_err(), "a part of it is denied");
    let mut outside = anonymous.subscribe("public/news", Qos::AtLeastOnce).await.unwrap();
    for filter in ["#", "home/#", "home/alice/#", "+/news", "other"] {
        assert!(bob.subscribe(filter, Qos::AtLeastOnce).await.is_err(), "{filter}");
    }
    let mut own = bob.subscribe("home/bob/#", Qos::AtLeastOnce).await.unwrap();

    for (client, topic, is_allowed) in [
        (&alice, "public/news", true),
        (&bob, "public/news", false),
        (&anonymous, "public/news", false),
        (&alice, "home/bob/x", false),
        (&bob, "home/bob/x", true),
        (&anonymous, "home//x", false),
    ] {
        assert_eq!(publish(client, topic, "1").await, is_allowed, "{topic}");
    }
    assert_eq!(news.next().await.unwrap().topic(), "public/news");
    assert_eq!(outside.next().await.unwrap().topic(), "public/news");
    assert_eq!(own.next().await.unwrap().topic(), "home/bob/x");
}

#[tokio::test]
async fn a_will_is_judged_by_the_rules_of_its_user() {
    let broker = broker();
    let with_will = async |user: &str, password: &str, topic: &str| {
        let mut options = broker.options(user, password);
        options.will = Some(Will::new(Publish::new(topic, "gone").unwrap()));
        Client::connect(options).await
    };
    assert!(with_will("bob", "b", "public/news").await.is_err());
    assert!(with_will("", "", "home/bob/x").await.is_err());
    let bob = broker.login("bob", "b").await.unwrap();
    let mut own = bob.subscribe("home/bob/#", Qos::AtMostOnce).await.unwrap();
    let mut options = broker.options("bob", "b");
    options.will = Some(Will::new(Publish::new("home/bob/state", "gone").unwrap()));
    options.client_id = "bob:device".to_owned();
    let device = Client::connect(options.clone()).await.unwrap();
    // Another connection with its client id ends it, and so its will is published.
    let _second = Client::connect(options).await.unwrap();
    assert_eq!(own.next().await.unwrap().topic(), "home/bob/state");
    drop(device);
}

#[tokio::test]
async fn the_rules_hold_for_jmqt_clients_too() {
    let broker = broker();
    let (mut alice, _) = broker.jmqt_client("alice", r#"{"username":"alice","password":"a"}"#);
    let (mut bob, _) = broker.jmqt_client("bob", r#"{"username":"bob","password":"b"}"#);
    bob.sub("public/news", 0);
    bob.send(r#"{"sub":{"cn":"home/alice/x","pr":0}}"#);
    bob.expect(r#"{"subAck":{"st":7,"#);
    bob.publish("public/news", "1", "p1");
    bob.expect(r#"{"pubAck":{"st":7,"#);
    alice.publish("public/news", "2", "p2");
    alice.expect(r#"{"pubAck":{"st":1,"#);
    bob.expect(r#"{"push":{"cn":"public/news","dt":2"#);
}

#[tokio::test]
async fn a_withdrawn_rule_ends_subscriptions_of_clients_that_are_connected_and_of_those_that_are_away() {
    let broker = broker();
    let staying = |user: &str, password: &str| {
        let mut options = broker.options(user, password);
        (options.client_id, options.clean_start) = (format!("{user}:1"), false);
        options.session_expiry = Duration::from_secs(600);
        options
    };
    let alice = broker.login("alice", "a").await.unwrap();
    let bob = Client::connect(staying("bob", "b")).await.unwrap();
    let mut inside = bob.subscribe("public/inside/#", Qos::AtLeastOnce).await.unwrap();
    let mut own = bob.subscribe("home/bob/#", Qos::AtLeastOnce).await.unwrap();
    let (mut jmqt, _) = broker.jmqt_client("bob", r#"{"username":"bob","password":"b"}"#);
    jmqt.sub("public/inside/1", 1);
    let away = Client::connect(staying("alice", "a")).await.unwrap();
    let _ = away.subscribe("public/inside/#", Qos::AtLeastOnce).await.unwrap();
    away.disconnect().await;
    assert!(publish(&alice, "public/inside/1", "before").await);
    assert_eq!(inside.next().await.unwrap().topic(), "public/inside/1");
    jmqt.expect(r#"{"push":{"cn":"public/inside/1""#);

    broker.folder.write(
        "rules.acl",
        "allow all both home/%u/#\nallow user alice write #\nallow all read public/outside # and no more\n",
    );
    broker.program.next_logged("Applied changed users and rules");
    assert!(publish(&alice, "public/inside/1", "after").await);
    assert!(publish(&bob, "home/bob/x", "own").await);
    assert_eq!(own.next().await.unwrap().topic(), "home/bob/x");
    assert!(futures_util::poll!(Box::pin(inside.next())).is_pending(), "nothing came before that");
    jmqt.expect_nothing();
    // The messages that waited are not delivered either.
    let back = Client::connect(staying("alice", "a")).await.unwrap();
    assert!(back.information().unwrap().session_present);
    let mut own = back.subscribe("home/alice/#", Qos::AtLeastOnce).await.unwrap();
    assert!(publish(&back, "home/alice/y", "own").await);
    assert_eq!(own.next().await.unwrap().topic(), "home/alice/y");
    assert_eq!(back.unclaimed_messages(), 0);
}

#[tokio::test]
async fn a_user_who_was_removed_or_has_another_password_is_disconnected_and_told_why() {
    let broker = broker();
    let (mut alice, _) = broker.jmqt_client("alice", r#"{"username":"alice","password":"a"}"#);
    let (mut bob, _) = broker.jmqt_client("bob", r#"{"username":"bob","password":"b"}"#);
    broker.folder.add_user("carol", "c");
    let (mut carol, _) = loop {
        // As soon as the file was read again.
        if broker.login("carol", "c").await.is_ok() {
            break broker.jmqt_client("carol", r#"{"username":"carol","password":"c"}"#);
        }
    };
    assert!(broker.folder.run(&["passwd", "--delete", "users.passwd", "bob"]).status.success());
    broker.folder.add_user("carol", "changed");
    let told = r#"{"disconn":{"st":4007,"mg":"the login is not valid any more"}}"#;
    for client in [&mut bob, &mut carol] {
        client.expect_exactly(told);
        client.expect_end();
    }
    alice.expect_nothing();
}

#[tokio::test]
async fn changed_rules_count_for_clients_that_are_connected() {
    let broker = broker();
    let bob = broker.login("bob", "b").await.unwrap();
    assert!(!publish(&bob, "public/news", "1").await);
    broker.folder.write("rules.acl", "allow user bob write public/news\n");
    let start = Instant::now();
    while !publish(&bob, "public/news", "1").await {
        assert!(start.elapsed() < DEADLINE, "the file was not read again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    broker.folder.write("rules.acl", "allow nobody\n");
    let logged = async || {
        while !publish(&bob, "public/news", "1").await || broker.program.log_lines("line 1").is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, logged())
        .await
        .expect("a mistake is logged, and the rules before it stay");
}
