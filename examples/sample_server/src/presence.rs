//! Who comes and who goes, told to everybody on one channel.
//!
//! What happens within a quarter of a second is told in one message, of each client the last state only: a client that
//! connects again and again costs the others four pushes a second, not one or two for each of its connections.
//!
//! `{"online":"alice"}` or `{"offline":"alice"}`; several clients are a list, and both may be in one message:
//! `{"online":["bob","carol"],"offline":"alice"}`.
//!
//! A client that goes and comes back in the meantime is told as online once more, although that is no news to most: who
//! asked `$online` in between did not get its name.
//!
//! As QoS 0. Presence is about now: connected clients are told of changes, and a client that comes back asks who is there, not
//! who came and went in the meantime. Every client that was ever here is persistently subscribed to the channel, so QoS 1
//! would keep every coming and going for all those who never return, make those who do acknowledge each of them, and, once
//! MAX_PENDING_PER_CLIENT is reached, drop older messages that matter.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jmqt_server::{BoxError, ChannelName, ClientId, Publish, ServerHandle};
use serde::Serialize;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(250);
/// How often a client that has gone is looked for, which may be on another node of a cluster by now.
const LOOKS: u8 = 20;
/// A message names no more clients than this.
const MAX_NAMED: usize = 1_000;

#[derive(Clone)]
pub(crate) struct Presence {
    channel: ChannelName,
    changes: Arc<Mutex<Changes>>,
}

#[derive(Default)]
struct Changes {
    clients: BTreeMap<ClientId, State>,
    /// A task will tell them.
    is_gathering: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Online,
    /// Gone, and looked for this many times.
    Offline(u8),
}

impl Presence {
    pub(crate) fn new(channel: ChannelName) -> Self {
        Self { channel, changes: Arc::default() }
    }

    pub(crate) fn comes(&self, client: &ClientId, server: &ServerHandle) {
        self.change(client, State::Online, server);
    }

    pub(crate) fn goes(&self, client: &ClientId, server: &ServerHandle) {
        self.change(client, State::Offline(0), server);
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, client: &ClientId, state: State, server: &ServerHandle) {
        let mut changes = self.changes();
        changes.clients.insert(client.clone(), state);
        if !mem::replace(&mut changes.is_gathering, true) {
            // Ends by itself when there is nothing left to tell.
            tokio::spawn(self.clone().tell_all(server.clone()));
        }
    }

    async fn tell_all(self, server: ServerHandle) {
        loop {
            tokio::time::sleep(GATHER).await;
            let clients = {
                let mut changes = self.changes();
                if changes.clients.is_empty() {
                    changes.is_gathering = false;
                    return;
                }
                mem::take(&mut changes.clients)
            };
            if let Err(error) = self.tell(clients, &server).await {
                tracing::warn!(%error, "Cannot publish who is online");
            }
        }
    }

    async fn tell(&self, clients: BTreeMap<ClientId, State>, server: &ServerHandle) -> Result<(), BoxError> {
        let (mut online, mut offline) = (Vec::new(), Vec::new());
        for (client, state) in clients {
            match state {
                State::Online => online.push(client),
                // On another node: that node says so. Or its session is not quite over.
                State::Offline(looks) if server.is_connected(&client) => {
                    if looks < LOOKS {
                        self.changes().clients.entry(client).or_insert(State::Offline(looks + 1));
                    }
                }
                State::Offline(_) => offline.push(client),
            }
        }
        for (online, offline) in parts(&online, &offline) {
            let told = Told { online: Names(online), offline: Names(offline) };
            server.force_pub(Publish::json(self.channel.clone(), &told)?).await?;
        }
        Ok(())
    }
}

/// Pieces that each have `MAX_NAMED` names at most.
fn parts<'c>(
    online: &'c [ClientId],
    offline: &'c [ClientId],
) -> impl Iterator<Item = (&'c [ClientId], &'c [ClientId])> {
    let both = online.len() + offline.len();
    (0..both).step_by(MAX_NAMED).map(move |from| {
        let to = (from + MAX_NAMED).min(both);
        let middle = online.len().clamp(from, to);
        let gone = |at: usize| at - online.len().min(at);
        (&online[from.min(online.len())..middle.min(online.len())], &offline[gone(middle)..gone(to)])
    })
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Names::is_empty")]
    online: Names<'a>,
    #[serde(skip_serializing_if = "Names::is_empty")]
    offline: Names<'a>,
}

/// One name is a string, several are a list.
struct Names<'a>(&'a [ClientId]);

impl Names<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Names<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [one] => serializer.serialize_str(one.as_str()),
            several => serializer.collect_seq(several.iter().map(ClientId::as_str)),
        }
    }
}

#[cfg(test)]
mod tests {
    use jmqt_server::testing::TestServer;

    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::parse(name).unwrap()
    }

    fn told(server: &TestServer) -> Vec<String> {
        server.published().iter().map(|message| message.data.as_str().to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn simultaneous_changes_are_one_message_with_the_last_state_of_each_client() {
        let (server, presence) = (TestServer::new(), Presence::new(ChannelName::parse("update").unwrap()));
        let handle = server.handle();
        for _ in 0..50 {
            presence.goes(&client("flips"), handle);
            presence.comes(&client("flips"), handle);
        }
        presence.comes(&client("alice"), handle);
        presence.comes(&client("bob"), handle);
        presence.goes(&client("bob"), handle);
        assert_eq!(told(&server), [""; 0]);
        tokio::time::sleep(GATHER * 2).await;
        assert_eq!(told(&server), [r#"{"online":["alice","flips"],"offline":"bob"}"#]);
        presence.goes(&client("alice"), handle);
        tokio::time::sleep(GATHER * 2).await;
        assert_eq!(told(&server)[1..], [r#"{"offline":"alice"}"#]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_moved_to_another_node_is_not_reported_offline() {
        let (server, presence) = (TestServer::new(), Presence::new(ChannelName::parse("update").unwrap()));
        server.connect(&client("bob"));
        presence.goes(&client("bob"), server.handle());
        tokio::time::sleep(GATHER * 100).await;
        assert_eq!(told(&server), [""; 0]);
        assert!(!presence.changes().is_gathering);
    }

    #[test]
    fn thousands_of_names_are_several_messages() {
        let all: Vec<_> = (0..2_600).map(|number| client(&number.to_string())).collect();
        let (online, offline) = all.split_at(1_300);
        let sizes: Vec<_> = parts(online, offline).map(|(came, went)| (came.len(), went.len())).collect();
        assert_eq!(sizes, [(1_000, 0), (300, 700), (0, 600)]);
        let again: Vec<_> = parts(online, offline).flat_map(|(came, went)| [came, went].concat()).collect();
        assert_eq!(again, all);
        assert_eq!(parts(&[], &[]).count(), 0);
    }
}
