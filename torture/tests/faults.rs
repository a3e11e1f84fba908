//! One fault at a time, under load. Afterwards the checker lists the rules that were broken.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use torture::{Client, Cluster, Event, LOOK_EVERY, Load, LoadOptions, Notice, Options, Pulse, until, within};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster of three with a load; `None` if it cannot be started here. With churn, subscribers come and go.
async fn under_load(churn: Option<Duration>) -> Option<(Cluster, Load)> {
    let cluster = Cluster::of(3).await?;
    let options = LoadOptions { churn, rivals: 1, ..LoadOptions::default() };
    let load = Load::start(cluster.targets(), options).await;
    Some((cluster, load))
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.13, 2.16
async fn clients_lose_nothing_when_a_node_is_killed() {
    let Some((mut cluster, load)) = under_load(None).await else { return };
    for node in [1, 0] {
        cluster.nodes[node].kill();
        load.progress(50).await;
        cluster.nodes[node].restart().await;
        load.progress(50).await;
    }
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.16
async fn the_sessions_of_a_killed_node_are_reported_by_another_node() {
    let Some(mut cluster) = Cluster::of(2).await else { return };
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(cluster.connect(0, &format!("bob{number}")).await);
    }
    let mut back = cluster.connect(0, "carol").await;
    let pulse = Pulse::watch();
    let killed = Instant::now();
    cluster.nodes[0].kill();
    back.expect_end().await;
    // A client that reconnects immediately waits for the notifier of its old session.
    let back = cluster.connect(1, "carol").await;
    assert_eq!(cluster.closes_of("carol"), ["ServerDied"]);
    back.leave().await;
    for client in &clients {
        until("a close notice", || (cluster.closes_of(&client.name) == ["ServerDied"]).then_some(())).await;
    }
    let took = killed.elapsed();
    let pause = pulse.longest_pause();
    // Who stood still has not listened either, and gives a silent node a whole lease again.
    let limit = if pause < SECOND / 2 { 10 * SECOND } else { 30 * SECOND };
    assert!(took < limit, "{took:?}, with a pause of {pause:?}");
    // By whom, from where.
    for notice in cluster.nodes[1].notices() {
        if let (Event::Closed(_), Some(client)) =
            (&notice.event, clients.iter().find(|client| client.name == notice.client))
        {
            assert_eq!(notice.remote, Some(client.connection.local));
        }
    }
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.16
async fn a_session_that_a_stalled_node_has_claimed_is_reported_once() {
    let Some(mut cluster) = Cluster::of(2).await else { return };
    let bob = cluster.connect(0, "bob").await;
    let node = &cluster.nodes[0];
    // The node learns from the answer that it runs the close notifier.
    node.mysql.keep_answers_after(b"COMMIT");
    drop(bob);
    within("the claim", node.mysql.keeps_answers()).await;
    node.pause();
    until("the notice of the other node", || (cluster.closes_of("bob") == ["ServerDied"]).then_some(()))
        .await;
    node.mysql.answer();
    node.resume();
    cluster.nodes[0].stop().await; // when its sessions have ended
    assert_eq!(cluster.closes_of("bob"), ["ServerDied"]);
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.16
async fn many_sessions_of_a_killed_node_are_reported_as_soon_as_few() {
    const SESSIONS: usize = 300;
    let Some(mut cluster) = Cluster::of(2).await else { return };
    let mut clients = Vec::new();
    for number in 0..SESSIONS {
        clients.push(cluster.connect(0, &format!("bob{number}")).await);
    }
    cluster.nodes[0].kill();
    let told_at = until("the close notices", || {
        let died = cluster.nodes[1].notices().into_iter();
        let died = died.filter(|notice| matches!(notice.event, Event::Closed(_)));
        let at: Vec<_> = died.map(|notice| notice.at).collect();
        (at.len() >= SESSIONS).then_some(at)
    })
    .await;
    let took = told_at.iter().max().unwrap() - told_at.iter().min().unwrap();
    let took = Duration::from_micros(took);
    assert!(took < 8 * SECOND, "{took:?} from the first to the last");
    for client in &clients {
        assert_eq!(cluster.closes_of(&client.name), ["ServerDied"]);
    }
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.13
async fn a_stalled_database_does_not_execute_requests_that_were_answered_with_5() {
    let Some(cluster) = Cluster::of(1).await else { return };
    let (mut alice, mut bob) = (cluster.connect(0, "alice").await, cluster.connect(0, "bob").await);
    bob.subscribe("for bob", true).await;
    cluster.mariadb.pause();
    alice.send(r#"{"sub":{"cn":"for alice","pr":1}}"#).await;
    bob.send(r#"{"unsub":{"cn":"for bob"}}"#).await;
    alice.expect(r#"{"subAck":{"st":5,"cn":"for alice"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":5,"cn":"for bob"}}"#).await;
    cluster.mariadb.resume();
    let mut carol = cluster.connect(0, "carol").await;
    for name in ["alice", "bob"] {
        carol.send(&format!(r#"{{"pub":{{"cn":"for {name}","dt":7,"q":1,"id":"c"}}}}"#)).await;
        carol.expect(r#"{"pubAck":{"st":1,"id":"c"}}"#).await;
    }
    // Bob is subscribed as before, and alice can be.
    bob.take(r#"{"push":{"cn":"for bob","dt":7,"cl":"carol","q":1,"id":"*"}}"#).await;
    alice.subscribe("for alice", true).await;
    alice.heartbeat().await;
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.16
async fn inherited_sessions_are_reported_once_if_mariadb_is_killed_afterwards() {
    let Some(mut cluster) = Cluster::of(2).await else { return };
    let mut clients = vec![cluster.connect(0, "bob").await];
    for number in 0..10 {
        clients.push(cluster.connect(0, &format!("slow{number}")).await); // their close notifiers take a while
    }
    cluster.nodes[0].kill();
    until("bob's close notice", || (cluster.closes_of("bob") == ["ServerDied"]).then_some(())).await;
    // They may have been claimed one after the other; those that are not yet would wait for the database.
    until("all close notifiers", || {
        let closing = cluster.nodes[1].notices().into_iter().filter(|notice| notice.event == Event::Closing);
        (closing.count() >= 10).then_some(())
    })
    .await;
    cluster.mariadb.kill();
    for client in &clients {
        until("a close notice", || (cluster.closes_of(&client.name) == ["ServerDied"]).then_some(())).await;
    }
    cluster.mariadb.launch().await;
    for client in &clients {
        Client::connect(cluster.target(1), &client.name).await.leave().await;
    }
    for client in &clients {
        let both = ["ServerDied", "Disconnected"];
        until("the close notices", || (cluster.closes_of(&client.name).len() >= 2).then_some(())).await;
        assert_eq!(cluster.closes_of(&client.name), both, "reported once");
    }
    cluster.mariadb.without_sessions().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_lose_nothing_when_redis_is_killed() {
    let Some((mut cluster, load)) = under_load(Some(3 * SECOND)).await else { return };
    cluster.redis.kill();
    load.progress(100).await; // each node serves its own
    cluster.redis.launch().await;
    load.progress(100).await;
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_lose_nothing_when_redis_stalls_for_ten_seconds() {
    let Some((cluster, load)) = under_load(Some(3 * SECOND)).await else { return };
    cluster.redis.pause();
    tokio::time::sleep(10 * SECOND).await; // this is the fault
    cluster.redis.resume();
    load.progress(100).await;
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.13
async fn clients_lose_nothing_when_mariadb_is_killed() {
    let Some((mut cluster, load)) = under_load(Some(3 * SECOND)).await else { return };
    for _ in 0..3 {
        cluster.mariadb.kill();
        cluster.mariadb.launch().await;
        load.progress(100).await;
    }
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.4, 2.16
async fn clients_lose_nothing_when_a_node_is_cut_off_from_redis() {
    let Some((cluster, load)) = under_load(None).await else { return };
    let mut clients = Vec::new();
    for number in 0..5 {
        clients.push(cluster.connect(0, &format!("bob{number}")).await);
    }
    cluster.nodes[0].redis.cut();
    load.progress(50).await;
    for old in &mut clients {
        old.heartbeat().await;
        let asked = Instant::now();
        let new = Client::connect(cluster.target(1), &old.name).await;
        let took = asked.elapsed();
        assert!(took < 20 * SECOND, "{took:?}");
        assert_eq!(cluster.closes_of(&old.name), ["Takeover"], "once, and before the connAck");
        old.expect_end().await;
        new.leave().await;
    }
    cluster.nodes[0].redis.repair();
    load.progress(100).await;
    load.finish(&cluster).await.expect_no_problems();
    for client in &clients {
        assert_eq!(cluster.closes_of(&client.name), ["Takeover", "Disconnected"]);
    }
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.13
async fn messages_accepted_without_redis_are_delivered_after_their_node_ended() {
    let Some(mut cluster) = Cluster::of(2).await else { return };
    let mut bob = cluster.connect(1, "bob").await;
    bob.subscribe("news", true).await;
    for (data, is_killed) in [(1, true), (2, false)] {
        let mut alice = cluster.connect(0, "alice").await;
        cluster.nodes[0].redis.cut();
        // What is left: everybody's channel, that of bob's node, and bob's.
        let unlinked = async {
            while cluster.channels().await.len() > 3 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        within("the end of the link", unlinked).await;
        let publish = format!(r#"{{"pub":{{"cn":"news","dt":{data},"q":1,"id":"a"}}}}"#);
        alice.ask(&publish, r#"{"pubAck":{"st":1,"id":"a"}}"#).await;
        if is_killed {
            cluster.nodes[0].kill();
        } else {
            cluster.nodes[0].stop().await;
        }
        let push = format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"alice","q":1,"id":"*"}}}}"#);
        bob.take(&push).await;
        cluster.nodes[0].redis.repair();
        cluster.nodes[0].restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.4, 2.16
async fn sessions_of_a_node_without_the_database_are_taken_over_and_reported_once() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let (mut old, gone) = (cluster.connect(0, "bob").await, cluster.connect(0, "carol").await);
    cluster.nodes[0].mysql.cut();
    gone.leave().await; // and her close notifier waits for the database
    old.heartbeat().await;
    let (new, back) = tokio::join!(cluster.connect(1, "bob"), cluster.connect(1, "carol"));
    for name in ["bob", "carol"] {
        assert_eq!(cluster.closes_of(name), ["ServerDied"], "once, and before the connAck");
    }
    old.expect_end().await;
    cluster.nodes[0].mysql.repair();
    new.leave().await;
    back.leave().await;
    cluster.mariadb.without_sessions().await;
    for name in ["bob", "carol"] {
        let served = async {
            loop {
                let mut client = Client::authenticate(cluster.target(0), name).await;
                client.send_conn().await; // answered 5 as long as the database is away
                if client.next().await.is_some_and(|answer| answer.contains(r#""st":1"#)) {
                    return client;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        within(format_args!("a session of {name}"), served).await.leave().await;
        let closes = ["ServerDied", "Disconnected", "Disconnected"];
        until("the close notice", || (cluster.closes_of(name).len() >= 3).then_some(())).await;
        assert_eq!(cluster.closes_of(name), closes);
    }
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.4, 2.16
async fn a_close_notifier_that_runs_when_its_node_loses_the_database_is_not_repeated() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let mut old = cluster.connect(0, "slow").await; // her close notifier takes a while
    let moving = tokio::spawn(Client::connect(cluster.target(1), "slow"));
    let is_closing = |notice: &Notice| notice.event == Event::Closing;
    until("the close notifier", || cluster.notices().iter().any(is_closing).then_some(())).await;
    old.expect_end().await;
    cluster.nodes[0].mysql.cut();
    let new = moving.await.unwrap();
    assert_eq!(cluster.closes_of("slow"), ["Takeover"], "once, and before the connAck");
    cluster.nodes[0].mysql.repair();
    new.leave().await;
    cluster.mariadb.without_sessions().await;
    assert_eq!(cluster.closes_of("slow"), ["Takeover", "Disconnected"]);
}

#[tokio::test(flavor = "multi_thread")] // §9.e
async fn a_thousand_simultaneous_requests_are_executed_by_a_delayed_node() {
    let Some(cluster) = Cluster::of(6).await else { return };
    let (mut admins, mut clients) = (Vec::new(), Vec::new());
    for number in 0..20 {
        admins.push(cluster.connect(number % 5, &format!("admin{number}")).await);
        clients.push(cluster.connect(5, &format!("bob{number}")).await);
    }
    let mut asked = JoinSet::new();
    cluster.mariadb.pause();
    for (mut admin, client) in admins.into_iter().zip(&clients) {
        let subs = format!(r#"{{"client":"{}","channel":"c","count":50}}"#, client.name);
        asked.spawn(async move { admin.control("$force_subs", &subs).await });
    }
    tokio::time::sleep(SECOND).await; // this is the fault
    cluster.mariadb.resume();
    for done in asked.join_all().await {
        assert_eq!(done, json!(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_lose_nothing_when_three_nodes_are_restarted_one_after_another() {
    let Some(mut cluster) = Cluster::start(Options { nodes: 3, balancer: true }).await else { return };
    let options = LoadOptions { rivals: 1, ..LoadOptions::default() };
    let load = Load::start(vec![cluster.front()], options).await;
    for node in 0..3 {
        cluster.nodes[node].stop().await;
        load.progress(20).await;
        cluster.nodes[node].restart().await;
        load.progress(20).await;
    }
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // design: who was thought dead closes what it serves
async fn clients_lose_nothing_when_a_node_stalls_until_the_others_consider_it_dead() {
    let Some((cluster, load)) = under_load(None).await else { return };
    let mut bob = cluster.connect(0, "bob").await;
    cluster.nodes[0].pause();
    until("the close notice", || (cluster.closes_of("bob") == ["ServerDied"]).then_some(())).await;
    cluster.nodes[0].resume();
    bob.expect_end().await;
    load.progress(50).await;
    load.finish(&cluster).await.expect_no_problems();
    assert_eq!(cluster.closes_of("bob"), ["ServerDied"]);
}
