//! Which subscriptions there are, which stream each has, and what the server has said of them.

use std::collections::HashMap;
use std::sync::Arc;

use jmqt_mqtt::{
    Codes, Filter, FilterBuf, NameBuf, Packet, PacketId, PacketType, Place, Properties, Property,
    PropertyBuf, Qos, ReasonCode, Sender, Subscribe, SubscribeOptions, SubscriptionId, Unsubscribe,
};
use tokio::sync::oneshot;

use super::outbound::{Outbound, Phase};
use super::{Error, Information, Message};
use crate::inbox::Inbox;

type Done<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Debug)]
struct Route {
    inbox: Arc<Inbox<Message>>,
    /// The stream is the common one, which outlives the subscription.
    is_detached: bool,
    options: SubscribeOptions,
    id: Option<SubscriptionId>,
    is_confirmed: bool,
    done: Option<Done<Qos>>,
}

impl Route {
    fn end(&self) {
        if !self.is_detached {
            self.inbox.end();
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: HashMap<Box<str>, Route>,
    by_id: HashMap<SubscriptionId, Box<str>>,
    last_id: u32,
    /// SUBSCRIBEs and UNSUBSCRIBEs under way on this connection.
    asked: HashMap<PacketId, Box<str>>,
    ending: HashMap<PacketId, Ending>,
    /// UNSUBSCRIBEs for the next connection, if the server has the session then.
    unsaid: Vec<Ending>,
}

/// A filter that is unsubscribed from, and who waits for it.
type Ending = (Box<str>, Option<Done<()>>);

impl Routes {
    /// Adds a subscription, and asks for it if there is a connection. An earlier one with this filter ends.
    pub(crate) fn subscribe(
        &mut self,
        filter: &str,
        (options, inbox): (SubscribeOptions, Arc<Inbox<Message>>),
        (outbound, information): (&mut Outbound, Option<&Information>),
    ) -> Result<oneshot::Receiver<Result<Qos, Error>>, Error> {
        let (done, answered) = oneshot::channel();
        self.last_id = self.last_id % 0x0FFF_FFFF + 1;
        let id = SubscriptionId::new(self.last_id);
        let route = Route { inbox, is_detached: false, options, id, is_confirmed: false, done: Some(done) };
        if let Some(old) = self.routes.insert(filter.into(), route) {
            old.end();
            old.id.map(|id| self.by_id.remove(&id));
        }
        id.map(|id| self.by_id.insert(id, filter.into()));
        if matches!(outbound.phase(), Phase::Online | Phase::Resuming)
            && let Some(information) = information
        {
            self.ask(filter, outbound, information).inspect_err(|_| drop(self.remove(filter)))?;
        }
        Ok(answered)
    }

    fn ask(&mut self, filter: &str, outbound: &mut Outbound, information: &Information) -> Result<(), Error> {
        let Some(route) = self.routes.get(filter) else { return Ok(()) };
        let (mut filters, mut properties) = (FilterBuf::new(), PropertyBuf::new());
        filters.push(filter, route.options).map_err(Error::Encode)?;
        if information.version.has_properties()
            && information.subscription_ids_available
            && let Some(id) = route.id
        {
            properties.push(Property::SubscriptionIdentifier(id)).map_err(Error::Encode)?;
        }
        let place = Place::Packet(PacketType::Subscribe);
        let properties =
            properties.for_place(place, Sender::Client).map_err(|error| Error::Encode(error.into()))?;
        let id = outbound.new_id()?;
        let packet = Packet::Subscribe(Subscribe { id, properties, filters: filters.as_filters() });
        outbound.send(&packet).map_err(Error::Encode).inspect_err(|_| outbound.free_id(id))?;
        self.asked.insert(id, filter.into());
        Ok(())
    }

    /// Ends a subscription, and says so now or on the next connection.
    pub(crate) fn unsubscribe(
        &mut self,
        filter: &str,
        outbound: &mut Outbound,
        done: Option<Done<()>>,
    ) -> Result<(), Error> {
        if let Some(route) = self.remove(filter) {
            route.end();
        }
        if matches!(outbound.phase(), Phase::Online | Phase::Resuming) {
            return self.ask_to_end(filter, outbound, done);
        }
        if done.is_some() || !self.unsaid.iter().any(|(known, _)| **known == *filter) {
            // Of those whom nobody waits for any more the filter alone counts.
            self.unsaid.retain(|(known, done)| {
                **known != *filter || done.as_ref().is_some_and(|done| !done.is_closed())
            });
            self.unsaid.push((filter.into(), done));
        }
        Ok(())
    }

    fn ask_to_end(
        &mut self,
        filter: &str,
        outbound: &mut Outbound,
        done: Option<Done<()>>,
    ) -> Result<(), Error> {
        let mut names = NameBuf::new();
        names.push(filter).map_err(Error::Encode)?;
        let id = outbound.new_id()?;
        let packet =
            Packet::Unsubscribe(Unsubscribe { id, properties: Properties::EMPTY, filters: names.as_names() });
        outbound.send(&packet).map_err(Error::Encode).inspect_err(|_| outbound.free_id(id))?;
        self.ending.insert(id, (filter.into(), done));
        Ok(())
    }

    fn remove(&mut self, filter: &str) -> Option<Route> {
        let route = self.routes.remove(filter)?;
        route.id.map(|id| self.by_id.remove(&id));
        Some(route)
    }

    /// Whether this stream is the one of the filter.
    pub(crate) fn has(&self, filter: &str, inbox: &Arc<Inbox<Message>>) -> bool {
        self.routes.get(filter).is_some_and(|route| Arc::ptr_eq(&route.inbox, inbox))
    }

    /// The messages of a subscription go there from now on.
    pub(crate) fn lead_to(&mut self, filter: &str, inbox: Arc<Inbox<Message>>) {
        if let Some(route) = self.routes.get_mut(filter) {
            (route.inbox, route.is_detached) = (inbox, true);
        }
    }

    /// The stream is gone, and the subscription stays: its messages have no stream.
    pub(crate) fn detach(&mut self, filter: &str) {
        self.remove(filter);
    }

    /// A connection begins: asks for what the server does not have.
    pub(crate) fn resume(&mut self, outbound: &mut Outbound, information: &Information) {
        for route in self.routes.values_mut() {
            route.is_confirmed &= information.session_present;
        }
        let missing: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| !route.is_confirmed)
            .map(|(filter, _)| filter.clone())
            .collect();
        for (filter, done) in std::mem::take(&mut self.unsaid) {
            let is_wanted = self.routes.contains_key(&filter); // subscribed to again since
            if !information.session_present || is_wanted {
                // Nobody needs to wait for it.
                done.map(|done| done.send(Ok(())));
            } else if let Err(error) = self.ask_to_end(&filter, outbound, done) {
                tracing::warn!(%error, "Cannot unsubscribe");
            }
        }
        for filter in missing {
            if let Err(error) = self.ask(&filter, outbound, information) {
                tracing::warn!(%error, "Cannot subscribe again");
            }
        }
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.asked.is_empty()
    }

    /// SUBACK. The filter and the error of a subscription that had been there before and is refused now.
    pub(crate) fn sub_answered(
        &mut self,
        ack: &Codes<'_>,
        outbound: &mut Outbound,
    ) -> Option<(String, Error)> {
        let filter = self.asked.remove(&ack.id)?;
        outbound.free_id(ack.id);
        let reason = ack.iter().next().unwrap_or(ReasonCode::UNSPECIFIED_ERROR);
        let route = self.routes.get_mut(&filter)?;
        if let (false, Some(qos)) = (reason.is_error(), Qos::from_bits(reason.code())) {
            route.is_confirmed = true;
            // Nobody needs to wait for it.
            route.done.take().map(|done| done.send(Ok(qos)));
            return None;
        }
        let error = refused("subscribe", reason, ack.properties);
        let route = self.remove(&filter)?;
        route.end();
        match route.done {
            Some(done) => {
                let _ = done.send(Err(error));
                None
            }
            None => Some((filter.into(), error)),
        }
    }

    /// UNSUBACK.
    pub(crate) fn unsub_answered(&mut self, ack: &Codes<'_>, outbound: &mut Outbound) {
        let Some((_, done)) = self.ending.remove(&ack.id) else { return };
        outbound.free_id(ack.id);
        let refusal = ack.iter().find(|reason| reason.is_error());
        let outcome = refusal.map_or(Ok(()), |reason| Err(refused("unsubscribe", reason, ack.properties)));
        if let Some(done) = done {
            let _ = done.send(outcome);
        }
    }

    /// The connection has ended.
    pub(crate) fn end(&mut self, outbound: &mut Outbound) {
        self.asked.drain().for_each(|(id, _)| outbound.free_id(id));
        for (id, ending) in self.ending.drain() {
            outbound.free_id(id);
            self.unsaid.push(ending);
        }
    }

    /// The streams that a message is for. Subscription identifiers may be of another process that had this session, so the
    /// filter has to match in any case.
    pub(crate) fn targets(&self, packet: &jmqt_mqtt::Publish<'_>) -> Vec<Arc<Inbox<Message>>> {
        let matching = |filter: &str| Filter::parse(filter).is_ok_and(|filter| filter.matches(packet.topic));
        let named: Vec<_> = packet
            .properties
            .subscription_ids()
            .filter_map(|id| self.by_id.get(&id))
            .filter(|filter| matching(filter))
            .filter_map(|filter| Some(Arc::clone(&self.routes.get(filter)?.inbox)))
            .collect();
        let mut found = named;
        if found.is_empty() {
            let all = self.routes.iter().filter(|(filter, _)| matching(filter));
            found = all.map(|(_, route)| Arc::clone(&route.inbox)).collect();
        }
        // Detached subscriptions have one stream together.
        found.sort_by_key(Arc::as_ptr);
        found.dedup_by(|a, b| Arc::ptr_eq(a, b));
        found
    }

    pub(crate) fn inboxes(&self) -> impl Iterator<Item = &Inbox<Message>> {
        self.routes.values().map(|route| &*route.inbox)
    }

    /// Everyone who waits for an answer is told this.
    pub(crate) fn fail(&mut self, error: &Error) {
        for done in self.routes.values_mut().filter_map(|route| route.done.take()) {
            let _ = done.send(Err(error.clone()));
        }
        let waiting = self.ending.values_mut().chain(&mut self.unsaid);
        for done in waiting.filter_map(|(_, done)| done.take()) {
            let _ = done.send(Err(error.clone()));
        }
    }
}

pub(crate) fn refused(request: &'static str, reason: ReasonCode, properties: Properties<'_>) -> Error {
    let message = properties.reason_string().unwrap_or_default().to_owned();
    Error::Refused { request, reason, message }
}
