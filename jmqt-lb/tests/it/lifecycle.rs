//! Reload, drain, and limits.

use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Backend, Balancer, exchange, is_closed, next_of, try_exchange, until};

fn mapping(backend: &Backend) -> String {
    format!("127.0.0.1:0 = {}", backend.address)
}

#[test]
fn a_reload_adds_and_removes_backends_under_a_connection_that_stays() {
    let (old, new) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&old), "");
    let client = balancer.connect();
    let server = old.accept();
    exchange(&client, &server);

    balancer.reload(&mapping(&new), "");
    balancer.logged("Backend removed");
    exchange(&client, &server);
    for _ in 0..3 {
        exchange(&balancer.connect(), &new.accept());
    }
    assert!(old.try_accept().is_none());

    balancer.reload(&format!("127.0.0.1:0 = {}, {}", new.address, old.address), "balance = round_robin");
    let mut met = [0; 2];
    for _ in 0..4 {
        let client = balancer.connect();
        let (at, stream) = next_of(&[&new, &old]);
        exchange(&client, &stream);
        met[at] += 1;
    }
    assert_eq!(met, [2, 2]);
    exchange(&client, &server);
    assert_eq!(balancer.metric("jmqt_lb_reloads_total", ""), 2);
}

#[test]
fn a_removed_backend_is_shown_until_its_connections_have_ended_and_keeps_their_count() {
    let (old, new) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&old), "");
    let clients: Vec<_> = (0..3).map(|_| (balancer.connect(), old.accept())).collect();
    let of_old = format!("address=\"{}\"", old.address);
    let shown = || balancer.http("GET /").1.lines().any(|line| line.trim_start().starts_with("removed "));

    balancer.reload(&mapping(&new), "");
    until(|| shown().then_some(()));
    assert_eq!(balancer.metric("jmqt_lb_backend_connections", &of_old), 3);
    assert!(!balancer.http("GET /metrics").1.contains(&format!("backend_up{{mapping=\"{of_old}")));
    assert_eq!(balancer.http("GET /healthz").1, "ok\n");

    // It comes back, under another name too, with the connections that it has: the others come first.
    let port = old.address.port();
    for name in [old.address.to_string(), format!("localhost:{port}")] {
        balancer.reload(&format!("127.0.0.1:0 = {}, {name}", new.address), "");
        until(|| (!shown()).then_some(()));
        assert_eq!(balancer.metric("jmqt_lb_backend_connections", &of_old), 3, "{name}");
    }
    let others: Vec<_> = (0..3).map(|_| (balancer.connect(), new.accept())).collect();

    balancer.reload(&mapping(&new), "");
    until(|| shown().then_some(()));
    drop(clients);
    until(|| (!shown()).then_some(()));
    assert_eq!(balancer.metric("jmqt_lb_backend_connections", ""), 3);
    drop(others);
}

#[test]
fn a_reload_adds_and_removes_mappings_under_a_connection_that_stays() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&one), "");
    let client = balancer.connect();
    let server = one.accept();
    exchange(&client, &server);

    let both = format!("{}\n127.0.0.2:0 = {}", mapping(&one), two.address);
    balancer.reload(&both, "");
    let added = until(|| Some(balancer.last_mapping()).filter(|address| *address != balancer.mappings[0]));
    exchange(&balancer.connect_to(added), &two.accept());
    exchange(&balancer.connect(), &one.accept()); // on the same free port as before

    balancer.reload(&format!("127.0.0.2:0 = {}", two.address), "");
    until(|| TcpStream::connect(balancer.mappings[0]).is_err().then_some(()));
    exchange(&client, &server);
    exchange(&balancer.connect_to(added), &two.accept());
}

#[test]
fn a_file_with_a_mistake_is_not_taken_over() {
    let backend = Backend::start();
    let balancer = Balancer::start(&mapping(&backend), "");
    let client = balancer.connect();
    let server = backend.accept();
    exchange(&client, &server);

    balancer.fail_to_reload(&mapping(&backend), "buffer_size = big\nretry = 1");
    let line = balancer.logged(r#"line 2: buffer_size is "big"; expected a number of bytes"#);
    assert!(line.contains(" ERR : "), "{line}");
    balancer.logged("line 3: retry: there is no such key");
    // Nor is one whose addresses cannot be listened on, or whose names lead nowhere.
    let taken = format!("{}\n{} = 127.0.0.1:9", mapping(&backend), backend.address);
    balancer.fail_to_reload(&taken, "");
    balancer.logged(&format!("cannot listen on {}", backend.address));
    balancer.fail_to_reload("127.0.0.1:0 = no-such-host.invalid:1", "");
    balancer.logged("no backend of 127.0.0.1:0 has an address");

    exchange(&client, &server);
    exchange(&balancer.connect(), &backend.accept());
    assert_eq!(balancer.metric("jmqt_lb_reloads_failed_total", ""), 3);
}

#[test]
fn a_stopping_balancer_waits_for_its_connections() {
    for signal in ["TERM", "INT"] {
        let backend = Backend::start();
        let mut balancer = Balancer::start(&mapping(&backend), "drain_seconds = 3600");
        let client = balancer.connect();
        let server = backend.accept();
        exchange(&client, &server);
        balancer.signal(signal);
        balancer.logged("no longer listening, waiting for 1 connections");
        assert!(TcpStream::connect(balancer.mappings[0]).is_err());
        assert_eq!(balancer.http("GET /healthz").1, "draining\n");
        exchange(&client, &server);
        assert!(balancer.is_running());
        drop((client, server));
        assert_eq!(balancer.exit_code(), Some(0));
    }
}

#[test]
fn a_stopping_balancer_waits_no_longer_than_it_may() {
    let backend = Backend::start();
    let mut balancer = Balancer::start(&mapping(&backend), "drain_seconds = 0.3");
    let client = balancer.connect();
    let server = backend.accept();
    exchange(&client, &server);
    balancer.signal("TERM");
    assert_eq!(balancer.exit_code(), Some(0));
    assert!(is_closed(&client) && is_closed(&server));
    balancer.logged("drain_seconds (0.3 s) over: closing 1 connections");
}

#[test]
fn a_second_signal_stops_at_once() {
    let backend = Backend::start();
    let mut balancer = Balancer::start(&mapping(&backend), "drain_seconds = 3600");
    let client = balancer.connect();
    exchange(&client, &backend.accept());
    balancer.signal("TERM");
    balancer.logged("no longer listening");
    balancer.signal("INT");
    assert_eq!(balancer.exit_code(), Some(0));
    assert!(is_closed(&client));
    balancer.logged("SIGINT: closing 1 connections");
}

#[test]
fn more_clients_than_may_be_wait_for_one_to_end() {
    let backend = Backend::start();
    let balancer = Balancer::start(&mapping(&backend), "max_connections = 2");
    let first = balancer.connect();
    let first_server = backend.accept();
    let second = balancer.connect();
    exchange(&second, &backend.accept());
    let third = balancer.connect(); // the kernel's, not ours
    exchange(&first, &first_server);
    assert!(backend.try_accept().is_none());
    assert_eq!(balancer.metric("jmqt_lb_connections", ""), 2);
    drop((first, first_server));
    exchange(&third, &backend.accept());
}

#[test]
fn a_mapping_may_have_a_limit_of_its_own_and_a_reload_lifts_it() {
    let (one, two) = (Backend::start(), Backend::start());
    let mappings = format!("{}\n127.0.0.2:0 = {}", mapping(&one), two.address);
    let limited = format!("{mappings}\n[mapping 127.0.0.1:0]\nmax_connections = 1");
    let balancer = Balancer::start(&limited, "");
    let first = balancer.connect();
    exchange(&first, &one.accept());
    let second = balancer.connect();
    exchange(&balancer.connect_to(balancer.mappings[1]), &two.accept());
    assert!(one.try_accept().is_none());
    balancer.reload(&mappings, "");
    exchange(&second, &one.accept());
}

#[test]
fn an_idle_connection_is_closed_and_an_active_one_is_not() {
    // During a stall of this machine both are silent.
    let seen = (0..10).any(|_| one_of_two_connections_is_closed());
    assert!(seen, "this machine stalls repeatedly");
}

/// `false`: the living one was silent for nearly as long as it may, so that nothing was seen.
fn one_of_two_connections_is_closed() -> bool {
    const LIMIT: Duration = Duration::from_millis(400);
    let backend = Backend::start();
    let balancer = Balancer::start(&mapping(&backend), "idle_timeout_seconds = 0.5");
    let start = Instant::now();
    let [(silent, silent_server), (live, live_server)] =
        [(); 2].map(|()| (balancer.connect(), backend.accept()));
    let mut beaten = start;
    let mut beat = |client: &TcpStream, server: &TcpStream| {
        let now = Instant::now();
        let exchanged = try_exchange(client, server);
        let is_in_time = beaten.elapsed() < LIMIT;
        beaten = now;
        is_in_time.then(|| exchanged.unwrap())
    };
    if beat(&silent, &silent_server).is_none() {
        return false;
    }
    while start.elapsed() < Duration::from_millis(1500) {
        if beat(&live, &live_server).is_none() {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    assert!(is_closed(&silent) && is_closed(&silent_server));
    let idle = until(|| {
        let is_late = beaten.elapsed() >= LIMIT;
        let is_gone = balancer.metric("jmqt_lb_connections", "") == 1;
        (is_late || is_gone).then(|| balancer.metric("jmqt_lb_mapping_idle_total", ""))
    });
    if beaten.elapsed() >= LIMIT {
        return false;
    }
    assert_eq!(idle, 1);
    true
}
