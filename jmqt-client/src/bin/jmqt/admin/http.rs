//! Requests to the listener for operators: HTTP/1.1, one request a connection.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;

/// The member of a request whose text is put into it as it is: the JSON of `data`.
pub(super) const RAW: &str = "data (as it is written)";
/// The longest answer. The server sends a page of a list at a time.
const MOST_BYTES: u64 = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server takes half a minute for a request at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A listener for operators.
pub(super) struct Server {
    address: String,
    key: Option<String>,
}

type Query<'a> = &'a [(&'a str, Option<&'a str>)];

impl Server {
    pub(super) fn new(address: String, key: Option<String>) -> Self {
        let address = address.strip_prefix("http://").unwrap_or(&address).trim_end_matches('/');
        let is_port = address.bytes().all(|digit| digit.is_ascii_digit());
        let address = if is_port { format!("127.0.0.1:{address}") } else { address.to_owned() };
        Self { address, key }
    }

    /// Asks the API for something.
    pub(super) async fn get(&self, path: &str, query: Query<'_>) -> Result<Value, Failure> {
        json(&expect(self.ask("GET", &target(path, query), None, &[]).await?)?)
    }

    pub(super) async fn delete(&self, path: &str, query: Query<'_>) -> Result<Value, Failure> {
        json(&expect(self.ask("DELETE", &target(path, query), None, &[]).await?)?)
    }

    /// Sends an object to the API.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        mut request: Map<String, Value>,
        headers: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        let raw = request.remove(RAW);
        let mut text = Value::Object(request).to_string();
        if let Some(raw) = raw.as_ref().and_then(Value::as_str) {
            text.truncate(text.len() - 1); // the object has other members
            text.push_str(&format!(",\"data\":{raw}}}"));
        }
        self.send_text(method, path, &text, headers).await
    }

    pub(super) async fn send_text(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        json(&expect(self.ask(method, &target(path, &[]), Some(body), headers).await?)?)
    }

    /// Makes a request; returns the status and the body of the answer.
    pub(super) async fn ask(
        &self,
        method: &str,
        target: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<(u16, String), Failure> {
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if let Some(key) = &self.key {
            request.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        for (name, value) in headers {
            if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                return Err(Failure::usage(format!("{name}: expected visible characters of ASCII")));
            }
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.unwrap_or_default();
        if method == "POST" || method == "PUT" {
            request
                .push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        let answer = self.exchange(request.as_bytes()).await?;
        let strange = || {
            Failure::new(format!(
                "{}: the answer is not HTTP: is this the ADMIN_ADDRESS of the server?",
                self.address
            ))
        };
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(strange)?;
        let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        Ok((status.ok_or_else(strange)?, body.to_owned()))
    }

    async fn exchange(&self, request: &[u8]) -> Result<String, Failure> {
        let failed = |error: std::io::Error| {
            Failure::disconnected(format!(
                "{}: {error}; is the server running, with this ADMIN_ADDRESS?",
                self.address
            ))
        };
        let late = || Failure::timeout_of(&self.address);
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address));
        let mut stream = connecting.await.map_err(|_| late())?.map_err(failed)?;
        let exchanging = async {
            // The server may answer, and close, before it has read a body that is too large.
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            (&mut stream).take(MOST_BYTES).read_to_end(&mut answer).await?;
            Ok(answer)
        };
        let answer = timeout(ANSWER_TIMEOUT, exchanging).await.map_err(|_| late())?.map_err(failed)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// The path of the API with parameters.
fn target(path: &str, query: Query<'_>) -> String {
    let mut target = format!("/api/v1/{path}");
    let mut before = '?';
    for (name, value) in query.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        target.push_str(&format!("{before}{name}="));
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    target.push(byte.into())
                }
                _ => target.push_str(&format!("%{byte:02X}")),
            }
        }
        before = '&';
    }
    target
}

/// The body of an answer that is no refusal.
pub(super) fn expect((status, body): (u16, String)) -> Result<String, Failure> {
    if status == 200 {
        return Ok(body);
    }
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let text = match &answer["error"] {
        Value::Null => format!("the server answers with the status {status}"),
        error => crate::terminal::noted(problem(error)),
    };
    Err(match status {
        401 => {
            Failure::refused(format!("{text} (--key-file FILE, or the environment variable JMQT_ADMIN_KEY)"))
        }
        500.. => Failure::new(text),
        _ => Failure::refused(text),
    })
}

/// What the server says about a mistake.
pub(super) fn problem(error: &Value) -> String {
    let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    format!("{} ({}); expected {}", part("what"), part("where"), part("expected"))
}

pub(super) fn json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::new(format!("the answer of the server is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded_and_a_port_is_on_this_machine() {
        let query = [("client", Some("a/b ü&=")), ("after", None), ("limit", Some("7"))];
        assert_eq!(target("connection", &query), "/api/v1/connection?client=a%2Fb%20%C3%BC%26%3D&limit=7");
        assert_eq!(Server::new("9090".to_owned(), None).address, "127.0.0.1:9090");
        assert_eq!(Server::new("http://[::1]:9090/".to_owned(), None).address, "[::1]:9090");
    }
}
