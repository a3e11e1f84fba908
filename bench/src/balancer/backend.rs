//! The backend behind the balancers: one port returns all bytes, the other discards them.
//!
//! One thread, one epoll, like the clients: the same for all contestants.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::event::epoll::EventFlags;

use super::watch::Watch;

const BUFFER: usize = 256 * 1024;
/// Numbers of the listeners; connections come after them.
const ECHO: usize = 0;
const SINK: usize = 1;

/// Where it listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) echo: SocketAddr,
    pub(crate) sink: SocketAddr,
}

struct Peer {
    stream: TcpStream,
    is_echoed: bool,
}

/// Serves until it is killed.
pub(crate) fn serve(ports: Ports) -> Result<()> {
    crate::prepare_process()?;
    let listeners = [listen(ports.echo)?, listen(ports.sink)?];
    let mut watch = Watch::new()?;
    for (number, listener) in listeners.iter().enumerate() {
        watch.add(listener, number, EventFlags::IN)?;
    }
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let ready: Vec<_> = watch.wait(Duration::from_secs(1))?.collect();
        for number in ready {
            if number == ECHO || number == SINK {
                // All that are there: in a burst the backend is not to be what the balancers wait for.
                while let Ok((stream, _)) = listeners[number].accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let place = free.pop().unwrap_or_else(|| {
                        peers.push(None);
                        peers.len() - 1
                    });
                    watch.add(&stream, place + 2, EventFlags::IN)?;
                    peers[place] = Some(Peer { stream, is_echoed: number == ECHO });
                }
                continue;
            }
            let place = number - 2;
            if peers[place].as_mut().is_some_and(|peer| !peer.serve(&mut buffer)) {
                peers[place] = None;
                free.push(place);
            }
        }
    }
}

impl Peer {
    /// Whether it is still there.
    fn serve(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => false,
            Ok(count) if self.is_echoed => self.answer(&buffer[..count]).is_ok(),
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// A client's window is far smaller than what the kernel takes at once.
    fn answer(&mut self, bytes: &[u8]) -> Result<()> {
        if self.stream.write(bytes)? != bytes.len() {
            bail!("the client does not read");
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
