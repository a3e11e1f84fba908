//! A balancer that gets no processor for a while.

mod support;

use std::thread::sleep;
use std::time::Duration;

use support::{Backend, Balancer, is_closed, read, write};

/// More than one look takes in.
const CONNECTIONS: usize = 300;

#[test]
fn who_has_spoken_while_it_stood_still_is_not_idle() {
    let backend = Backend::start();
    let options = "threads = 1\nidle_timeout_seconds = 5";
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), options);
    let silent = balancer.connect();
    let _silent_server = backend.accept();
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| (balancer.connect(), backend.accept())).collect();
    balancer.signal("STOP");
    for (client, _) in &pairs {
        write(client, b"there");
    }
    sleep(Duration::from_millis(5500)); // all clocks run out
    balancer.signal("CONT");
    for (_, server) in &pairs {
        assert_eq!(read(server, 5), b"there");
    }
    assert!(is_closed(&silent));
    balancer.until_metric("jmqt_lb_mapping_idle_total", "", 1);
}
