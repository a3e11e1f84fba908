//! Several nodes receive a `conn` of the same client at the same moment.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use torture::{Client, Cluster, until, within};

const ROUNDS: usize = 100;

/// Waits for the answer to a `conn`: whether it was accepted.
async fn is_accepted(client: &mut Client) -> bool {
    client.next().await.is_some_and(|answer| answer == r#"{"connAck":{"st":1,"ts":30}}"#)
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.4, 2.16
async fn of_two_simultaneous_sessions_of_one_client_one_survives() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let mut opened = Vec::new();
    for round in 0..ROUNDS {
        let mut a = Client::authenticate(cluster.target(round % 2), "bob").await;
        let mut b = Client::authenticate(cluster.target((round + 1) % 2), "bob").await;
        tokio::join!(a.send_conn(), b.send_conn());
        let (a_opened, b_opened) = tokio::join!(is_accepted(&mut a), is_accepted(&mut b));
        assert!(a_opened || b_opened, "nobody was accepted in round {round}");
        for (client, is_opened) in [(&a, a_opened), (&b, b_opened)] {
            if is_opened {
                opened.push(client.connection.local);
            }
        }
        let survivor = match (a_opened, b_opened) {
            (true, false) => &mut a,
            (false, true) => &mut b,
            // Both were there for a moment: one of them is ended by the other.
            _ => {
                within("the end of one of the two", async {
                    tokio::select! {
                        end = a.connection.next() => { assert_eq!(end, None); &mut b }
                        end = b.connection.next() => { assert_eq!(end, None); &mut a }
                    }
                })
                .await
            }
        };
        survivor.heartbeat().await;
    }
    // The connections of the last round are dropped here; those before were taken over or left.
    let closes = until("all close notices", || {
        let notices = cluster.notices();
        let closes: Vec<_> = notices
            .into_iter()
            .filter(|notice| matches!(notice.event, torture::Event::Closed(_)))
            .map(|notice| notice.remote.unwrap())
            .collect();
        (closes.len() >= opened.len()).then_some(closes)
    })
    .await;
    opened.sort_unstable();
    let mut closes = closes;
    closes.sort_unstable();
    assert_eq!(closes, opened, "each session was reported once");
    cluster.mariadb.without_sessions().await;
    eprintln!("{} sessions in {ROUNDS} rounds", opened.len());
}
