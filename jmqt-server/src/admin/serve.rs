//! HTTP/1.1 with limits: connections, the time and the size of headers, the lifetime of a connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Access;
use super::answer::{Answer, Refusal};
use super::keys::Scope;
use super::{Operator, api, health, metrics};
use crate::log_limit::log_limited;

/// Connections at once. For one more than this the oldest is closed, so that clients that hold theirs keep nobody away.
const MOST_CONNECTIONS: usize = 64;
/// How long the headers of a request may take, and how long a connection may be idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most header lines of a request, and the most bytes of its line and headers.
const MOST_HEADERS: usize = 64;
const MOST_HEADER_BYTES: usize = 16 * 1024;
/// After this a connection ends with the answer that is under way.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long that answer may take then.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// The pause after `accept` failed, usually because the process is out of file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections until it is told to stop; ends when their answers have been sent, or took too long.
pub(super) async fn accept(
    socket: std::net::TcpListener,
    operator: Arc<Operator>,
    access: Access,
    stop: CancellationToken,
) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(target: "jmqt::admin", %error, "the listener for operators has failed");
        }
    };
    let (access, tasks, mut places) = (Arc::new(access), TaskTracker::new(), Places::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let (operator, access, stop) = (Arc::clone(&operator), Arc::clone(&access), stop.clone());
                let place = places.take();
                tasks.spawn(async move {
                    tokio::select! {
                        () = place.cancelled() => {}
                        () = serve_operator(stream, remote, operator, access, stop) => {}
                    }
                });
            }
            Err(error) => {
                log_limited!(warn, target: "jmqt::admin", %error, "a connection of an operator could not be accepted");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// [`MOST_CONNECTIONS`] places, in the order in which they were taken.
#[derive(Default)]
struct Places(VecDeque<Weak<CancellationToken>>);

impl Places {
    /// A place, returned when it is dropped. Its holder leaves when it is cancelled. If all are taken, that is the oldest.
    fn take(&mut self) -> Arc<CancellationToken> {
        if self.0.len() >= MOST_CONNECTIONS {
            self.0.retain(|place| place.strong_count() > 0);
        }
        if self.0.len() >= MOST_CONNECTIONS
            && let Some(oldest) = self.0.pop_front().and_then(|place| place.upgrade())
        {
            oldest.cancel();
        }
        let place = Arc::new(CancellationToken::new());
        self.0.push_back(Arc::downgrade(&place));
        place
    }
}

async fn serve_operator(
    stream: TcpStream,
    remote: SocketAddr,
    operator: Arc<Operator>,
    access: Arc<Access>,
    stop: CancellationToken,
) {
    let service = service_fn(move |request| {
        let (operator, access) = (Arc::clone(&operator), Arc::clone(&access));
        async move { Ok::<_, Infallible>(answer(&operator, &access, remote, request).await) }
    });
    if let Err(error) = converse(stream, service, stop).await {
        tracing::debug!(target: "jmqt::admin", %remote, %error, "the connection of an operator failed");
    }
}

/// One connection, from its first request to its end.
async fn converse<T, S>(stream: T, service: S, stop: CancellationToken) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => last_answer(connection).await,
        () = tokio::time::sleep(LIFETIME) => last_answer(connection).await,
    }
}

/// Lets the connection finish what it has begun, within [`LAST_ANSWER`].
async fn last_answer<T, S>(mut connection: Pin<&mut http1::Connection<TokioIo<T>, S>>) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
}

async fn answer(
    operator: &Arc<Operator>,
    access: &Access,
    remote: SocketAddr,
    request: Request<Incoming>,
) -> Answer {
    let answered = respond(operator, access, remote, request).await;
    answered.unwrap_or_else(Refusal::into_answer)
}

async fn respond(
    operator: &Arc<Operator>,
    access: &Access,
    remote: SocketAddr,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let (headers, path) = (request.headers(), request.uri().path());
    let only_get = || match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::method("GET, HEAD")),
    };
    // Whoever checks the health may use any name, and learns nothing but this.
    match path {
        "/healthz" => return only_get().map(|()| health::alive()),
        "/readyz" => {
            only_get()?;
            return Ok(health::ready(operator).await);
        }
        _ => {}
    }
    access.check_host(request.uri(), headers)?;
    match path {
        "/metrics" => {
            only_get()?;
            if access.has_keys() {
                access.holder(headers, remote, Scope::Metrics)?;
            }
            Ok(metrics::answer(operator, headers).await)
        }
        _ if path.starts_with(api::PREFIX) => {
            let needed = operator.api.scope(request.method(), path);
            // Without a key nobody learns which paths there are.
            let holder = match &needed {
                Ok(None) => None,
                Ok(Some(scope)) => Some(access.holder(headers, remote, *scope)?),
                Err(_) => Some(access.holder(headers, remote, Scope::Read)?),
            };
            needed?;
            operator.api.answer(operator, request, holder).await
        }
        _ => {
            let expected = "/metrics, /healthz, /readyz, or a path below /api/v1/";
            Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path", "path", expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    /// A connection to a service that answers after a time.
    fn connect(takes: Duration, stop: &CancellationToken) -> DuplexStream {
        let (client, server) = duplex(1 << 20);
        let service = service_fn(move |_: Request<Incoming>| async move {
            tokio::time::sleep(takes).await;
            Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"done"))))
        });
        tokio::spawn(converse(server, service, stop.clone()));
        client
    }

    /// What is read until the end, and after how long the end came.
    async fn rest(mut client: DuplexStream) -> (String, Duration) {
        let began = Instant::now();
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        (String::from_utf8(read).unwrap(), began.elapsed())
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn headers_that_do_not_end_in_time_end_the_connection() {
        let mut client = connect(Duration::ZERO, &CancellationToken::new());
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        let (read, took) = rest(client).await;
        assert!(!read.contains("done") && took.as_secs() == HEADER_TIMEOUT.as_secs(), "{read} {took:?}");
    }

    #[tokio::test(start_paused = true)] // slowloris: a header line every few seconds
    async fn headers_that_trickle_in_do_not_prolong_the_time() {
        let mut client = connect(Duration::ZERO, &CancellationToken::new());
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let began = Instant::now();
        while client.write_all(b"X: y\r\n").await.is_ok() && began.elapsed() < LIFETIME {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert!(began.elapsed() < HEADER_TIMEOUT + Duration::from_secs(6), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends() {
        let mut client = connect(Duration::ZERO, &CancellationToken::new());
        client.write_all(GET).await.unwrap();
        let (read, took) = rest(client).await;
        assert!(read.ends_with("done") && took.as_secs() == HEADER_TIMEOUT.as_secs(), "{read} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_longer_than_a_connection_lives_is_given_up() {
        let client = connect(Duration::from_secs(3600), &CancellationToken::new());
        let (mut reading, mut writing) = tokio::io::split(client);
        writing.write_all(GET).await.unwrap();
        let began = Instant::now();
        let mut read = Vec::new();
        reading.read_to_end(&mut read).await.unwrap();
        assert_eq!((read.len(), began.elapsed().as_secs()), (0, (LIFETIME + LAST_ANSWER).as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_progress_is_sent_when_the_server_stops() {
        let stop = CancellationToken::new();
        let mut client = connect(Duration::from_secs(2), &stop);
        client.write_all(GET).await.unwrap();
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        let (read, took) = rest(client).await;
        assert!(read.ends_with("done") && took < Duration::from_secs(2), "{read} {took:?}");
    }

    #[tokio::test]
    async fn large_and_many_headers_are_refused() {
        for headers in
            ["X: y\r\n".repeat(MOST_HEADERS + 1), format!("X: {}\r\n", "y".repeat(MOST_HEADER_BYTES))]
        {
            let mut client = connect(Duration::ZERO, &CancellationToken::new());
            client.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).await.unwrap();
            let (read, _) = rest(client).await;
            assert!(read.starts_with("HTTP/1.1 431 "), "{read}");
        }
    }

    #[test]
    fn the_oldest_connection_makes_room_for_one_more() {
        let mut places = Places::default();
        let mut taken: Vec<_> = (0..MOST_CONNECTIONS).map(|_| places.take()).collect();
        taken.remove(7); // ended by itself
        let _in_its_place = places.take();
        assert!(taken.iter().all(|place| !place.is_cancelled()));
        let _one_more = places.take();
        assert!(taken[0].is_cancelled() && taken[1..].iter().all(|place| !place.is_cancelled()));
        for _ in 0..10 * MOST_CONNECTIONS {
            drop(places.take());
        }
        assert!(places.0.len() <= MOST_CONNECTIONS);
    }
}
