//! Client ids and announced windows that are valid, and those that are not (protocol.md 2.8, 2.9).

use crate::support::{Asked, TestServer};
use jmqt_server::{ConnVerdict, Protocol};

#[tokio::test] // protocol.md 2.8
async fn client_ids_have_1_to_256_bytes_and_no_surrounding_white_space() {
    let server = TestServer::start().await;
    server.app.on_conn(|_| Ok(ConnVerdict::accept()));
    for bad in ["", " ", " alice", "alice\\n", &"x".repeat(257), &"ä".repeat(129)] {
        let mut alice = server.open(Protocol::Socket).await; // five refusals end a connection
        alice.send(&format!(r#"{{"conn":{{"at":"t","cl":"{bad}"}}}}"#)).await;
        alice.expect(r#"{"connAck":{"st":10}}"#).await;
    }
    assert_eq!(server.app.times_asked(Asked::Conn).await, 0);
    for good in ["a", "alice the second", "#x", &"x".repeat(256), &"ä".repeat(128)] {
        let mut client = server.open(Protocol::Socket).await;
        client.send(&format!(r#"{{"conn":{{"at":"t","cl":"{good}"}}}}"#)).await;
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    }
}

#[tokio::test] // protocol.md 2.9
async fn an_announced_window_is_an_integer_of_1_or_more() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    for bad in ["0", "-1", "1.5", "\"many\"", "[]"] {
        alice.send(&format!(r#"{{"conn":{{"at":"token-alice","cl":"alice","wn":{bad}}}}}"#)).await;
        alice.expect(r#"{"connAck":{"st":10}}"#).await;
    }
    for good in ["1", "128", "4000000000", "null"] {
        let mut client = server.open(Protocol::Socket).await;
        client.send(&format!(r#"{{"conn":{{"at":"token-alice","cl":"alice","wn":{good}}}}}"#)).await;
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    }
}

#[tokio::test] // §7.d: `ts` is what the configuration says
async fn the_conn_ack_tells_the_timeout() {
    let server = TestServer::configured(|config| config.timeout = std::time::Duration::from_secs(7)).await;
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":7}}"#).await;
}
