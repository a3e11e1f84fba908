//! Forwarding in both directions, the end of each direction, and back pressure.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::support::{Backend, Balancer, DEADLINE, MIB, exchange, is_closed, read, until, write};
use socket2::{Domain, SockRef, Socket, Type};

fn start() -> (Balancer, Backend) {
    let backend = Backend::start();
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), "threads = 2");
    (balancer, backend)
}

#[test]
fn bytes_go_both_ways_whichever_side_sends_first() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    let server = backend.accept();
    exchange(&client, &server);
    let client = balancer.connect();
    let server = backend.accept();
    write(&server, b"welcome");
    assert_eq!(read(&client, 7), b"welcome");
    exchange(&client, &server);
}

#[test]
fn a_client_that_has_ended_its_direction_still_receives_the_answer() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    write(&client, b"question");
    client.shutdown(Shutdown::Write).unwrap();
    let server = backend.accept();
    assert_eq!(read(&server, 8), b"question");
    assert!(is_closed(&server)); // the end was passed on
    write(&server, b"answer");
    assert_eq!(read(&client, 6), b"answer");
    drop(server);
    assert!(is_closed(&client));
    balancer.until_metric("jmqt_lb_connections", "", 0);
}

#[test]
fn a_backend_that_has_ended_its_direction_still_receives_from_the_client() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    let server = backend.accept();
    write(&server, b"last words");
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&client, 10), b"last words");
    assert!(is_closed(&client));
    write(&client, b"mine");
    assert_eq!(read(&server, 4), b"mine");
    drop(client);
    assert!(is_closed(&server));
    balancer.until_metric("jmqt_lb_connections", "", 0);
}

#[test]
fn bytes_sent_before_a_backend_closed_arrive_while_the_client_keeps_sending() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    write(&client, b"hello");
    let server = backend.accept();
    assert_eq!(read(&server, 5), b"hello");
    write(&server, b"go away");
    drop(server);
    let _ = (&client).write(b"more");
    assert_eq!(read(&client, 7), b"go away");
    assert!(is_closed(&client));
}

#[test]
fn a_connection_ended_by_both_sides_is_closed_also_after_a_quick_backend() {
    let (balancer, backend) = start();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                write(&backend.accept(), b"bye"); // and its end, perhaps before a byte is forwarded
            }
        });
        for _ in 0..20 {
            let client = balancer.connect();
            assert_eq!(read(&client, 3), b"bye");
            assert!(is_closed(&client));
        }
    });
    balancer.until_metric("jmqt_lb_connections", "", 0);
    assert_eq!(balancer.metric("jmqt_lb_mapping_idle_total", ""), 0);
}

#[test]
fn the_backend_connection_of_a_vanished_client_is_closed() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    let server = backend.accept();
    exchange(&client, &server);
    let socket = Socket::from(client);
    socket.set_linger(Some(Duration::ZERO)).unwrap(); // a reset instead of an end
    drop(socket);
    assert!(is_closed(&server));
    balancer.until_metric("jmqt_lb_connections", "", 0);
}

/// Bytes that never repeat at a distance of a buffer.
fn pattern(from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn much_data_both_ways_at_once_arrives_whole_and_in_order() {
    const TOTAL: u64 = 24 * MIB;
    let (balancer, backend) = start();
    let client = balancer.connect();
    let server = backend.accept();
    let talk = |stream: TcpStream| {
        let mut sender = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            let chunk = 77_777;
            let mut sent = 0;
            while sent < TOTAL {
                let count = chunk.min((TOTAL - sent) as usize);
                sender.write_all(&pattern(sent, count)).unwrap();
                sent += count as u64;
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut stream = stream;
        let reading = thread::spawn(move || {
            let (mut received, mut chunk) = (0, vec![0; 100_000]);
            loop {
                let count = stream.read(&mut chunk).unwrap();
                if count == 0 {
                    return received;
                }
                assert!(chunk[..count] == pattern(received, count), "after {received} bytes");
                received += count as u64;
            }
        });
        (writing, reading)
    };
    let (client, server) = (talk(client), talk(server));
    for (writing, reading) in [client, server] {
        writing.join().unwrap();
        assert_eq!(reading.join().unwrap(), TOTAL);
    }
    balancer.until_metric("jmqt_lb_backend_bytes_to_total", "", TOTAL);
    balancer.until_metric("jmqt_lb_backend_bytes_from_total", "", TOTAL);
}

/// Writes until the way is full: nothing is taken for a while.
fn fill(stream: &TcpStream) -> u64 {
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(300) {
        match (&*stream).write(&pattern(sent, 65_536)) {
            Ok(count) => (sent, last) = (sent + count as u64, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 * MIB, "nothing holds the sender back");
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_slow_reader_slows_its_sender_and_uses_no_memory() {
    let (balancer, backend) = start();
    let pairs: Vec<_> = (0..10)
        .map(|_| {
            let client = balancer.connect();
            let server = backend.accept();
            exchange(&client, &server);
            (client, server)
        })
        .collect();
    let before = balancer.resident();
    let sent: Vec<_> = pairs.iter().map(|(_, server)| fill(server)).collect();
    assert!(sent.iter().all(|sent| *sent > 128 << 10));
    let grown = balancer.resident().saturating_sub(before);
    assert!(grown < 10 * (256 << 10) + MIB, "{grown} bytes for 10 readers");
    for ((client, server), sent) in pairs.iter().zip(sent) {
        server.shutdown(Shutdown::Write).unwrap();
        let received = read(client, usize::try_from(sent).unwrap());
        assert!(received == pattern(0, received.len()));
        assert!(is_closed(client));
    }
}

#[test]
fn a_slow_backend_holds_back_its_client() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    let server = backend.accept();
    let sent = fill(&client);
    client.shutdown(Shutdown::Write).unwrap();
    let received = read(&server, usize::try_from(sent).unwrap());
    assert!(received == pattern(0, received.len()));
    assert!(is_closed(&server));
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let (balancer, backend) = start();
    let pairs: Vec<_> = (0..1000).map(|_| (balancer.connect(), backend.accept())).collect();
    assert_eq!(balancer.metric("jmqt_lb_mapping_connections", ""), 1000);
    for (number, (client, server)) in pairs.iter().enumerate() {
        write(client, &(number as u64).to_be_bytes());
        write(server, &(number as u64 + 1).to_be_bytes());
    }
    // Backends may be met in another order than clients came: each answers whom it heard.
    let mut heard: Vec<_> =
        pairs.iter().map(|(_, server)| u64::from_be_bytes(read(server, 8).try_into().unwrap())).collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..1000).collect::<Vec<_>>());
    drop(pairs);
    balancer.until_metric("jmqt_lb_connections", "", 0);
}

#[test]
fn both_sides_may_be_ipv6() {
    let backend = Backend::at("[::1]:0".parse().unwrap());
    let balancer = Balancer::start(&format!("[::1]:0 = {}", backend.address), "");
    assert!(balancer.mappings[0].is_ipv6());
    let client = balancer.connect();
    exchange(&client, &backend.accept());
}

#[test]
fn a_name_is_looked_up_and_leads_to_its_addresses() {
    let backend = Backend::start();
    let port = backend.address.port();
    let balancer = Balancer::start(&format!("127.0.0.1:0 = localhost:{port}"), "resolve_seconds = 0.05");
    let client = balancer.connect();
    exchange(&client, &backend.accept());
    let address = format!("backend=\"localhost:{port}\",address=\"127.0.0.1:{port}\"");
    assert_eq!(balancer.metric("jmqt_lb_backend_connections_total", &address), 1);
    // Looked up again and again, it stays the same backend.
    sleep(Duration::from_millis(300));
    assert_eq!(balancer.metric("jmqt_lb_backend_connections_total", &address), 1);
    assert_eq!(balancer.metric("jmqt_lb_backend_connections", &address), 1);
}

#[test]
fn without_pre_resolution_an_unknown_name_refuses_clients_and_not_the_start() {
    let mappings = "127.0.0.1:0 = no-such-host.invalid:9000";
    let balancer = Balancer::start(mappings, "pre_resolve_workers = 0\nconnect_timeout_seconds = 0.2");
    balancer.logged("Cannot look up a backend");
    assert!(is_closed(&balancer.connect()));
    until(|| (balancer.metric("jmqt_lb_mapping_refused_total", "") == 1).then_some(()));
}

#[test]
fn names_that_lead_nowhere_do_not_take_the_place_of_backends_that_serve() {
    let backend = Backend::start();
    let options = "pre_resolve_workers = 0";
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), options);
    exchange(&balancer.connect(), &backend.accept());
    balancer.reload("127.0.0.1:0 = no-such-host.invalid:9000", options);
    balancer.logged("Cannot look up a backend");
    exchange(&balancer.connect(), &backend.accept());
    // With a look before the start, such a file is not taken over at all.
    balancer.fail_to_reload("127.0.0.1:0 = no-such-host.invalid:9001", "");
    exchange(&balancer.connect(), &backend.accept());
}

#[test]
fn a_name_server_that_does_not_answer_for_one_backend_does_not_delay_the_others() {
    let backend = Backend::start();
    let mappings = format!("127.0.0.1:0 = no-such-host.invalid:9000, localhost:{}", backend.address.port());
    let balancer = Balancer::start(&mappings, "");
    exchange(&balancer.connect(), &backend.accept());
}

#[cfg(target_os = "linux")]
#[test] // or a server that watches whether its clients read would close this one
fn a_server_sees_that_a_slow_client_reads() {
    const PART: usize = 16 * 1024;
    let backend = Backend::start();
    let options = format!("threads = 2\nbuffer_size = {PART}");
    let balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), &options);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(PART).unwrap();
    socket.connect(&balancer.mappings[0].into()).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let server = backend.accept();
    SockRef::from(&server).set_tcp_notsent_lowat(128 * 1024).unwrap(); // as a JMQT server does
    // How much the client has read, and how much of that at most between two moments at which the server could write.
    let (taken, most, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut server = &server;
            while !is_over.load(Ordering::Relaxed) {
                let before = taken.load(Ordering::Relaxed);
                if server.write_all(&[b'x'; PART]).is_ok() {
                    most.fetch_max(taken.load(Ordering::Relaxed) - before, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..100 {
            read(&client, PART);
            taken.fetch_add(PART, Ordering::Relaxed);
            sleep(Duration::from_millis(40));
        }
        is_over.store(true, Ordering::Relaxed);
        drop(balancer); // nobody writes for ever
    });
    let most = most.into_inner() / 1024;
    // Some hundred KiB; more than a thousand if the kernel's buffers between the two were as large as they like to be.
    assert!((1..800).contains(&most), "{most} KiB");
}
