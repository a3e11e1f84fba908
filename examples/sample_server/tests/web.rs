//! The web page over HTTP.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use support::{DEADLINE, Server, run};
use tempfile::tempdir;

/// An answer, taken apart.
struct Answer {
    status: u16,
    head: String,
    content: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.content).unwrap()
    }
}

/// Sends this, which must ask for the connection to be closed, and reads to the end.
fn exchange(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, content: bytes[end + 4..].to_vec() }
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    exchange(address, &request)
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, "")
}

/// Where the page of this server is.
fn page_of(server: &Server) -> SocketAddr {
    listening(server, "http")
}

fn listening(server: &Server, kind: &str) -> SocketAddr {
    let line = server.logged(&format!("Listening on {kind} "));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_page_and_its_files_are_served_with_their_types() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    let address = page_of(&server);
    for (path, content_type, begins) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/index.html", "text/html; charset=utf-8", "<!doctype html>"),
        ("/?from=somewhere", "text/html; charset=utf-8", "<!doctype html>"),
        ("/style.css", "text/css; charset=utf-8", "/*"),
        ("/app.js", "text/javascript; charset=utf-8", "/**"),
        ("/jmqt.js", "text/javascript; charset=utf-8", "// jmqt-js"),
        ("/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = get(address, path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert_eq!(answer.header("content-length"), Some(answer.content.len().to_string().as_str()));
        assert!(answer.text().starts_with(begins), "{path}: {}", &answer.text()[..40]);
    }
}

#[test]
fn the_page_receives_the_port_of_the_websocket() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    let answer = get(page_of(&server), "/config.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let config: Value = serde_json::from_slice(&answer.content).unwrap();
    let port = listening(&server, "ws").port();
    assert_eq!(config, json!({"websocketPort": port, "tlsWebsocketPort": null, "websocketUrl": null}));
}

#[test]
fn the_page_receives_the_configured_address() {
    let folder = tempdir().unwrap();
    for wrong in ["example.com", "https://example.com/", "wss://", "ws:///jmqt"] {
        let output = run(folder.path(), &[], &["--websocket-url", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
    let server = Server::start_with_words(
        folder.path(),
        &["--web-port", "any", "--websocket-url", "wss://example.com/jmqt"],
    );
    let answer = get(page_of(&server), "/config.json");
    let config: Value = serde_json::from_slice(&answer.content).unwrap();
    assert_eq!(config["websocketUrl"], "wss://example.com/jmqt");
}

#[test]
fn head_is_answered_like_get_without_the_content() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    let address = page_of(&server);
    let (get, head) = (get(address, "/"), ask(address, "HEAD", "/", ""));
    assert_eq!((head.status, head.content.len()), (200, 0));
    for name in ["content-length", "content-type", "etag"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
}

#[test]
fn a_file_in_the_cache_of_the_browser_is_not_sent_again() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    let address = page_of(&server);
    let first = get(address, "/style.css");
    let etag = first.header("etag").unwrap();
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let again = ask(address, "GET", "/style.css", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((again.status, again.content.len()), (304, 0));
    assert_eq!(again.header("etag"), Some(etag));
    // Another file has another tag, and an unknown tag does not match.
    assert_ne!(get(address, "/app.js").header("etag"), Some(etag));
    assert_eq!(ask(address, "GET", "/style.css", "If-None-Match: \"old\"\r\n").status, 200);
}

#[test]
fn a_missing_file_is_404() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    for path in ["/nothing", "/README.md", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "//", "/app.js/", "/test/"]
    {
        let answer = get(page_of(&server), path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().starts_with("There is no such page."), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
}

#[test]
fn methods_that_would_change_something_are_405() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = ask(page_of(&server), method, "/", "Content-Length: 0\r\n");
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method}");
    }
}

#[test]
fn bytes_that_are_not_http_are_refused_and_affect_no_other_client() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    let address = page_of(&server);
    assert_eq!(exchange(address, "{\"auth\":{\"dt\":1}}\0\r\n\r\n").status, 400);
    let long = format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(long.as_bytes()); // it may be closed while this is written
    drop(stream);
    assert_eq!(get(address, "/").status, 200);
}

#[test]
fn a_silent_visitor_does_not_delay_the_stop() {
    let folder = tempdir().unwrap();
    let mut server = Server::start_with_page(folder.path(), "any");
    let address = page_of(&server);
    let _silent = TcpStream::connect(address).unwrap();
    let mut idle = TcpStream::connect(address).unwrap();
    idle.set_read_timeout(Some(DEADLINE)).unwrap();
    idle.write_all(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 4096]).unwrap() > 0);
    assert_eq!(server.stop("TERM").code(), Some(0));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn with_0_there_is_no_page() {
    let folder = tempdir().unwrap();
    let mut server = Server::start_with_page(folder.path(), "0");
    server.enter("bob");
    assert_eq!(server.stop("TERM").code(), Some(0));
    assert_eq!(server.log_lines("Listening on http").len(), 0);
    assert_eq!(server.log_lines("Listening on ").len(), 2);
}

#[test]
fn a_requested_port_is_used_or_the_start_fails() {
    let folder = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(folder.path(), &[], &["--web-port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("sample_server: cannot listen on 127.0.0.1:{port}")), "{error}");
    drop(taken);

    let server = Server::start_with_page(folder.path(), &port);
    assert_eq!(page_of(&server).port().to_string(), port);
}

#[test]
fn the_page_gets_a_free_port_when_the_usual_one_is_taken() {
    let folder = tempdir().unwrap();
    let _taken = TcpListener::bind("127.0.0.1:8000"); // if that fails, somebody else has it
    let server = Server::start_with_usual_page(folder.path());
    let warning = server.logged("Port 8000 is in use");
    assert!(warning.contains(" WRN : "), "{warning}");
    let address = page_of(&server);
    assert_ne!(address.port(), 8000);
    server.logged(&format!("Open http://localhost:{}/ in a browser", address.port()));
    assert_eq!(get(address, "/").status, 200);
}

#[test]
fn visitors_that_read_nothing_do_not_block_others() {
    let folder = tempdir().unwrap();
    let server = Server::start_with_page(folder.path(), "any");
    let address = page_of(&server);
    let requests = b"GET /jmqt.js HTTP/1.1\r\nHost: test\r\n\r\n".repeat(50);
    let visitors: Vec<_> = (0..300)
        .map(|_| {
            let mut visitor = TcpStream::connect(address).unwrap();
            // The oldest ones are closed while the others come.
            let _ = visitor.write_all(&requests);
            visitor
        })
        .collect();
    assert_eq!(get(address, "/").status, 200);
    drop(visitors);
}

#[test]
fn a_port_that_is_none_is_wrong_usage() {
    let folder = tempdir().unwrap();
    for wrong in ["65536", "-1", "http", ""] {
        let output = run(folder.path(), &[], &[&format!("--web-port={wrong}")]);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("--web-port"), "{error}");
    }
}
