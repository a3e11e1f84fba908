//! An operator who speaks HTTP: exactly what tests ask for, without a library between.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Someone who asks the listener for operators.
#[derive(Clone)]
pub(super) struct Operator {
    address: SocketAddr,
    key: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Response {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Operator {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, key: None }
    }

    /// The same, with another key.
    pub(super) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends bytes, and reads to the end of the connection. Blocks this thread.
    pub(super) fn exchange(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The server may have answered, and closed, before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    /// Makes a request with these header lines. Blocks this thread.
    pub(super) fn request_blocking(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let key =
            self.key.as_ref().map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{key}{headers}\r\n{body}",
            self.address,
            body.len()
        );
        let answer = self.exchange(request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Makes a request while the server goes on.
    pub(super) async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let (operator, method, path) = (self.clone(), method.to_owned(), path.to_owned());
        let (headers, body) = (headers.to_owned(), body.to_owned());
        let request = move || operator.request_blocking(&method, &path, &headers, &body);
        tokio::task::spawn_blocking(request).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", "").await
    }
}
