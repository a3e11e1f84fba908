//! A balancer that is paused for a while.

use std::io::Read;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Backend, Balancer, DEADLINE, is_closed, read, write};

/// More than one look takes in.
const CONNECTIONS: usize = 300;

#[test]
fn a_client_that_sent_bytes_during_a_stall_is_not_idle() {
    let backend = Backend::start();
    let options = "threads = 1\nidle_timeout_seconds = 5";
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), options);
    let silent = balancer.connect();
    let _silent_server = backend.accept();
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| (balancer.connect(), backend.accept())).collect();
    balancer.suspend();
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

#[test]
fn clocks_advance_during_a_stall() {
    let backend = Backend::start();
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), "idle_timeout_seconds = 4");
    let start = Instant::now();
    let silent = balancer.connect();
    let _silent_server = backend.accept();
    // An interruption every second does not restart the wait.
    let mut is_over = false;
    while !is_over {
        balancer.signal("STOP");
        balancer.signal("CONT");
        silent.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        is_over = matches!((&silent).read(&mut [0]), Ok(0));
        assert!(start.elapsed() < DEADLINE, "it is not closed");
    }
}
