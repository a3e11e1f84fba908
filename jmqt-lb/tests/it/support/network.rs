//! Both ends of a forwarded connection, with blocking reads that end at the deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// A client's end.
pub type Client = TcpStream;

/// A backend: connections to it are complete once the kernel has them, and taken by [`Backend::accept`].
/// Dropped, it refuses.
pub struct Backend {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Backend {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    pub fn at(address: SocketAddr) -> Self {
        Self::with_backlog(address, 2048)
    }

    /// With room for so few connections that others get no answer until one is accepted.
    pub fn with_backlog(address: SocketAddr, backlog: i32) -> Self {
        let socket = bound(address);
        socket.listen(backlog).unwrap();
        let listener = TcpListener::from(socket);
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// An address that nobody listens on, and that nobody else is given: a backend may be started on it later.
    pub fn nowhere() -> SocketAddr {
        static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
        let socket = bound("127.0.0.1:0".parse().unwrap());
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        HELD.lock().unwrap().push(socket);
        address
    }

    /// Takes the next connection.
    pub fn accept(&self) -> TcpStream {
        until(|| self.try_accept())
    }

    pub fn try_accept(&self) -> Option<TcpStream> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.set_write_timeout(Some(DEADLINE)).unwrap();
                Some(stream)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    // The port may linger for a moment after one who had it before.
    until(|| socket.bind(&address.into()).is_ok().then_some(()));
    socket
}

/// Connects, from this address if one is given.
pub fn connect(from: Option<IpAddr>, to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    if let Some(address) = from {
        socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    }
    socket.connect(&to.into()).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client
}

/// Waits for the next connection to any of these; says to which.
pub fn next_of(backends: &[&Backend]) -> (usize, TcpStream) {
    until(|| {
        let mut tries = backends.iter().map(|backend| backend.try_accept()).enumerate();
        tries.find_map(|(index, stream)| Some((index, stream?)))
    })
}

/// Asks until there is an answer.
pub fn until<T>(mut answer: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "it does not happen");
        sleep(Duration::from_millis(1));
    }
}

pub fn write(mut to: &TcpStream, bytes: &[u8]) {
    to.write_all(bytes).unwrap();
}

/// Reads exactly as many bytes.
pub fn read(mut from: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends something each way, and looks whether it arrives.
pub fn exchange(client: &TcpStream, backend: &TcpStream) {
    try_exchange(client, backend).unwrap();
}

/// The same, on connections that may have been closed.
pub fn try_exchange(mut client: &TcpStream, mut backend: &TcpStream) -> std::io::Result<()> {
    let (mut there, mut back) = ([0; 5], [0; 8]);
    client.write_all(b"there")?;
    backend.read_exact(&mut there)?;
    backend.write_all(b"and back")?;
    client.read_exact(&mut back)?;
    assert_eq!((&there, &back), (b"there", b"and back"));
    Ok(())
}

/// Whether the other side closes without another byte.
pub fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
