//! A proxy that can be cut: it forwards connections to one address until then. It can also keep answers back.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How answers are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    All,
    /// All, until a request has these bytes.
    Until(&'static [u8]),
    None,
}

type Answers = Arc<watch::Sender<Mode>>;

/// Listens on 127.0.0.1 and passes on what comes.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
    answers: Answers,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A whole wire to this address.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, state) = watch::channel(true);
        let answers = Arc::new(watch::Sender::new(Mode::All));
        let task = tokio::spawn(serve(listener, target, state, Arc::clone(&answers)));
        Self { address, whole: Arc::new(whole), answers, task }
    }

    /// Forwards the next request with these bytes, and from then on no answer to anything, until
    /// [`answer`](Self::answer).
    pub fn keep_answers_after(&self, request: &'static [u8]) {
        self.answers.send_replace(Mode::Until(request));
    }

    /// Waits for that request.
    pub async fn keeps_answers(&self) {
        // The sender is here.
        let _ = self.answers.subscribe().wait_for(|mode| *mode == Mode::None).await;
    }

    /// Forwards answers again, first those that were kept back.
    pub fn answer(&self) {
        self.answers.send_replace(Mode::All);
    }

    /// Ends all connections, and every new one, until [`repair`](Self::repair).
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub fn repair(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, state: watch::Receiver<bool>, answers: Answers) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((incoming, _)) = listener.accept().await else { continue };
        if !*state.borrow() {
            continue;
        }
        let (mut state, answers) = (state.clone(), Arc::clone(&answers));
        connections.spawn(async move {
            tokio::select! {
                () = forward(incoming, target, &answers) => {}
                _ = state.wait_for(|whole| !whole) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(incoming: TcpStream, target: SocketAddr, answers: &Answers) {
    let Ok(outgoing) = TcpStream::connect(target).await else { return };
    let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
    let (from_client, to_client) = incoming.into_split();
    let (from_server, to_server) = outgoing.into_split();
    let request = |bytes: &[u8]| {
        let is_it = |mode: &Mode| matches!(mode, Mode::Until(wanted) if contains(bytes, wanted));
        if is_it(&answers.borrow()) {
            answers.send_if_modified(|mode| {
                let is_it = is_it(mode);
                if is_it {
                    *mode = Mode::None;
                }
                is_it
            });
        }
    };
    // Either side's end is the end.
    tokio::select! {
        () = copy(from_client, to_server, request, None) => {}
        () = copy(from_server, to_client, |_| {}, Some(answers)) => {}
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Copies until an end or an error. With a mode, waits while nothing may be forwarded.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    seen: impl Fn(&[u8]),
    mode: Option<&Answers>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        seen(&buffer[..length]);
        if let Some(mode) = mode {
            let _ = mode.subscribe().wait_for(|mode| *mode != Mode::None).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
