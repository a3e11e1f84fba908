//! `jmqt sub` and `jmqt unsub`.

use std::collections::HashSet;
use std::time::Duration;

use jmqt_client::{
    ChannelFilter, ChannelKind, ChannelName, Client, Config, Error, Event, Persistence, Push, Pushes, Qos,
};
use serde_json::Value;

use crate::again::Again;
use crate::failure::meaning;
use crate::terminal::{now, printed};
use crate::{Failure, Output, channel, note};

/// How often lost messages are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The word for the client's own point-to-point channel.
const OWN: [&str; 2] = ["#me", "#"];

pub(crate) struct Wanted {
    pub(crate) channels: Vec<String>,
    pub(crate) filters: Vec<String>,
    pub(crate) persistent: bool,
    pub(crate) count: Option<u64>,
    pub(crate) shown: Shown,
}

/// What is printed of a message.
pub(crate) enum Shown {
    Data { headers: bool, time: bool },
    Format(String),
}

/// The channels that were asked for.
pub(crate) struct Channels {
    pub(crate) plain: Vec<ChannelName>,
    filters: Vec<ChannelFilter>,
    /// Of the client's own point-to-point channel.
    own: bool,
}

impl Channels {
    pub(crate) fn parse(names: &[String], filters: &[String]) -> Result<Self, Failure> {
        let filters = filters.iter().map(|filter| ChannelFilter::parse(filter));
        let filters = filters.collect::<Result<_, _>>().map_err(Failure::usage)?;
        let mut channels = Self { plain: Vec::new(), filters, own: false };
        for name in names {
            if OWN.contains(&name.as_str()) {
                channels.own = true;
                continue;
            }
            let channel = channel(name)?;
            match channel.kind() {
                ChannelKind::Plain => {}
                ChannelKind::PeerToPeer => {
                    return Err(Failure::usage(format!(
                        "{name}: a client receives only its own point-to-point messages: jmqt sub '#me' --name {}",
                        &name[1..]
                    )));
                }
                ChannelKind::Control => {
                    return Err(Failure::usage(format!(
                        "{name}: control channels answer requests and cannot be subscribed to: jmqt request '{name}'"
                    )));
                }
            }
            if name.ends_with("/#") || name.contains('+') || name.contains('*') {
                note(format_args!(
                    "{name:?} is the channel of exactly this name; with wildcards: --filter {name:?}"
                ));
            }
            channels.plain.push(channel);
        }
        Ok(channels)
    }

    pub(crate) fn has(&self, push: &Push) -> bool {
        // Of point-to-point channels the server sends a client its own only.
        (self.own && push.channel().starts_with('#'))
            || self.plain.iter().any(|channel| channel.as_str() == push.channel())
            || self.filters.iter().any(|filter| filter.matches(push.channel()))
    }
}

pub(crate) async fn run(
    config: Config,
    wanted: Wanted,
    again: &Again,
    output: Output,
) -> Result<(), Failure> {
    let channels = Channels::parse(&wanted.channels, &wanted.filters)?;
    let persistence = if wanted.persistent { Persistence::Persistent } else { Persistence::Temporary };
    let window = config.window as usize;
    let client = Client::connect(config).await?;
    let mut events = client.events();
    // What is not shown is not acknowledged.
    let mut reader = Reader {
        pushes: client.pushes().acknowledge_by_hand(),
        left: wanted.count,
        others: HashSet::new(),
        unshown: 0,
        window,
        lost: 0,
        again,
    };
    for channel in &channels.plain {
        client.sub(channel, persistence).await.map_err(|error| refusal("sub", channel, error))?;
        tracing::info!(%channel, "Subscribed");
    }
    for filter in &channels.filters {
        client.sub_filter(filter, persistence).await.map_err(|error| match error {
            Error::Refused { status, .. } => {
                let words = format!("sub {filter}: refused, {status} (the application has to allow filters)");
                Failure::of_subscription(words, filter, status)
            }
            error => error.into(),
        })?;
        tracing::info!(%filter, "Subscribed");
    }
    let mut look = tokio::time::interval(LOOK_EVERY);
    while reader.left != Some(0) {
        tokio::select! {
            biased;
            push = reader.pushes.next() => {
                let Some(push) = push else { return Err(Failure::ended(&client)) };
                if channels.has(&push) {
                    output.line(|| printed(wanted.shown.words(&push)), || object(&push))?;
                    client.acknowledge(&push);
                    reader.left = reader.left.map(|left| left - 1);
                } else {
                    reader.pass_over(&push)?;
                }
            }
            event = events.next() => tell(event)?,
            _ = look.tick() => reader.tell_lost(),
        }
    }
    reader.tell_lost();
    client.close().await;
    Ok(())
}

/// The server's answer to a `sub` or an `unsub`.
pub(crate) fn refusal(request: &str, channel: &ChannelName, error: Error) -> Failure {
    let hint = meaning(request, &error);
    Failure::of_request(request, channel, hint, error)
}

struct Reader<'a> {
    pushes: Pushes,
    /// Messages that are still wanted; `None`: all.
    left: Option<u64>,
    /// Channels that were not asked for, of which QoS 1 messages came.
    others: HashSet<String>,
    /// How many of these there were.
    unshown: usize,
    window: usize,
    /// Messages that were known to be lost at the last look.
    lost: u64,
    again: &'a Again,
}

impl Reader<'_> {
    /// A message of a channel that was not asked for: of a persistent subscription of an earlier run, or of one that the
    /// server's application made. With QoS 1 it stays unacknowledged, and comes again.
    fn pass_over(&mut self, push: &Push) -> Result<(), Failure> {
        if push.id().is_none() {
            return Ok(());
        }
        let channel = push.channel();
        if self.others.insert(channel.to_owned()) {
            note(format_args!(
                "messages of channel {channel:?} are waiting for this client; they are not shown, and stay with the \
                 server. To see them: {}",
                self.again.sub(channel)
            ));
        }
        self.unshown += 1;
        if self.unshown >= self.window {
            return Err(Failure::new(format!(
                "{} messages of channels that were not asked for are unacknowledged, so the server sends nothing more. \
                 To see them: {}; to be rid of them: {}",
                self.unshown,
                self.again.sub(channel),
                self.again.unsub(channel)
            )));
        }
        Ok(())
    }

    /// Says on standard error how many QoS 0 messages came faster than they were printed.
    fn tell_lost(&mut self) {
        let lost = self.pushes.dropped();
        if lost > self.lost {
            note(format_args!(
                "{} messages were lost: they arrived faster than they could be printed",
                lost - self.lost
            ));
            self.lost = lost;
        }
    }
}

/// Says on standard error what became of the connection.
pub(crate) fn tell(event: Option<Event>) -> Result<(), Failure> {
    match event {
        // What ends the command is told by its error.
        Some(Event::Disconnected { reason }) if reason.may_reconnect() => {
            note(format_args!("disconnected: {reason}"))
        }
        Some(Event::Reconnecting { delay, error, .. }) => {
            let because = error.map(|error| format!(": {error}")).unwrap_or_default();
            note(format_args!("reconnecting in {:.1} s{because}", delay.as_secs_f64()));
        }
        Some(Event::Connected { client }) => note(format_args!("connected as {client}")),
        Some(Event::SubscriptionLost { channel, status }) => {
            let words = format!("the subscription to {channel} was refused after a reconnect: {status}");
            return Err(Failure::of_subscription(words, channel, status));
        }
        Some(Event::FilterLost { filter, error }) => {
            let words = format!("the subscription to {filter} has ended after a reconnect: {error}");
            return Err(Failure::of_subscription(words, filter, error.status()));
        }
        Some(Event::Stopped { close }) => return Err(Failure::disconnected(close)),
        _ => {}
    }
    Ok(())
}

pub(crate) async fn unsubscribe(config: Config, names: Vec<String>, output: Output) -> Result<(), Failure> {
    let channels = names.iter().map(|name| channel(name)).collect::<Result<Vec<_>, _>>()?;
    let client = Client::connect(config).await?;
    for channel in &channels {
        client.unsub(channel).await.map_err(|error| refusal("unsub", channel, error))?;
        output.line(
            || format!("unsubscribed from {channel}"),
            || serde_json::json!({ "unsubscribed": channel.as_str() }),
        )?;
    }
    client.close().await;
    Ok(())
}

impl Shown {
    fn words(&self, push: &Push) -> String {
        let (qos, retained) = (u8::from(push.qos() == Qos::AtLeastOnce), u8::from(push.is_retained()));
        match self {
            Self::Format(format) => {
                let fields = Fields {
                    channel: push.channel(),
                    publisher: push.publisher(),
                    data: push.data(),
                    id: push.id().unwrap_or_default(),
                    qos,
                    is_retained: push.is_retained(),
                };
                formatted(format, &fields)
            }
            Self::Data { headers, time } => {
                let time = if *time { format!("{} ", now()) } else { String::new() };
                if !headers {
                    return time + push.data();
                }
                let (channel, publisher, data) = (push.channel(), push.publisher(), push.data());
                format!("{time}{channel} from {publisher:?} (QOS {qos}, RETAIN {retained}): {data}")
            }
        }
    }
}

/// What a format may name of a message.
pub(crate) struct Fields<'m> {
    pub(crate) channel: &'m str,
    pub(crate) publisher: &'m str,
    pub(crate) data: &'m str,
    pub(crate) id: &'m str,
    pub(crate) qos: u8,
    pub(crate) is_retained: bool,
}

/// Replaces letters behind a percent sign; an unknown letter stays as it is.
pub(crate) fn formatted(format: &str, fields: &Fields<'_>) -> String {
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match rest.next() {
            Some('c') => text.push_str(fields.channel),
            Some('p') => text.push_str(fields.publisher),
            Some('d') => text.push_str(fields.data),
            Some('i') => text.push_str(fields.id),
            Some('q') => text.push_str(&fields.qos.to_string()),
            Some('r') => text.push(if fields.is_retained { '1' } else { '0' }),
            Some('t') => text.push_str(&now()),
            Some('%') | None => text.push('%'),
            Some(other) => text.extend(['%', other]),
        }
    }
    text
}

/// The message as one line of JSON, its data as it came: numbers of any precision stay as they are.
pub(crate) fn object(push: &Push) -> String {
    let (channel, publisher) = (Value::from(push.channel()), Value::from(push.publisher()));
    let qos = u8::from(push.qos() == Qos::AtLeastOnce);
    // Line breaks in JSON are white space: in strings they are escaped.
    let data = push.data().replace(['\n', '\r'], " ");
    let retained = push.is_retained();
    format!(
        r#"{{"channel":{channel},"publisher":{publisher},"qos":{qos},"retained":{retained},"data":{data}}}"#
    )
}
