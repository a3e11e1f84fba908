//! Clients that do not come back in SESSION_EXPIRY_SECONDS, and clients that do (§9.c).

use crate::support::{Client, Process};

fn publish(alice: &mut Client, data: &str) {
    alice.publish("news", data, "p");
    alice.expect(r#"{"pubAck":{"st":1,"id":"p"}}"#);
}

fn expect_nothing(client: &mut Client) {
    client.send(r#"{"hb":{}}"#);
    client.expect(r#"{"hbAck":{}}"#);
}

#[test]
fn a_client_that_is_away_too_long_loses_its_subscription_and_one_that_is_back_in_time_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("jmqt.db");
    let mut process = Process::start(&store, &[("JMQT_SESSION_EXPIRY_SECONDS", "10")]);
    let mut alice = process.connect("alice");
    for name in ["bob", "carol"] {
        process.connect(name).sub("news", 1); // and away
    }
    let mut here = process.connect("dave");
    here.sub("news", 1);
    publish(&mut alice, "1");
    let mut bob = process.connect("bob"); // back in time
    let push = bob.expect(r#"{"push":{"cn":"news","dt":1,"#);
    bob.ack(&push);

    process.next_logged("client=carol");
    publish(&mut alice, "2");
    let push = bob.expect(r#"{"push":{"cn":"news","dt":2,"#);
    bob.ack(&push);
    let mut carol = process.connect("carol");
    expect_nothing(&mut carol); // neither what was pending
    publish(&mut alice, "3");
    alice.send(r#"{"pub":{"cn":"news","dt":4}}"#);
    expect_nothing(&mut alice);
    expect_nothing(&mut carol); // nor what is new
    for data in [1, 2, 3] {
        // Connected for longer than the others may be away, which is nothing to lose anything for.
        let push = here.expect(&format!(r#"{{"push":{{"cn":"news","dt":{data},"#));
        here.ack(&push);
    }

    // The same is on disk.
    process.kill();
    let process = Process::start(&store, &[]);
    let mut alice = process.connect("alice");
    publish(&mut alice, "5");
    for (name, has_subscription) in [("bob", true), ("carol", false), ("dave", true)] {
        let mut client = Client::open(process.socket);
        client.conn(name, r#","wn":100"#);
        let mut last = String::new();
        client.send(r#"{"hb":{}}"#);
        while let Some(packet) = client.next()
            && packet != r#"{"hbAck":{}}"#
        {
            last = packet;
        }
        assert_eq!(last.starts_with(r#"{"push":{"cn":"news","dt":5,"#), has_subscription, "{name}: {last}");
    }
}
