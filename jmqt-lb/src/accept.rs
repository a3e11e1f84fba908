//! Listeners, and the thread that accepts from them.
//!
//! All listeners have one thread with an epoll of its own. It accepts every waiting client and gives it to a
//! forwarding thread, which finds it a backend; so a burst is taken in as fast as the system hands it out.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::warn;

use crate::client::Client;
use crate::mapping::Mapping;
use crate::shared::Shared;
use crate::worker;

/// Connections that may wait in the kernel, which has a limit of its own (`net.core.somaxconn`).
const BACKLOG: i32 = 65_535;
/// How much unsent data the kernel accepts for a client. By default it accepts some megabytes, and then nothing until a
/// third of that is sent: a slow client would look stopped to a server that watches whether its clients read.
const UNSENT_BYTES: u32 = 128 * 1024;
/// Clients that are accepted from one listener before the others get their turn.
const AT_A_TIME: usize = 256;
/// The pause after an error that would occur again at once, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Events taken from the system at a time.
const EVENTS: usize = 64;
/// The other tokens belong to listeners.
const WAKER: Token = Token(usize::MAX);

/// Binds and listens.
///
/// # Errors
/// The address is in use, is not an address of this machine, or is not permitted.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?; // connections of an earlier process may linger
    // What is accepted has it from here: a system call for all, and not one for each.
    socket.set_tcp_nodelay(true)?;
    limit_unsent(&socket);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Without this limit, which some systems lack, a server learns later that a client reads.
fn limit_unsent(socket: &Socket) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    drop(socket.set_tcp_notsent_lowat(UNSENT_BYTES));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, UNSENT_BYTES);
}

/// The thread that accepts. Dropping it ends it.
pub(crate) struct Acceptor {
    orders: Option<mpsc::Sender<Order>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Listen(std::net::TcpListener, Arc<Mapping>),
    /// Connections that the kernel has completed are still accepted, because closing the listener would reset them.
    Close(Arc<Mapping>, oneshot::Sender<()>),
}

impl Acceptor {
    /// Starts the thread. `poll` is the one that `waker` was made for, which the gates of `shared` wake when there
    /// is room again.
    ///
    /// # Errors
    /// The system is out of threads.
    pub(crate) fn start(poll: Poll, waker: Arc<Waker>, shared: &Arc<Shared>) -> io::Result<Self> {
        let (sender, orders) = mpsc::channel();
        let accepting = Accepting {
            poll,
            orders,
            shared: Arc::downgrade(shared),
            runtime: Handle::current(),
            listeners: Slab::new(),
        };
        let thread = std::thread::Builder::new().name("accept".to_owned()).spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| accepting.run()));
            // A balancer that accepts nothing would look healthy from outside.
            if !matches!(outcome, Ok(Ok(()))) {
                eprintln!("jmqt-lb: the accepting thread has failed: {outcome:?}");
                std::process::abort();
            }
        })?;
        Ok(Self { orders: Some(sender), waker, thread: Some(thread) })
    }

    /// What the thread is woken by, and the poll that it is to wait on.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub(crate) fn prepare() -> io::Result<(Poll, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((poll, Arc::new(waker)))
    }

    /// Accepts clients of this mapping from now on.
    pub(crate) fn listen(&self, listener: std::net::TcpListener, mapping: &Arc<Mapping>) {
        self.order(Order::Listen(listener, Arc::clone(mapping)));
    }

    /// Closes the listener of this mapping; the answer comes when that is done.
    pub(crate) fn close(&self, mapping: &Arc<Mapping>) -> oneshot::Receiver<()> {
        let (done, closed) = oneshot::channel();
        self.order(Order::Close(Arc::clone(mapping), done));
        closed
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Both fail only if the thread has ended, and with it the process.
            let _ = orders.send(order);
            let _ = self.waker.wake();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread works on.
struct Accepting {
    poll: Poll,
    orders: mpsc::Receiver<Order>,
    shared: Weak<Shared>,
    runtime: Handle,
    listeners: Slab<Listener>,
}

struct Listener {
    socket: TcpListener,
    mapping: Arc<Mapping>,
    /// The system has announced clients, and has not said since that there are no more.
    is_ready: bool,
    /// When to try again after an error.
    failed_until: Option<Instant>,
}

impl Accepting {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, self.time_to_wait()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                asked => asked?,
            }
            let Some(shared) = self.shared.upgrade() else { return Ok(()) };
            for event in &events {
                if let Some(listener) = self.listeners.get_mut(event.token().0) {
                    listener.is_ready = true;
                }
            }
            if self.take_orders(&shared).is_err() {
                return Ok(());
            }
            for (_, listener) in &mut self.listeners {
                listener.accept(AT_A_TIME, &shared, &self.runtime);
            }
        }
    }

    /// `None` for as long as nothing happens.
    fn time_to_wait(&self) -> Option<Duration> {
        let shared = self.shared.upgrade()?;
        let waiting =
            self.listeners.iter().filter(|(_, listener)| listener.is_ready && !listener.is_full(&shared));
        let now = Instant::now();
        waiting.map(|(_, listener)| listener.failed_until.map_or(Duration::ZERO, |until| until - now)).min()
    }

    /// # Errors
    /// There will be no more orders: the balancer is stopping.
    fn take_orders(&mut self, shared: &Shared) -> Result<(), mpsc::TryRecvError> {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Listen(listener, mapping)) => self.listen(listener, mapping),
                Ok(Order::Close(mapping, done)) => {
                    self.listeners.retain(|_, listener| {
                        let is_it = Arc::ptr_eq(&listener.mapping, &mapping);
                        if is_it {
                            listener.is_ready = true;
                            listener.failed_until = None;
                            listener.accept(BACKLOG as usize, shared, &self.runtime);
                        }
                        !is_it
                    });
                    let _ = done.send(()); // the caller may be gone
                }
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn listen(&mut self, listener: std::net::TcpListener, mapping: Arc<Mapping>) {
        let mut socket = TcpListener::from_std(listener);
        let slot = self.listeners.vacant_entry();
        match self.poll.registry().register(&mut socket, Token(slot.key()), Interest::READABLE) {
            Ok(()) => {
                slot.insert(Listener { socket, mapping, is_ready: true, failed_until: None });
            }
            Err(error) => warn!(mapping = %mapping.name, %error, "Cannot listen"),
        }
    }
}

impl Listener {
    /// At the limit of connections nothing is accepted: clients wait in the kernel for one that ends.
    fn is_full(&self, shared: &Shared) -> bool {
        shared.gate.is_full() || self.mapping.gate.is_full()
    }

    /// Accepts up to `count` of the clients that wait.
    fn accept(&mut self, count: usize, shared: &Shared, runtime: &Handle) {
        if !self.is_ready || self.failed_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        for _ in 0..count {
            if self.is_full(shared) {
                return;
            }
            match self.socket.accept() {
                Ok((stream, client)) => {
                    self.failed_until = None;
                    hand_over(stream, client, &self.mapping, shared, runtime);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    return;
                }
                // Of that one client only.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    if self.failed_until.is_none() {
                        warn!(mapping = %self.mapping.name, %error, "Cannot accept; trying again");
                    }
                    self.failed_until = Some(Instant::now() + PAUSE);
                    return;
                }
            }
        }
    }
}

/// Gives the client to a forwarding thread, which finds a backend for it.
fn hand_over(socket: TcpStream, peer: SocketAddr, mapping: &Arc<Mapping>, shared: &Shared, runtime: &Handle) {
    mapping.counters.accepted.fetch_add(1, Ordering::Relaxed);
    let client = Client {
        peer,
        mapping: Arc::clone(mapping),
        config: mapping.config(),
        buffer_size: shared.buffer_size.load(Ordering::Relaxed),
        tried: Vec::new(),
        _places: [shared.gate.enter(), mapping.gate.enter()],
    };
    if !mapping.set.is_empty() {
        return worker::forward(&shared.workers.ways, client, socket);
    }
    let ways = Arc::clone(&shared.workers.ways);
    runtime.spawn(async move {
        client.wait_for_backends().await;
        worker::forward(&ways, client, socket);
    });
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_client_gets_the_options_of_its_listener() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        };
        assert!(accepted.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket2::SockRef::from(&accepted).tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }
}
