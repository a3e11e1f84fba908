//! The shared state of the clients of a load, and how each of them opens a session.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{Conn, Disconn, Packet, decode};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Random;
use crate::connection::Connection;
use crate::journal::Journal;

/// Where clients connect to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// Whether the client says itself where it comes from, as the balancer would.
    pub says_header: bool,
}

/// How much there is to do.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Publishers; each publishes to all channels in turn.
    pub publishers: u32,
    /// Persistent subscribers, each of all channels.
    pub subscribers: u32,
    /// As many publishers and subscribers again, which speak MQTT with QoS 1 and 2; the subscribers have persistent sessions. With
    /// any of them, every other JMQT subscriber subscribes to a filter.
    pub mqtt: u32,
    /// MQTT clients, publishers to the journal, that connect again and again with a will, and leave without or with DISCONNECT.
    pub wills: u32,
    /// Groups of [`MEMBERS`] MQTT clients with a shared subscription of persistent sessions.
    pub groups: u32,
    /// Channels, `c/0` and so on.
    pub channels: u32,
    /// How many publishes of one publisher may be unacknowledged.
    pub window: usize,
    /// How long a publisher waits between two messages.
    pub pace: Duration,
    /// Subscribers drop their connection after twice this at most, and connect again.
    pub churn: Option<Duration>,
    /// This many clients, `r0` and so on, connect twice again and again, and take over their own sessions.
    pub rivals: u32,
    /// What the clients choose by.
    pub seed: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            publishers: 3,
            subscribers: 3,
            mqtt: 0,
            wills: 0,
            groups: 0,
            channels: 4,
            window: 16,
            pace: Duration::from_millis(10),
            churn: None,
            rivals: 0,
            seed: 1,
        }
    }
}

/// The members of a group.
pub const MEMBERS: u32 = 3;

/// What clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Busy,
    /// Publishers publish what has not been acknowledged, nothing new, and leave.
    Finishing,
    /// Everybody leaves.
    Leaving,
}

/// What the clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) options: LoadOptions,
    pub(crate) targets: Vec<Target>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Which publisher each client is: another one in each load (protocol.md 2.23).
    pub(crate) publisher: String,
}

/// How long a client waits before it tries again.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(50);
/// How long it waits for the TCP connection, and for each answer before there is a session.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the end of a connection may take once the client has said that it leaves.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Often enough for TIMEOUT_SECONDS = 30.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(8);

/// A session; its end is noted when it is dropped.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    shared: Arc<Shared>,
    number: usize,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.journal.session_ended(self.number);
    }
}

impl Session {
    /// Says that the client leaves, and waits for the end; `false` if that does not come.
    pub(crate) async fn leave(mut self) -> bool {
        let _ = self.connection.send(&Packet::Disconn(Disconn::LEAVING)).await;
        timeout(LEAVE_TIMEOUT, async { while self.connection.next().await.is_some() {} }).await.is_ok()
    }
}

/// So far behind the slowest subscriber may be; then nothing new is published until it has caught up a little. Who is slower than
/// the others would otherwise have more and more to receive.
const MOST_BEHIND: usize = 2_000;

impl Shared {
    /// Whether publishers publish new messages.
    pub(crate) fn wants_messages(&self) -> bool {
        *self.phase.borrow() == Phase::Busy && self.journal.behind() < MOST_BEHIND
    }
}

/// Waits until it is time to leave.
pub(crate) async fn leaving(phase: &mut watch::Receiver<Phase>) {
    // Without a sender there is no load any more.
    let _ = phase.wait_for(|phase| *phase == Phase::Leaving).await;
}

impl Shared {
    /// A session at any target that accepts the client; tries until there is one.
    pub(crate) async fn connect(self: &Arc<Self>, client: &str, random: &mut Random) -> Session {
        loop {
            let target = *random.choose(&self.targets);
            match self.try_connect(client, target).await {
                Ok(session) => return session,
                Err(_) => tokio::time::sleep(RETRY_EVERY).await,
            }
        }
    }

    async fn try_connect(self: &Arc<Self>, client: &str, target: Target) -> io::Result<Session> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut connection = timeout(ANSWER_TIMEOUT, Connection::open(target)).await.map_err(late)??;
        connection.send_text(&format!(r#"{{"auth":{{"dt":"{client}"}}}}"#)).await?;
        timeout(ANSWER_TIMEOUT, connection.next())
            .await
            .map_err(late)?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let number = self.journal.conn_sent(client, connection.local);
        let mut session = Session { connection, shared: Arc::clone(self), number };
        let publisher = Some((&*self.publisher).into());
        let conn = Conn { token: "token".into(), client: client.into(), window: Some(128), publisher };
        session.connection.send(&Packet::Conn(conn)).await?;
        let answer = timeout(ANSWER_TIMEOUT, session.connection.next()).await.map_err(late)?;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        match decode(&answer) {
            Ok(Packet::ConnAck(ack)) if ack.status.is_ok() => {
                if !ack.remembers_publishes {
                    self.journal.problem(format!("{client}'s publishes are not remembered: {answer}"));
                }
                self.journal.session_opened(number);
                Ok(session)
            }
            Ok(Packet::ConnAck(_)) => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => {
                self.journal.problem(format!("{client} was answered {answer} to its conn"));
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}
