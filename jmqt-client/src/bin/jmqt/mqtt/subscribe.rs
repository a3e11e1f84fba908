//! `jmqt sub` with an MQTT server.

use std::io::Write as _;
use std::time::Duration;

use jmqt_client::mqtt::{
    Codec, Error, Event, Message, Options, Qos, RetainHandling, SubscribeOptions, TopicDefaults,
};
use serde_json::{Value, json};

use super::will;
use crate::arguments::SubMqtt;
use crate::codec::{Decoded, decode};
use crate::subscribe::{Fields, formatted};
use crate::terminal::{now, printed};
use crate::{Failure, Output, note};

/// A session without end (3.1.2.11.2).
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Mistakes that are told one by one.
const TOLD: u64 = 5;

pub(super) struct Wanted {
    pub(super) filters: Vec<String>,
    pub(super) persistent: bool,
    pub(super) count: Option<u64>,
    pub(super) headers: bool,
    pub(super) time: bool,
    pub(super) format: Option<String>,
}

pub(super) async fn run(
    mut options: Options,
    wanted: Wanted,
    mqtt: SubMqtt,
    output: Output,
) -> Result<(), Failure> {
    if wanted.persistent {
        options.clean_start = mqtt.clean;
        options.session_expiry = mqtt.expiry.unwrap_or(FOR_EVER);
    }
    options.will = will(&mqtt.will)?;
    let mut shown = Shown {
        codec: mqtt.codec.clone(),
        topics: options.topics.clone(),
        headers: wanted.headers,
        time: wanted.time,
        format: wanted.format,
        unreadable: 0,
        output,
    };
    let client = super::connect(options).await?;
    let mut events = client.events();
    // One stream for all filters: what has no stream of its own.
    let mut messages = client.messages().acknowledge_by_hand();
    for filter in wanted.filters {
        let filter = match &mqtt.share {
            Some(group) => format!("$share/{group}/{filter}"),
            None => filter,
        };
        let subscribed = client.subscribe(&filter, subscription(&mqtt)).await;
        subscribed.map_err(|error| Failure::from(error).of(format_args!("sub {filter}")))?.detach();
    }
    let mut left = wanted.count;
    while left != Some(0) {
        tokio::select! {
            biased;
            message = messages.next() => {
                let Some(message) = message else {
                    return Err(client.ended().unwrap_or(Error::Closed).into());
                };
                let is_shown = shown.show(&message)?;
                client.acknowledge(&message);
                left = left.map(|left| left - u64::from(is_shown));
            }
            event = events.next() => match event {
                Some(Event::Disconnected { reason }) => note(format_args!("disconnected: {reason}")),
                Some(Event::Connected { .. }) => note(format_args!("connected again")),
                Some(Event::SubscriptionLost { filter, error }) => {
                    return Err(Failure::from(error).of(format_args!("sub {filter}")));
                }
                _ => {}
            },
        }
    }
    client.disconnect().await;
    Ok(())
}

fn subscription(given: &SubMqtt) -> SubscribeOptions {
    let mut options = SubscribeOptions::of_qos(given.sub_qos.map_or(Qos::ExactlyOnce, crate::peer::qos));
    options.no_local = given.no_local;
    options.retain_as_published = given.retain_as_published;
    options.retain_handling = match given.retain_handling {
        None | Some(0) => RetainHandling::Send,
        Some(1) => RetainHandling::SendIfNew,
        Some(_) => RetainHandling::DoNotSend,
    };
    options
}

/// How messages are printed.
pub(super) struct Shown {
    /// For all topics, in place of what the configuration says.
    pub(super) codec: Option<Codec>,
    pub(super) topics: TopicDefaults,
    pub(super) headers: bool,
    pub(super) time: bool,
    pub(super) format: Option<String>,
    /// Messages that the codec cannot read.
    pub(super) unreadable: u64,
    pub(super) output: Output,
}

impl Shown {
    /// Prints a message; `false` if its codec cannot read it, which is told.
    pub(super) fn show(&mut self, message: &Message) -> Result<bool, Failure> {
        let codec = self.codec.clone().or_else(|| self.topics.of(message.topic()).codec);
        let decoded = match decode(codec.as_ref(), message.payload()) {
            Ok(decoded) => decoded,
            Err(problem) => {
                self.unreadable += 1;
                if self.unreadable <= TOLD {
                    let (topic, name) = (message.topic(), codec.map(|codec| codec.to_string()));
                    note(format_args!(
                        "a message on {topic:?} is not shown: {problem} (--codec {})",
                        name.unwrap_or_default()
                    ));
                }
                return Ok(false);
            }
        };
        if self.output.json {
            let line = json_line(message, decoded);
            self.output.line(String::new, || line)?;
            return Ok(true);
        }
        match (decoded, &self.format) {
            (decoded, Some(format)) => {
                let data = match decoded {
                    Decoded::Text(text) | Decoded::Json(text) => text,
                    Decoded::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                };
                let fields = Fields {
                    channel: message.topic(),
                    publisher: message
                        .user_properties()
                        .find(|(name, _)| *name == "sender")
                        .map_or("", |(_, id)| id),
                    data: &data,
                    id: "",
                    qos: message.qos().bits(),
                    is_retained: message.is_retained(),
                };
                self.output.line(|| printed(formatted(format, &fields)), String::new)?;
            }
            (Decoded::Text(text) | Decoded::Json(text), None) => {
                let head = self.head(message);
                self.output.line(|| printed(head + &text), String::new)?;
            }
            (Decoded::Bytes(bytes), None) => {
                let mut stdout = std::io::stdout().lock();
                write!(stdout, "{}", printed(self.head(message)))?;
                stdout.write_all(&bytes)?;
                if !matches!(codec, Some(Codec::Binary)) {
                    writeln!(stdout)?;
                }
                stdout.flush()?;
            }
        }
        Ok(true)
    }

    fn head(&self, message: &Message) -> String {
        let mut head = if self.time { format!("{} ", now()) } else { String::new() };
        if self.headers {
            head.push_str(&format!("{} (QOS {}): ", message.topic(), message.qos().bits()));
        }
        head
    }
}

/// For programs: text as text, JSON as it came, other bytes as numbers; and the properties that the message has.
fn json_line(message: &Message, decoded: Decoded) -> String {
    let mut members = vec![
        ("topic", Value::from(message.topic()).to_string()),
        ("qos", message.qos().bits().to_string()),
        ("retained", message.is_retained().to_string()),
    ];
    let mut add = |name, value: Option<Value>| members.extend(value.map(|value| (name, value.to_string())));
    add("content_type", message.content_type().map(Value::from));
    add("response_topic", message.response_topic().map(Value::from));
    add("expiry", message.expiry().map(|left| left.as_secs().into()));
    let properties: Vec<_> = message.user_properties().collect();
    add("user_properties", Some(json!(properties)).filter(|_| !properties.is_empty()));
    members.push(match decoded {
        Decoded::Text(text) => ("payload", Value::from(text).to_string()),
        Decoded::Json(json) => ("payload", json),
        Decoded::Bytes(bytes) => ("bytes", json!(bytes).to_string()),
    });
    let members: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}
