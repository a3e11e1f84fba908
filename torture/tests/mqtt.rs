//! MQTT clients and JMQT clients on the same channels, behind a balancer: QoS 2 exactly once, QoS 1 without loss, and the order of
//! each publisher, whatever fails.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::time::Duration;

use torture::{Cluster, Load, LoadOptions, Options};

/// Three nodes behind a balancer; half of the clients connect to it, and half to the nodes.
async fn under_load(churn: Option<Duration>) -> Option<(Cluster, Load)> {
    let cluster = Cluster::start(Options { nodes: 3, balancer: true }).await?;
    let mut targets = cluster.targets();
    targets.extend([cluster.front(); 3]);
    let options =
        LoadOptions { publishers: 1, subscribers: 2, mqtt: 4, churn, rivals: 1, ..LoadOptions::default() };
    let load = Load::start(targets, options).await;
    Some((cluster, load))
}

#[tokio::test(flavor = "multi_thread")] // 4.3.2, 4.3.3, 4.4, 4.6
async fn messages_of_both_languages_survive_killed_nodes() {
    let Some((mut cluster, load)) = under_load(Some(Duration::from_secs(2))).await else { return };
    for node in [1, 0] {
        cluster.nodes[node].kill();
        load.progress(30).await;
        cluster.nodes[node].restart().await;
        load.progress(20).await;
    }
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // 4.3.2, 4.3.3, 4.4, 4.6
async fn messages_of_both_languages_survive_restarts_of_everything() {
    let Some((mut cluster, load)) = under_load(None).await else { return };
    cluster.redis.kill();
    load.progress(20).await;
    cluster.redis.launch().await;
    load.progress(20).await;
    cluster.mariadb.kill();
    cluster.mariadb.launch().await;
    load.progress(20).await;
    for node in 0..3 {
        cluster.nodes[node].stop().await;
        cluster.nodes[node].restart().await;
    }
    load.progress(20).await;
    load.finish(&cluster).await.expect_no_problems();
}
