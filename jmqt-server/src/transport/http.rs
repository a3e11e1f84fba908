//! HTTP answers.

/// An answer that ends the connection. `headers` contains complete lines.
pub(super) fn answer(status: &str, headers: &str, text: &str, with_body: bool) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}\r\n",
        text.len() + 1
    );
    if with_body {
        answer.push_str(text);
        answer.push('\n');
    }
    answer.into_bytes()
}
