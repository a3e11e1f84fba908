//! A replacement for a server in tests: it records the calls of its handle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jmqt_core::{ChannelName, ClientId, Persistence, Retain};

use super::error::HandleError;
use crate::connection::ConnectionInfo;
use crate::message::Message;

/// The data of a [`TestServer`](crate::testing::TestServer)'s handle.
#[derive(Debug, Default)]
pub(crate) struct Detached(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    connected: BTreeMap<ClientId, ConnectionInfo>,
    subscriptions: BTreeMap<ClientId, BTreeMap<ChannelName, Persistence>>,
    published: Vec<Message>,
    retained: BTreeSet<ChannelName>,
    disconnected: Vec<ClientId>,
}

impl Detached {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connect(&self, client: &ClientId, connection: ConnectionInfo) {
        let mut state = self.lock();
        state.connected.insert(client.clone(), connection);
        let own = ChannelName::of_client(client);
        state.subscriptions.entry(client.clone()).or_default().entry(own).or_insert(Persistence::Temporary);
    }

    /// All published messages, in order.
    pub(crate) fn published(&self) -> Vec<Message> {
        self.lock().published.clone()
    }

    /// The clients that were disconnected, in order.
    pub(crate) fn disconnected(&self) -> Vec<ClientId> {
        self.lock().disconnected.clone()
    }

    pub(crate) fn subscriptions(&self, client: &ClientId) -> Vec<(ChannelName, Persistence)> {
        let state = self.lock();
        let of = state.subscriptions.get(client).into_iter().flatten();
        of.map(|(channel, persistence)| (channel.clone(), *persistence)).collect()
    }

    pub(crate) fn subscribers(&self, channel: &ChannelName) -> Vec<(ClientId, Persistence)> {
        let state = self.lock();
        let connected =
            state.subscriptions.iter().filter(|(client, _)| state.connected.contains_key(*client));
        connected.filter_map(|(client, of)| Some((client.clone(), *of.get(channel)?))).collect()
    }

    pub(crate) fn subscribe(
        &self,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HandleError> {
        let mut state = self.lock();
        if persistence == Persistence::Temporary && !state.connected.contains_key(client) {
            return Err(HandleError::NotConnected);
        }
        state.subscriptions.entry(client.clone()).or_default().insert(channel.clone(), persistence);
        Ok(())
    }

    pub(crate) fn unsubscribe(&self, client: &ClientId, channel: &ChannelName) -> bool {
        self.lock().subscriptions.get_mut(client).is_some_and(|of| of.remove(channel).is_some())
    }

    pub(crate) fn publish(&self, message: Message) {
        let mut state = self.lock();
        if message.retain == Retain::Yes {
            state.retained.insert(message.channel.clone());
        }
        state.published.push(message);
    }

    pub(crate) fn is_connected(&self, client: &ClientId) -> bool {
        self.lock().connected.contains_key(client)
    }

    pub(crate) fn connections(&self) -> Vec<(ClientId, ConnectionInfo)> {
        self.lock().connected.iter().map(|(client, info)| (client.clone(), *info)).collect()
    }

    pub(crate) fn disconnect(&self, client: &ClientId) -> bool {
        let mut state = self.lock();
        if state.connected.remove(client).is_none() {
            return false;
        }
        if let Some(of) = state.subscriptions.get_mut(client) {
            of.retain(|_, persistence| *persistence == Persistence::Persistent);
        }
        state.disconnected.push(client.clone());
        true
    }

    pub(crate) fn clear_retained(&self, channel: &ChannelName) -> bool {
        self.lock().retained.remove(channel)
    }
}
