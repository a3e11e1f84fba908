//! The packets of the sample application, exchanged with the real program.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use support::{DEADLINE, Server};
use tempfile::tempdir;

#[test] // §7.a, §7.b
fn an_auth_without_a_client_name_is_refused_with_the_missing_field() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut client = server.connect();
    for data in ["7", "{}", r#"{"client_name":7}"#, r#"{"client_name":null}"#, r#""bob""#] {
        client.send(&format!(r#"{{"auth":{{"dt":{data}}}}}"#));
        client.expect(
            r#"{"authAck":{"st":10,"mg":"the auth data must have a client_name, which is a string"}}"#,
        );
    }
    client.authenticate("bob"); // the connection is as good as before
}

#[test] // protocol.md 2.8
fn an_auth_with_an_invalid_client_id_is_refused_with_the_cause() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut client = server.connect();
    for name in ["", " bob", &"x".repeat(257)] {
        client.send(&format!(r#"{{"auth":{{"dt":{{"client_name":"{name}"}}}}}}"#));
        client.expect(concat!(
            r#"{"authAck":{"st":10,"mg":"client_name cannot be used: "#,
            r#"a client id must have 1 to 256 bytes and no surrounding white space"}}"#
        ));
    }
}

#[test] // an MQTT client that resumes the session of a JMQT client keeps its own subscriptions alone
fn an_mqtt_client_is_not_told_who_comes_and_goes() {
    let folder = tempdir().unwrap();
    let server = Server::start_with(folder.path(), &[("JMQT_MQTT_ON_JMQT_PORTS", "true")]);
    let mut alice = server.enter("alice");
    alice.send(r#"{"sub":{"cn":"weather","pr":1}}"#);
    alice.expect(r#"{"subAck":{"st":1,"cn":"weather"}}"#);
    drop(alice);
    let mut device = TcpStream::connect(server.address()).unwrap();
    device.set_read_timeout(Some(DEADLINE)).unwrap();
    // CONNECT of MQTT 3.1.1 with clean session 0; the session is present.
    device.write_all(b"\x10\x18\0\x04MQTT\x04\x80\0\x3c\0\x05alice\0\x05alice").unwrap();
    let mut received = [0; 4];
    device.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"\x20\x02\x01\0");
    let mut bob = server.enter("bob");
    bob.send(r#"{"pub":{"cn":"weather","dt":1,"q":1,"id":"1"}}"#);
    bob.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#);
    // The weather is all that comes before the answer to a ping.
    device.write_all(b"\xc0\0").unwrap();
    let mut received = [0; 16];
    device.read_exact(&mut received).unwrap();
    assert!(received.starts_with(b"\x32\x0c\0\x07weather"), "{}", received.escape_ascii());
    // Between the topic and the payload is the packet identifier.
    assert!(received.ends_with(b"1\xd0\0"), "{}", received.escape_ascii());
}

#[test] // §7.c, §10
fn a_conn_without_its_own_token_is_refused_and_not_announced() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut alice = server.enter("alice");
    let mut mallory = server.connect();
    let token = mallory.authenticate("mallory");
    for (name, token) in [("bob", "test-token"), ("bob", ""), ("bob", &token), ("mallory", &token[1..])] {
        mallory.conn(name, token);
        mallory.expect(r#"{"connAck":{"st":6}}"#);
    }
    alice.expect_nothing(); // what the validator noted was dropped (protocol.md 2.2)
    mallory.open_session("mallory", &token);
    alice.expect_presence(r#"{"online":"mallory"}"#);
}

#[test] // §10
fn a_token_holds_on_every_node_with_the_same_secret_until_it_expires() {
    const SECRET: &str = "thirty-two bytes, and a few more of them";
    let folders = [tempdir().unwrap(), tempdir().unwrap()];
    let environment = [("JMQT_TOKEN_SECRET", SECRET)];
    let one = Server::start_with(folders[0].path(), &environment);
    let other = Server::start_with(folders[1].path(), &environment);

    let token = one.connect().authenticate("bob");
    let mut bob = other.connect();
    bob.conn("bob", &token_of(SECRET, "bob", -1));
    bob.expect(r#"{"connAck":{"st":6}}"#);
    bob.conn("bob", &token_of("another secret of the same length, more or less", "bob", 60));
    bob.expect(r#"{"connAck":{"st":6}}"#);
    bob.open_session("bob", &token);

    assert!(!folders[0].path().join("jmqt.db.secret").exists());
}

/// A token as somebody else with this secret would make it.
fn token_of(secret: &str, name: &str, seconds: i64) -> String {
    use jwt_compact::alg::{Hs256, Hs256Key};
    use jwt_compact::{AlgorithmExt as _, Claims, Header};
    let mut claims = Claims::new(serde_json::json!({ "sub": name }));
    claims.expiration = Some(chrono::Utc::now() + chrono::TimeDelta::seconds(seconds));
    Hs256.token(&Header::empty(), &claims, &Hs256Key::new(secret)).unwrap()
}

#[test] // protocol.md 2.2
fn each_arrival_and_departure_is_announced_once_also_to_the_client_itself() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut alice = server.enter("alice"); // has heard of itself after its connAck
    let bob = server.enter("bob");
    alice.expect_presence(r#"{"online":"bob"}"#);
    drop(bob);
    alice.expect_presence(r#"{"offline":"bob"}"#);
    let _carol = server.enter("carol");
    alice.expect_presence(r#"{"online":"carol"}"#);
    alice.expect_nothing();
}

#[test]
fn many_simultaneous_arrivals_are_announced_in_few_messages() {
    const CLIENTS: usize = 200;
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut alice = server.enter("alice");
    let since = Instant::now();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = server.connect();
        let token = client.authenticate(&format!("bob{number}"));
        client.conn(&format!("bob{number}"), &token);
        clients.push(client);
    }
    let (mut named, mut messages) = (BTreeSet::new(), 0);
    while named.len() < CLIENTS {
        let packet = alice.receive().unwrap();
        let push: serde_json::Value = serde_json::from_str(&packet).unwrap();
        messages += 1;
        match &push["push"]["dt"]["online"] {
            serde_json::Value::Array(names) => named.extend(names.iter().map(|name| name.to_string())),
            name => named.extend([name.to_string()]),
        }
    }
    let most = since.elapsed().as_millis() / 250 + 1;
    assert!(messages <= most, "{messages} messages, {most} at most");
}

#[test] // protocol.md 2.16
fn a_disconn_is_logged_and_then_announced_once() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut alice = server.enter("alice");
    let mut bob = server.enter("bob");
    alice.expect_presence(r#"{"online":"bob"}"#);
    bob.send(r#"{"disconn":{}}"#);
    bob.expect_end();
    alice.expect_presence(r#"{"offline":"bob"}"#);
    alice.expect_nothing();

    server.logged("offline client=bob");
    let [leaves, offline] = &server.log_lines("client=bob")[1..] else { panic!("two lines") };
    assert!(leaves.contains("disconnects client=bob"), "{leaves}");
    assert!(offline.ends_with(r#"reason="the client disconnected""#), "{offline}");
}

#[test] // protocol.md 2.4
fn a_takeover_is_announced_as_online() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut alice = server.enter("alice");
    let mut older = server.enter("bob");
    alice.expect_presence(r#"{"online":"bob"}"#);
    let _newer = server.enter("bob");
    older.expect_disconn(4500); // TAKEOVER
    alice.expect_presence(r#"{"online":"bob"}"#);
    alice.expect_nothing();
}

#[test] // §9.a: presence is QoS 0
fn an_absent_client_does_not_receive_missed_announcements() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut alice = server.enter("alice");
    drop(server.enter("bob"));
    alice.expect_presence(r#"{"online":"bob"}"#);
    alice.expect_presence(r#"{"offline":"bob"}"#);
    let mut carol = server.enter("carol");
    alice.expect_presence(r#"{"online":"carol"}"#);
    drop(alice);
    carol.expect_presence(r#"{"offline":"alice"}"#);
    let mut bob = server.enter("bob"); // hears of itself first, and
    bob.expect_nothing();
}

#[test] // §7.h, §7.j, §7.l
fn the_presence_channel_is_the_servers_own() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let (mut alice, mut bob) = (server.enter("alice"), server.enter("bob"));
    alice.expect_presence(r#"{"online":"bob"}"#);
    bob.send(r#"{"sub":{"cn":"update"}}"#);
    bob.expect(r#"{"subAck":{"st":7,"cn":"update"}}"#);
    bob.send(r#"{"unsub":{"cn":" update "}}"#);
    bob.expect(r#"{"unsubAck":{"st":7,"cn":"update"}}"#);
    bob.send(r#"{"pub":{"cn":"update","dt":{"offline":"carol"},"q":1,"id":"1"}}"#);
    bob.expect(r#"{"pubAck":{"st":7,"id":"1"}}"#);
    bob.send(r#"{"pub":{"cn":"update","dt":{"offline":"carol"}}}"#);
    bob.expect_nothing();
    alice.expect_nothing();
}

#[test]
fn every_other_channel_is_open_to_all_clients() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let (mut bob, mut alice) = (server.enter("bob"), server.enter("alice"));
    bob.expect_presence(r#"{"online":"alice"}"#);
    alice.send(r#"{"sub":{"cn":"news"}}"#);
    alice.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#);
    bob.send(r#"{"pub":{"cn":"news","dt":1.50}}"#);
    alice.expect(r#"{"push":{"cn":"news","dt":1.50,"cl":"bob"}}"#);
    bob.send(r##"{"pub":{"cn":"#alice","dt":"psst"}}"##);
    alice.expect(r##"{"push":{"cn":"#alice","dt":"psst","cl":"bob"}}"##);
    alice.send(r#"{"unsub":{"cn":"news"}}"#);
    alice.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#);
}

#[test] // §9.d
fn my_subscriptions_names_each_channel_and_whether_it_lasts() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut bob = server.enter("bob");
    bob.send(r#"{"sub":{"cn":"news"}}"#);
    bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#);
    bob.send(r#"{"sub":{"cn":"weather","pr":1}}"#);
    bob.expect(r#"{"subAck":{"st":1,"cn":"weather"}}"#);
    bob.send(r#"{"pub":{"cn":"$mySubscriptions","id":"7"}}"#);
    bob.expect(concat!(
        r##"{"pubAck":{"st":1,"id":"7","dt":{"channels":{"#bob":"persistent","news":"temp","##,
        r##""update":"persistent","weather":"persistent"}}}}"##
    ));
}

#[test] // §9.d
fn online_lists_all_connected_clients_also_earlier_ones() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut bob = server.enter("bob");
    let alice = server.enter("alice");
    bob.expect_presence(r#"{"online":"alice"}"#);
    bob.send(r#"{"pub":{"cn":"$online","id":"1"}}"#);
    bob.expect(
        r#"{"pubAck":{"st":1,"id":"1","dt":{"channel":"update","clients":["alice","bob"],"total":2}}}"#,
    );
    drop(alice);
    bob.expect_presence(r#"{"offline":"alice"}"#);
    bob.send(r#"{"pub":{"cn":"$online","id":"2"}}"#);
    bob.expect(r#"{"pubAck":{"st":1,"id":"2","dt":{"channel":"update","clients":["bob"],"total":1}}}"#);
}

#[test] // §9.d
fn other_control_channels_do_not_exist() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut bob = server.enter("bob");
    for channel in ["$mysubscriptions", "$mySubscriptions2", "$restart"] {
        bob.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":{{}},"id":"8"}}}}"#));
        bob.expect(r#"{"pubAck":{"st":11,"id":"8"}}"#);
    }
}

#[test] // §9.c, §10
fn tokens_and_subscriptions_outlive_a_restart() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut bob = server.connect();
    let token = bob.authenticate("bob");
    bob.open_session("bob", &token);
    drop(bob);
    server.logged("offline client=bob");
    let mut alice = server.enter("alice");
    alice.send(r##"{"pub":{"cn":"#bob","dt":"for later","q":1,"id":"1"}}"##);
    alice.expect(r#"{"pubAck":{"st":8,"id":"1"}}"#); // stored all the same (protocol.md 2.21)
    assert_eq!(server.stop("TERM").code(), Some(0));
    alice.expect_disconn(4000); // SHUTDOWN

    let server = Server::start(folder.path());
    let mut bob = server.connect();
    bob.conn("bob", &token);
    bob.expect(r#"{"connAck":{"st":1,"ts":60}}"#);
    let push = bob.receive().unwrap();
    assert!(push.starts_with(r##"{"push":{"cn":"#bob","dt":"for later","cl":"alice","##), "{push}");
    bob.expect_to_be_online("bob");
}

#[test] // protocol.md 2.16
fn sessions_of_a_killed_server_go_offline_once() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut bob = server.connect();
    let token = bob.authenticate("bob");
    bob.open_session("bob", &token);
    let _alice = server.enter("alice");
    drop(server.enter("carol"));
    let _carol = server.enter("carol"); // her first session is over by now, and its end is on disk
    server.logged("offline client=carol");
    wait_for_session_rows(folder.path(), 3);
    server.kill();

    // Nobody is connected when they are announced, so it shows in the log alone.
    let mut server = Server::start(folder.path());
    for name in ["alice", "bob", "carol"] {
        server.logged(&format!("offline client={name}"));
    }
    let offline = server.log_lines("offline client=");
    let died = |name| offline.iter().filter(|line| line.contains(name) && line.contains("died")).count();
    assert_eq!((died("=alice"), died("=bob"), died("=carol")), (1, 1, 1), "{offline:?}");
    assert_eq!(offline.len(), 3, "{offline:?}");
    let mut bob = server.connect();
    bob.open_session("bob", &token);
    bob.expect_nothing();
    drop(bob);
    server.logged("offline client=bob remote=127.0.0.1");
    assert_eq!(server.stop("TERM").code(), Some(0));

    let server = Server::start(folder.path());
    assert_eq!(server.log_lines("offline client="), [""; 0]);
}

/// Waits until the database knows of this many sessions. Their rows are written within a second and
/// nobody is told, so this looks.
fn wait_for_session_rows(folder: &Path, expected: i64) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("jmqt.db")).read_only(true);
    let look = async {
        use sqlx::ConnectOptions as _;
        let mut database = options.connect().await.unwrap();
        loop {
            let count = sqlx::query_scalar("SELECT count(*) FROM sessions");
            let found: i64 = count.fetch_one(&mut database).await.unwrap();
            if found == expected {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let looked = runtime.block_on(async { tokio::time::timeout(DEADLINE, look).await });
    looked.expect("sessions are noted in the database");
}

#[test]
fn neither_tokens_nor_auth_data_nor_payloads_are_logged() {
    let folder = tempdir().unwrap();
    let secret = "a secret of the server, 32 bytes or more";
    let environment = [("JMQT_LOG_MODE", "DBG"), ("JMQT_TOKEN_SECRET", secret)];
    let mut server = Server::start_with(folder.path(), &environment);
    let mut bob = server.connect();
    bob.send(r#"{"auth":{"dt":{"password":"hunter2"}}}"#);
    bob.receive().unwrap();
    let token = bob.authenticate("bob");
    bob.conn("eve", &token);
    bob.expect(r#"{"connAck":{"st":6}}"#);
    bob.open_session("bob", &token);
    for packet in [
        r#"{"pub":{"cn":"update","dt":"hunter2","q":1,"id":"1"}}"#,
        r#"{"pub":{"cn":"news","dt":"hunter2","q":1,"id":"2"}}"#,
        r#"{"pub":{"cn":"$vault","dt":"hunter2","id":"3"}}"#,
        r#"{"pub":{"dt":"hunter2","id":"4"}}"#,
        r#"{"auth":{"dt":{"client_name":["hunter2"]}}}"#,
    ] {
        bob.send(packet);
        bob.receive().unwrap();
    }
    assert_eq!(server.stop("INT").code(), Some(0));
    assert!(!server.log_lines("refused client=eve").is_empty(), "the log is at DBG");
    for private in [&token, token.rsplit('.').next().unwrap(), "hunter2", secret] {
        assert_eq!(server.log_lines(private), [""; 0]);
    }
}
