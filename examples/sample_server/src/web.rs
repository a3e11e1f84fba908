//! The web page: a JMQT client that the browser gets from this program, over plain HTTP/1.1.
//!
//! The files of `examples/web` and the browser build of jmqt-js are compiled in, so there is nothing to
//! install beside the program. What the page cannot know, the WebSocket ports, is in `/config.json`.
//!
//! Nothing here is private and nothing is stored: GET and HEAD alone, no cookies, no body is read. Every
//! connection has a place, a time for its headers and an end. Not here: JMQT.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once. A browser opens six; for one more than this the oldest is closed, so that clients that
/// hold theirs keep nobody away.
const MAX_CONNECTIONS: usize = 256;
/// How long a request's headers may take, and how long a connection may be idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// After this the connection ends with the answer that is under way. Browsers open another.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How long that answer may take then.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// The pause after `accept` failed, usually because the process is out of file descriptors.
const BACKOFF: Duration = Duration::from_secs(1);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page loads from here alone, puts no text where it would become markup, and is framed by nobody.
/// It may open a WebSocket anywhere: the server's port is another than the page's, perhaps on another
/// host, and the page lets one be typed. The only worker is that of jmqt-js, which is made from a Blob.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self' ws: wss:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types jmqt-js";

macro_rules! files {
    ($($path:literal, $content_type:expr, $file:literal;)+) => {
        [$(($path, $content_type, include_bytes!(concat!("../../", $file)).as_slice())),+]
    };
}

/// Path, content type and content; the files are named from `examples/`.
const FILES: &[(&str, &str, &[u8])] = &files! {
    "/", HTML, "web/index.html";
    "/index.html", HTML, "web/index.html";
    "/style.css", CSS, "web/style.css";
    "/icon.svg", SVG, "web/icon.svg";
    "/theme.js", SCRIPT, "web/theme.js";
    "/app.js", SCRIPT, "web/app.js";
    "/activity.js", SCRIPT, "web/activity.js";
    "/address.js", SCRIPT, "web/address.js";
    "/connection.js", SCRIPT, "web/connection.js";
    "/dom.js", SCRIPT, "web/dom.js";
    "/feed.js", SCRIPT, "web/feed.js";
    "/json.js", SCRIPT, "web/json.js";
    "/list.js", SCRIPT, "web/list.js";
    "/messages.js", SCRIPT, "web/messages.js";
    "/presence.js", SCRIPT, "web/presence.js";
    "/publish.js", SCRIPT, "web/publish.js";
    "/rate.js", SCRIPT, "web/rate.js";
    "/shortcuts.js", SCRIPT, "web/shortcuts.js";
    "/subscriptions.js", SCRIPT, "web/subscriptions.js";
    "/words.js", SCRIPT, "web/words.js";
    "/jmqt.js", SCRIPT, "../jmqt-js/browser/jmqt.js";
};

/// Where the page is served: `--web-port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WebPort {
    /// Nowhere: `0`.
    None,
    /// On any free port: `any`.
    Any,
    /// On this one.
    Fixed(u16),
}

impl FromStr for WebPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("any", _) => Ok(Self::Any),
            (_, Ok(0)) => Ok(Self::None),
            (_, Ok(port)) => Ok(Self::Fixed(port)),
            (_, Err(_)) => Err("expected a port from 1 to 65535, `any` for a free one, 0 for no page".into()),
        }
    }
}

/// What `/config.json` tells the page: where the server's WebSockets are, if there are any. The page chooses one by the
/// address it was loaded from (`examples/web/address.js`).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageConfig {
    /// The plain WebSocket's port.
    pub(crate) websocket_port: Option<u16>,
    /// The TLS WebSocket's port.
    pub(crate) tls_websocket_port: Option<u16>,
    /// The address to connect to, with any ports: `--websocket-url`.
    pub(crate) websocket_url: Option<String>,
}

/// The bound port, before anything is served on it.
pub(crate) struct WebListener(TcpListener);

impl WebListener {
    /// Binds the address, whose port may be 0 for a free one.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Serves the page until [`WebServer::stop`].
    pub(crate) fn serve(self, config: &PageConfig) -> WebServer {
        if let Ok(address) = self.0.local_addr() {
            tracing::info!(target: "jmqt::web", "Listening on http {address}");
            tracing::info!(target: "jmqt::web", "Open {} in a browser", url(address));
        }
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let accept = accept(self.0, Arc::new(Pages::new(config)), tasks.clone(), stop.clone());
        tasks.spawn(accept);
        WebServer { stop, tasks }
    }
}

/// The page while it is served.
pub(crate) struct WebServer {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl WebServer {
    /// Accepts no more; done when the answers that are under way have been sent, or took too long.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Where a browser on this machine finds the page.
fn url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() || address.ip().is_loopback() {
        // Browsers allow more to `localhost` than to an address.
        format!("http://localhost:{}/", address.port())
    } else {
        format!("http://{address}/")
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>, tasks: TaskTracker, stop: CancellationToken) {
    let mut places = Places::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let (pages, stop, place) = (Arc::clone(&pages), stop.clone(), places.take());
                tasks.spawn(async move {
                    tokio::select! {
                        () = place.cancelled() => {}
                        () = converse(stream, remote, pages, stop) => {}
                    }
                });
            }
            Err(error) => {
                // At most one line for each second in which it goes on.
                tracing::warn!(target: "jmqt::web", %error, "a connection could not be accepted");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(BACKOFF) => {}
                }
            }
        }
    }
}

/// [`MAX_CONNECTIONS`] places, in the order in which they were taken.
#[derive(Default)]
struct Places(VecDeque<Weak<CancellationToken>>);

impl Places {
    /// A place, given back when it is dropped; its holder leaves when it is cancelled. If all are taken, that
    /// is the oldest.
    fn take(&mut self) -> Arc<CancellationToken> {
        if self.0.len() >= MAX_CONNECTIONS {
            self.0.retain(|place| place.strong_count() > 0);
        }
        if self.0.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.0.pop_front().and_then(|place| place.upgrade())
        {
            oldest.cancel();
        }
        let place = Arc::new(CancellationToken::new());
        self.0.push_back(Arc::downgrade(&place));
        place
    }
}

/// One connection, from its first request to its end.
async fn converse(stream: TcpStream, remote: SocketAddr, pages: Arc<Pages>, stop: CancellationToken) {
    let answer = service_fn(move |request| {
        let response = pages.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => last_answer(connection).await,
        () = tokio::time::sleep(CONNECTION_LIFETIME) => last_answer(connection).await,
    };
    if let Err(error) = ended {
        tracing::debug!(target: "jmqt::web", %remote, %error, "the connection failed");
    }
}

/// Lets the connection finish what it has begun, within [`LAST_ANSWER`].
async fn last_answer<S>(
    mut connection: std::pin::Pin<&mut hyper::server::conn::http1::Connection<TokioIo<TcpStream>, S>>,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
}

/// Something that can be asked for.
struct Page {
    path: &'static str,
    content_type: HeaderValue,
    etag: HeaderValue,
    content: Bytes,
}

impl Page {
    fn new(path: &'static str, content_type: &'static str, content: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let etag = format!("\"{:016x}\"", hasher.finish());
        Self {
            path,
            content_type: HeaderValue::from_static(content_type),
            etag: HeaderValue::try_from(etag).expect("quotes and digits are a header's value"),
            content,
        }
    }
}

/// Everything that can be asked for.
struct Pages(Vec<Page>);

impl Pages {
    fn new(config: &PageConfig) -> Self {
        let config = serde_json::to_vec(config).expect("numbers and a text have a form in JSON");
        let files =
            FILES.iter().map(|(path, kind, content)| Page::new(path, kind, Bytes::from_static(content)));
        Self(files.chain([Page::new("/config.json", JSON, config.into())]).collect())
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD work here.\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let Some(page) = self.0.iter().find(|page| page.path == request.uri().path()) else {
            return refusal(StatusCode::NOT_FOUND, "There is no such page. The one there is: /\n");
        };
        let known = request.headers().get_all(IF_NONE_MATCH).iter().any(|header| names(header, &page.etag));
        let mut response = if known {
            answer(StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            // hyper leaves out the content where the question was HEAD.
            let mut response = answer(StatusCode::OK, page.content.clone());
            response.headers_mut().insert(CONTENT_TYPE, page.content_type.clone());
            response
        };
        response.headers_mut().insert(ETAG, page.etag.clone());
        response
    }
}

/// Whether an `If-None-Match` has this tag, or any.
fn names(header: &HeaderValue, etag: &HeaderValue) -> bool {
    let tags = header.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    tags.map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag)).any(|tag| tag == b"*" || tag == etag.as_bytes())
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = answer(status, Bytes::from_static(text.as_bytes()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

/// An answer with what all of them have.
fn answer(status: StatusCode, content: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(content));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // May be kept, but is asked for again, with its tag: a newer server has a newer page.
        (CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_any_and_nothing_else() {
        assert_eq!("8000".parse(), Ok(WebPort::Fixed(8000)));
        assert_eq!("any".parse(), Ok(WebPort::Any));
        assert_eq!("0".parse(), Ok(WebPort::None));
        for wrong in ["", "65536", "-1", "ANY", "http", "8000 "] {
            assert!(wrong.parse::<WebPort>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_oldest_connection_makes_room_for_one_more() {
        let mut places = Places::default();
        let mut taken: Vec<_> = (0..MAX_CONNECTIONS).map(|_| places.take()).collect();
        taken.remove(7); // ended by itself
        let _in_its_place = places.take();
        assert!(taken.iter().all(|place| !place.is_cancelled()));
        let _one_more = places.take();
        assert!(taken[0].is_cancelled() && taken[1..].iter().all(|place| !place.is_cancelled()));
        for _ in 0..10 * MAX_CONNECTIONS {
            drop(places.take());
        }
        assert!(places.0.len() <= MAX_CONNECTIONS);
    }

    #[test]
    fn the_address_of_the_page_can_be_opened() {
        for (address, shown) in [
            ("127.0.0.1:8000", "http://localhost:8000/"),
            ("0.0.0.0:80", "http://localhost:80/"),
            ("[::]:1", "http://localhost:1/"),
            ("192.0.2.1:8000", "http://192.0.2.1:8000/"),
            ("[2001:db8::1]:8000", "http://[2001:db8::1]:8000/"),
        ] {
            assert_eq!(url(address.parse().unwrap()), shown);
        }
    }

    #[test]
    fn a_tag_is_found_among_others_weak_or_not() {
        let etag = HeaderValue::from_static("\"1f\"");
        for known in ["\"1f\"", "W/\"1f\"", "\"2\", \"1f\"", "\"2\" ,W/\"1f\"", "*"] {
            assert!(names(&HeaderValue::from_static(known), &etag), "{known}");
        }
        for unknown in ["", "\"1\"", "1f", "\"1f\"x"] {
            assert!(!names(&HeaderValue::from_static(unknown), &etag), "{unknown}");
        }
    }

    #[test]
    fn every_script_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../web");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        for entry in names.filter(|entry| entry.file_type().unwrap().is_file()) {
            let name = entry.file_name().into_string().unwrap();
            let served = FILES.iter().any(|(path, ..)| path[1..] == name);
            assert_eq!(served, !name.ends_with(".md"), "{name}");
        }
    }
}
