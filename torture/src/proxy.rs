//! A proxy that can be cut: it forwards connections to one address until then.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Listens on 127.0.0.1 and passes on what comes.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A whole wire to this address.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, state) = watch::channel(true);
        let task = tokio::spawn(serve(listener, target, state));
        Self { address, whole: Arc::new(whole), task }
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

async fn serve(listener: TcpListener, target: SocketAddr, state: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((incoming, _)) = listener.accept().await else { continue };
        if !*state.borrow() {
            continue;
        }
        let mut state = state.clone();
        connections.spawn(async move {
            tokio::select! {
                () = forward(incoming, target) => {}
                _ = state.wait_for(|whole| !whole) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(mut incoming: TcpStream, target: SocketAddr) {
    let Ok(mut outgoing) = TcpStream::connect(target).await else { return };
    let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
    // Either side's end is the end.
    let _ = tokio::io::copy_bidirectional(&mut incoming, &mut outgoing).await;
}
