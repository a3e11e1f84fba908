//! A healthy cluster of two nodes: what one node does, two do together.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use torture::{Cluster, Load, LoadOptions, until};

#[tokio::test(flavor = "multi_thread")] // §9.a, protocol.md 2.10
async fn messages_reach_subscribers_on_both_nodes_in_order() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let load = Load::start(cluster.targets(), LoadOptions::default()).await;
    load.progress(200).await;
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // §9.a
async fn a_qos_0_message_reaches_subscribers_on_the_other_node() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let mut alice = cluster.connect(0, "alice").await;
    let (mut bob, mut carol) = (cluster.connect(1, "bob").await, cluster.connect(0, "carol").await);
    bob.subscribe("news", false).await;
    carol.subscribe("news", false).await;
    for number in 0..100 {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{number}}}}}"#)).await;
    }
    for client in [&mut bob, &mut carol] {
        for number in 0..100 {
            client.take(&format!(r#"{{"push":{{"cn":"news","dt":{number},"cl":"alice"}}}}"#)).await;
        }
    }
    drop(until("nothing", || Some(())));
}
