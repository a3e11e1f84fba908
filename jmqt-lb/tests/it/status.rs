//! The status page.

use crate::support;

use std::io::Write;
use std::net::TcpStream;

use crate::support::{Backend, Balancer, exchange};

fn start() -> (Balancer, Backend) {
    let backend = Backend::start();
    let mappings = format!("127.0.0.1:0 = {} weight=7", backend.address);
    (Balancer::start(&mappings, ""), backend)
}

#[test]
fn metrics_are_in_the_text_format_of_prometheus() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    exchange(&client, &backend.accept());
    // What is forwarded is counted just after it has gone out.
    balancer.until_metric("jmqt_lb_backend_bytes_from_total", "", 8);
    let (head, body) = balancer.http("GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    let mapping = format!("{{mapping=\"{}\"}}", balancer.mappings[0]);
    let at = backend.address;
    let backend = format!("{{mapping=\"{}\",backend=\"{at}\",address=\"{at}\"}}", balancer.mappings[0]);
    for line in [
        "# HELP jmqt_lb_connections Connections now.",
        "# TYPE jmqt_lb_connections gauge",
        "jmqt_lb_connections 1",
        "jmqt_lb_draining 0",
        "jmqt_lb_reloads_total 0",
        "# TYPE jmqt_lb_mapping_accepted_total counter",
        &format!("jmqt_lb_mapping_accepted_total{mapping} 1"),
        &format!("jmqt_lb_mapping_refused_total{mapping} 0"),
        &format!("jmqt_lb_backend_up{backend} 1"),
        &format!("jmqt_lb_backend_weight{backend} 7"),
        &format!("jmqt_lb_backend_connections{backend} 1"),
        &format!("jmqt_lb_backend_bytes_to_total{backend} 5"),
        &format!("jmqt_lb_backend_bytes_from_total{backend} 8"),
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    let names = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names: Vec<_> = names.map(|line| line.split(' ').next().unwrap()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn the_overview_names_mappings_and_backends() {
    let (balancer, backend) = start();
    let client = balancer.connect();
    exchange(&client, &backend.accept());
    let (head, body) = balancer.http("GET /");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(body.contains("running, 1 connections"), "{body}");
    assert!(body.contains(&format!("{}: 1 connections, 1 accepted", balancer.mappings[0])), "{body}");
    let line = body.lines().find(|line| line.ends_with(&backend.address.to_string())).unwrap();
    assert_eq!(line.split_whitespace().take(4).collect::<Vec<_>>(), ["up", "7", "1", "1"]);
}

#[test]
fn health_is_ok_as_long_as_every_mapping_has_a_fit_backend() {
    let (balancer, _backend) = start();
    let (head, body) = balancer.http("GET /healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body == "ok\n", "{head} {body}");
    let options = "health_check_seconds = 0.05";
    balancer.reload(&format!("127.0.0.1:0 = {}", Backend::nowhere()), options);
    balancer.until_metric("jmqt_lb_backend_up", "", 0);
    let (head, body) = balancer.http("GET /healthz");
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable"), "{head}");
    assert_eq!(body, format!("no backend is up: {}\n", balancer.mappings[0]));
}

#[test]
fn other_requests_are_refused() {
    let (balancer, _backend) = start();
    assert!(balancer.http("GET /nothing").0.starts_with("HTTP/1.1 404 "));
    assert!(balancer.http("POST /").0.starts_with("HTTP/1.1 405 "));
    let (head, body) = balancer.http("HEAD /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty());
    let mut stream = TcpStream::connect(balancer.status).unwrap();
    let _ = stream.write_all(&[b'x'; 20_000]); // it may be closed before all of it is taken
    assert!(support::is_closed(&stream));
    assert!(balancer.http("GET /healthz").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn silent_clients_do_not_block_the_status_page() {
    let (balancer, _backend) = start();
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(balancer.status).unwrap()).collect();
    // Those that came first are given up for the others, long before their time is over.
    silent[0].set_read_timeout(Some(support::DEADLINE)).unwrap();
    assert!(support::is_closed(&silent[0]));
    let (head, _) = balancer.http("GET /healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
}
