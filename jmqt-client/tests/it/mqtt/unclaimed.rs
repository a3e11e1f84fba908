//! Messages that no stream is for, with Mosquitto and with the server of this repository.

use jmqt_server::Protocol;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const MESSAGES: u64 = 300;
/// In its first ten seconds a client acknowledges no message that no stream is for.
const START: Duration = Duration::from_secs(40);

#[tokio::test] // [MQTT-4.5.0-2]
async fn messages_that_no_stream_is_for_are_acknowledged_and_hold_nothing_up() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let broker = Broker::start("max_queued_messages 0\n").await;
    let own = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    let mut all = JoinSet::new();
    for url in broker.iter().map(|broker| broker.url("mqtt")).chain([own]) {
        for (version, qos) in
            VERSIONS.into_iter().flat_map(|v| [(v, Qos::AtLeastOnce), (v, Qos::ExactlyOnce)])
        {
            all.spawn(hold_nothing_up(url.clone(), version, qos));
        }
    }
    all.join_all().await;
}

async fn hold_nothing_up(url: String, version: Version, qos: Qos) {
    let what = format!("{url} {version:?} {qos:?}");
    let id = format!("idle{version:?}{qos:?}");
    let mut lasting = options(&url, version, &id).login(&id, "x");
    (lasting.clean_start, lasting.session_expiry) = (false, Duration::from_secs(100));
    lasting.keep_alive = Duration::from_secs(20); // The clock is looked at more often.
    let client = connect(lasting).await;
    let [unwanted, topic] = ["unwanted", "wanted"].map(|topic| format!("{topic}/{id}"));
    // The subscription outlives its stream, because the session outlives the connection.
    drop(client.subscribe(&unwanted, qos).await.unwrap());
    let mut wanted = client.subscribe(&topic, qos).await.unwrap();
    let name = format!("{id}p");
    let publisher = connect(options(&url, version, &name).login(&name, "x")).await;
    for round in 0..2 {
        for number in round * MESSAGES..(round + 1) * MESSAGES {
            let message = Publish::new(&unwanted, number.to_string()).unwrap().qos(qos);
            drop(publisher.queue(&message).await.unwrap());
        }
        publisher.publish(&Publish::new(&topic, "last").unwrap().qos(qos)).await.unwrap();
        let last = timeout(START, wanted.next()).await.unwrap_or_else(|_| panic!("{what}, round {round}"));
        let last = last.expect("the stream has ended");
        assert_eq!(last.text().unwrap(), "last");
        client.acknowledge(&last);
    }
    // What has come lately waits for a stream that begins now.
    let mut messages = client.messages();
    let mut left = Vec::new();
    while left.last() != Some(&(2 * MESSAGES - 1)) {
        let message = timeout(START, messages.next()).await.unwrap_or_else(|_| panic!("{what}: {left:?}"));
        let message = message.expect("the stream has ended");
        left.push(message.text().unwrap().parse::<u64>().unwrap());
    }
    assert_eq!(left, (client.unclaimed_messages()..2 * MESSAGES).collect::<Vec<_>>(), "{what}");
    within("the end", client.disconnect()).await;
}
