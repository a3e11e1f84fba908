//! What an idle client takes in memory.
#![cfg(target_os = "linux")]
// A program of its own: it looks at the memory of its own process.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "it/support/mod.rs"]
mod support;

use jmqt_client::Client;
use support::*;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn an_idle_client_takes_less_than_100_kib() {
    const CLIENTS: usize = 200;
    let server = ScriptedServer::start().await;
    let mut all = Vec::new();
    let mut before = 0;
    for number in 0..CLIENTS + 20 {
        if number == 20 {
            before = resident(); // the first ones pay for what all share
        }
        let client = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
        let script = server.session(60).await;
        client.connected().await.unwrap();
        all.push((client, script));
    }
    let each = resident().saturating_sub(before) / CLIENTS;
    println!("{each} bytes, the other end of the connection included");
    assert!(each < 100 << 10, "{each}");
}
