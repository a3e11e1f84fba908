//! Which backend gets a connection: retries, ejection, checks, weights, sources.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use crate::support::{Backend, Balancer, exchange, is_closed, next_of, read, until, write};

fn mapping(backends: &[&Backend]) -> String {
    let names: Vec<_> = backends.iter().map(|backend| backend.address.to_string()).collect();
    format!("127.0.0.1:0 = {}", names.join(", "))
}

#[test]
fn a_backend_that_refuses_is_skipped() {
    let (dead, alive) = (Backend::nowhere(), Backend::start());
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {dead}, {}", alive.address), "eject_after = 0");
    for _ in 0..4 {
        exchange(&balancer.connect(), &alive.accept());
    }
    assert!(balancer.metric("jmqt_lb_mapping_retries_total", "") >= 1);
    assert_eq!(balancer.metric("jmqt_lb_mapping_refused_total", ""), 0);
}

#[test]
fn a_backend_that_closes_before_the_first_byte_is_skipped() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&[&one, &two]), "");
    let client = balancer.connect();
    let (first, stream) = next_of(&[&one, &two]);
    drop(stream);
    let (second, stream) = next_of(&[&one, &two]);
    assert_ne!(first, second);
    exchange(&client, &stream);
    assert_eq!(balancer.metric("jmqt_lb_mapping_retries_total", ""), 1);
}

#[test]
fn a_backend_is_not_replaced_after_the_first_byte() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&[&one, &two]), "");
    let client = balancer.connect();
    write(&client, b"x");
    let (_, stream) = next_of(&[&one, &two]);
    assert_eq!(read(&stream, 1), b"x");
    drop(stream);
    assert!(is_closed(&client));
    assert!(one.try_accept().is_none() && two.try_accept().is_none());
}

#[test]
fn a_silent_client_that_a_backend_closes_is_not_moved_to_another() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&[&one, &two]), "eject_after = 1");
    let clients = [balancer.connect(), balancer.connect()];
    let streams = [(); 2].map(|()| next_of(&[&one, &two]).1);
    std::thread::sleep(Duration::from_millis(1200)); // it may take a second to fail
    let [ended, reset] = streams;
    drop(ended);
    socket2::SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    assert!(clients.iter().all(is_closed));
    drop(clients);
    balancer.until_metric("jmqt_lb_connections", "", 0);
    assert_eq!(balancer.metric("jmqt_lb_backend_failures_total", ""), 0);
    assert!(one.try_accept().is_none() && two.try_accept().is_none());
}

#[test]
fn a_client_cannot_have_backends_ejected() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&[&one, &two]), "eject_after = 1");
    for _ in 0..5 {
        let client = balancer.connect();
        write(&client, b"nonsense");
        let (_, stream) = next_of(&[&one, &two]);
        until(|| (stream.peek(&mut [0; 8]).unwrap() == 8).then_some(()));
        drop(stream); // unread, so that it is a reset
        assert!(is_closed(&client));
    }
    assert_eq!(balancer.metric("jmqt_lb_backend_failures_total", ""), 0);
    assert_eq!(balancer.metric("jmqt_lb_backend_ejected", ""), 0);
}

#[test]
fn a_client_is_closed_after_each_backend_failed_once() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&[&one, &two]), "retries = 9");
    let client = balancer.connect();
    let (first, stream) = next_of(&[&one, &two]);
    drop(stream);
    let (second, stream) = next_of(&[&one, &two]);
    drop(stream);
    assert_ne!(first, second);
    assert!(is_closed(&client));
    balancer.until_metric("jmqt_lb_mapping_refused_total", "", 1);
}

#[test]
fn no_more_backends_are_tried_than_may_be() {
    let (one, two) = (Backend::start(), Backend::start());
    let balancer = Balancer::start(&mapping(&[&one, &two]), "retries = 0");
    let client = balancer.connect();
    let (_, stream) = next_of(&[&one, &two]);
    drop(stream);
    assert!(is_closed(&client));
    assert!(one.try_accept().is_none() && two.try_accept().is_none());
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_skipped() {
    let silent = Backend::with_backlog("127.0.0.1:0".parse().unwrap(), 0);
    // The kernel takes one more than it was told, and no more after that.
    let _queued: Vec<_> = (0..1).map(|_| TcpStream::connect(silent.address).unwrap()).collect();
    let alive = Backend::start();
    let mappings = format!("127.0.0.1:0 = {} weight=1000, {}", silent.address, alive.address);
    let balancer = Balancer::start(&mappings, "connect_timeout_seconds = 0.2");
    let client = balancer.connect();
    exchange(&client, &alive.accept());
    balancer.logged("no answer within connect_timeout_seconds");
}

#[test]
fn a_backend_that_keeps_failing_is_ejected_and_comes_back() {
    let (flaky_at, steady) = (Backend::nowhere(), Backend::start());
    let mappings = format!("127.0.0.1:0 = {flaky_at} weight=1000, {}", steady.address);
    let balancer = Balancer::start(&mappings, "eject_after = 2\neject_seconds = 1");
    let label = format!("address=\"{flaky_at}\"");
    for failures in [1, 2] {
        exchange(&balancer.connect(), &steady.accept());
        assert_eq!(balancer.metric("jmqt_lb_backend_failures_total", &label), failures);
    }
    balancer.logged("after 2 failed connections in a row");
    assert_eq!(balancer.metric("jmqt_lb_backend_ejections_total", &label), 1);

    // It is there again, but gets nothing until its time is over.
    let flaky = Backend::at(flaky_at);
    let (first, stream) = {
        let client = balancer.connect();
        let (first, stream) = next_of(&[&flaky, &steady]);
        exchange(&client, &stream);
        (first, stream)
    };
    let came_back = balancer.lines("gets connections again").len() == 1;
    assert!(first == 1 || came_back); // a machine that is very slow may have taken a second for it
    drop(stream);
    until(|| {
        let client = balancer.connect();
        let (index, stream) = next_of(&[&flaky, &steady]);
        exchange(&client, &stream);
        (index == 0).then_some(())
    });
    balancer.logged("Backend accepted again after ejection");
}

#[test]
fn the_last_fit_backend_is_never_ejected() {
    let (one, two) = (Backend::nowhere(), Backend::nowhere());
    let balancer =
        Balancer::start(&format!("127.0.0.1:0 = {one}, {two}"), "eject_after = 1\neject_seconds = 3600");
    for _ in 0..5 {
        assert!(is_closed(&balancer.connect()));
    }
    balancer.until_metric("jmqt_lb_mapping_refused_total", "", 5);
    assert_eq!(balancer.metric("jmqt_lb_backend_ejected", ""), 1);
    // Even one who was ejected is tried when the last one fails.
    let (one, two) = (Backend::at(one), Backend::at(two));
    for _ in 0..3 {
        let client = balancer.connect();
        exchange(&client, &next_of(&[&one, &two]).1);
    }
    drop(one);
    exchange(&balancer.connect(), &two.accept());
    drop(two);
}

#[test]
fn checks_take_backends_down_and_bring_them_up_again() {
    let (one, two) = (Backend::at(Backend::nowhere()), Backend::start());
    let (at, label) = (one.address, format!("address=\"{}\"", one.address));
    let options = "health_check_seconds = 0.05\nhealthy_after = 2\nunhealthy_after = 2\neject_after = 0\n\
                   slow_start_seconds = 0";
    let balancer = Balancer::start(&mapping(&[&one, &two]), options);
    drop(one);
    let line = balancer.logged("Backend is down");
    assert!(line.contains(&at.to_string()) && line.contains("WRN"), "{line}");
    assert_eq!(balancer.metric("jmqt_lb_backend_up", &label), 0);
    assert_eq!(balancer.metric("jmqt_lb_backend_up", ""), 1);
    // Nobody is sent there, so nothing fails.
    let _open: Vec<_> = (0..6).map(|_| balancer.connect()).collect();
    balancer.until_metric("jmqt_lb_backend_connections", "", 6);
    assert_eq!(balancer.metric("jmqt_lb_backend_connections_total", &label), 0);

    let _one = Backend::at(at);
    balancer.logged("Backend is up");
    balancer.until_metric("jmqt_lb_backend_up", &label, 1);
    let _client = balancer.connect();
    balancer.until_metric("jmqt_lb_backend_connections_total", &label, 1);
}

#[test]
fn when_all_are_down_all_are_tried() {
    let (one, two) = (Backend::nowhere(), Backend::nowhere());
    let options = "health_check_seconds = 0.05\nunhealthy_after = 1\nhealthy_after = 100";
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {one}, {two}"), options);
    balancer.until_metric("jmqt_lb_backend_up", "", 0);
    assert!(balancer.http("GET /healthz").0.starts_with("HTTP/1.1 503 "));
    let two = Backend::at(two);
    let client = balancer.connect();
    // Among the connections that arrive are checks, which end without a word.
    write(&client, b"!");
    let stream = until(|| {
        let stream = two.accept();
        (!is_check(&stream)).then_some(stream)
    });
    assert_eq!(read(&stream, 1), b"!");
}

fn is_check(stream: &TcpStream) -> bool {
    stream.peek(&mut [0; 1]).unwrap_or(0) == 0
}

#[test]
fn new_connections_go_where_the_fewest_are_for_the_weight() {
    let (one, two) = (Backend::start(), Backend::start());
    let mappings = format!("127.0.0.1:0 = {} weight=3, {}", one.address, two.address);
    let balancer = Balancer::start(&mappings, "");
    let held: Vec<_> = (0..40).map(|_| (balancer.connect(), next_of(&[&one, &two]))).collect();
    let at = |index| held.iter().filter(|(_, (at, _))| *at == index).count();
    assert_eq!((at(0), at(1)), (30, 10));
    held.iter().for_each(|(client, (_, server))| exchange(client, server));
    // Those of the second end: the next ones go there.
    let (kept, ended): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, (at, _))| *at == 0);
    drop(ended);
    balancer.until_metric("jmqt_lb_connections", "", 30);
    let held: Vec<_> = (0..10).map(|_| (balancer.connect(), next_of(&[&one, &two]))).collect();
    assert!(held.iter().all(|(_, (at, _))| *at == 1));
    drop(kept);
}

#[test]
fn round_robin_follows_the_weights_whichever_connections_end() {
    let (one, two) = (Backend::start(), Backend::start());
    let mappings = format!("127.0.0.1:0 = {} weight=2, {}", one.address, two.address);
    let balancer = Balancer::start(&mappings, "balance = round_robin");
    let order: Vec<_> = (0..9)
        .map(|_| {
            let client = balancer.connect();
            let (at, stream) = next_of(&[&one, &two]);
            exchange(&client, &stream);
            at
        })
        .collect();
    assert_eq!(order, [0, 1, 0, 0, 1, 0, 0, 1, 0]);
}

#[test]
fn a_source_keeps_its_backend_also_after_a_restart_and_loses_it_only_when_that_fails() {
    let backends = [Backend::start(), Backend::start(), Backend::start()];
    let [one, two, three] = &backends;
    let all = [one, two, three];
    let start = || Balancer::start(&mapping(&all), "balance = source_hash");
    let source = |number: u8| IpAddr::from([127, 1, 0, number]);
    let visit = |balancer: &Balancer, number| {
        let client = balancer.connect_from(source(number));
        let (at, stream) = next_of(&all);
        exchange(&client, &stream);
        at
    };
    let balancer = start();
    let first: Vec<_> = (1..=30).map(|number| visit(&balancer, number)).collect();
    assert!((0..3).all(|backend| first.contains(&backend)), "{first:?}");
    let second: Vec<_> = (1..=30).map(|number| visit(&balancer, number)).collect();
    assert_eq!(first, second);
    drop(balancer);
    let balancer = start();
    let third: Vec<_> = (1..=30).map(|number| visit(&balancer, number)).collect();
    assert_eq!(first, third);

    let without = [one, two];
    balancer.reload(&mapping(&without), "balance = source_hash");
    for (number, before) in (1..=30).zip(first) {
        let after = visit(&balancer, number);
        assert!(before == 2 || before == after);
    }
}

/// Answers every request on a port of its own with this status.
fn health_page(answer: &'static Mutex<&'static str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            assert!(request.is_empty() || request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
            let _ = write!(stream, "HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", answer.lock().unwrap());
        }
    });
    port
}

#[test]
fn a_backend_that_reports_not_ready_receives_no_connections() {
    static ANSWER: Mutex<&str> = Mutex::new("200 OK");
    let port = health_page(&ANSWER);
    let (asked, other) = (Backend::start(), Backend::at("127.0.0.2:0".parse().unwrap()));
    // On the other one's address nobody answers on that port.
    let mappings = format!("127.0.0.1:0 = {}, {}", asked.address, other.address);
    let options = format!(
        "health_check_seconds = 0.05\nhealth_check_http_port = {port}\nhealth_check_http_path = /readyz\n\
         unhealthy_after = 1\nhealthy_after = 1\nslow_start_seconds = 0"
    );
    let balancer = Balancer::start(&mappings, &options);
    let is_up = |backend: &Backend, up| {
        balancer.until_metric("jmqt_lb_backend_up", &format!("address=\"{}\"", backend.address), up);
    };
    is_up(&other, 0);
    is_up(&asked, 1);
    *ANSWER.lock().unwrap() = "503 Service Unavailable";
    is_up(&asked, 0);
    balancer.logged("GET /readyz on port");
    *ANSWER.lock().unwrap() = "204 No Content";
    is_up(&asked, 1);
}

#[test]
fn connections_of_one_server_count_in_all_mappings() {
    let [first, second] = [(); 2].map(|()| [Backend::start(), Backend::start()]);
    let line = |listen, [one, two]: &[Backend; 2]| {
        format!("{listen}:0 = {} node=one, {} node=two\n", one.address, two.address)
    };
    let balancer = Balancer::start(&(line("127.0.0.1", &first) + &line("127.0.0.2", &second)), "");
    let _client = balancer.connect();
    let (index, _stream) = next_of(&[&first[0], &first[1]]);
    let mut others = [0; 2];
    let rest: Vec<_> = (0..3)
        .map(|_| (balancer.connect_to(balancer.mappings[1]), next_of(&[&second[0], &second[1]])))
        .collect();
    for (_, (index, _)) in &rest {
        others[*index] += 1;
    }
    // With the one of the first mapping, both have two.
    let mut expected = [2, 2];
    expected[index] = 1;
    assert_eq!(others, expected);
}

#[test]
fn a_client_that_finds_a_full_backlog_is_connected_when_there_is_room() {
    let backend = Backend::with_backlog("127.0.0.1:0".parse().unwrap(), 8);
    let balancer = Balancer::start(&mapping(&[&backend]), "threads = 2");
    // Now it is known how quickly it answers.
    exchange(&balancer.connect(), &backend.accept());
    let clients: Vec<_> = (0..40_u8).map(|number| (number, balancer.connect())).collect();
    for (number, client) in &clients {
        write(client, &[*number; 4]);
    }
    // More than it keeps: the system would ask again after a second, and then all at once.
    until(|| (balancer.metric("jmqt_lb_backend_repeated_total", "") >= 31).then_some(()));
    let servers: Vec<_> = clients.iter().map(|_| backend.accept()).collect();
    for server in &servers {
        write(server, &read(server, 4));
    }
    for (number, client) in &clients {
        assert_eq!(read(client, 4), [*number; 4]);
    }
    assert_eq!(balancer.metric("jmqt_lb_mapping_refused_total", ""), 0);
    assert_eq!(balancer.metric("jmqt_lb_backend_failures_total", ""), 0);
}
