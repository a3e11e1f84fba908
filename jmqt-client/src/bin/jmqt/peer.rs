//! Clients of either language, for measurements.

use jmqt_client::{Client, Config, Persistence, Publish, Receipt, Subscription, mqtt};

use crate::{Failure, channel, random_name, second};

/// Where to connect, and as whom.
#[derive(Clone)]
pub(crate) enum Target {
    Jmqt(Box<Config>),
    Mqtt(Box<mqtt::Options>),
}

impl Target {
    /// Whether messages can be published on a channel, or topic, of this name.
    pub(crate) fn check(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Jmqt(_) => channel(name).map(drop),
            Self::Mqtt(_) => Ok(mqtt::Publish::new(name, "").map(drop)?),
        }
    }

    /// The same server, as another client.
    pub(crate) fn stranger(self) -> Result<Self, Failure> {
        match self {
            Self::Jmqt(config) => Ok(Self::Jmqt(Box::new(second(*config)?))),
            Self::Mqtt(mut options) => {
                options.client_id = random_name()?;
                Ok(Self::Mqtt(options))
            }
        }
    }

    pub(crate) async fn connect(self) -> Result<Peer, Failure> {
        Ok(match self {
            Self::Jmqt(config) => Peer::Jmqt(Client::connect(*config).await?),
            Self::Mqtt(options) => Peer::Mqtt(mqtt::Client::connect(*options).await?),
        })
    }
}

/// The QoS of an option.
pub(crate) const fn qos(number: u8) -> mqtt::Qos {
    match number {
        0 => mqtt::Qos::AtMostOnce,
        1 => mqtt::Qos::AtLeastOnce,
        _ => mqtt::Qos::ExactlyOnce,
    }
}

/// A client.
pub(crate) enum Peer {
    Jmqt(Client),
    Mqtt(mqtt::Client),
}

impl Peer {
    pub(crate) async fn subscribe(&self, name: &str, qos: u8) -> Result<Stream, Failure> {
        Ok(match self {
            Self::Jmqt(client) => Stream::Jmqt(client.subscribe(name, Persistence::Temporary).await?),
            Self::Mqtt(client) => Stream::Mqtt(client.subscribe(name, self::qos(qos)).await?),
        })
    }

    /// Publishes JSON.
    pub(crate) async fn queue(&self, name: &str, data: String, qos: u8) -> Result<Pending, Failure> {
        Ok(match self {
            Self::Jmqt(client) => {
                let message = Publish::raw(name, data).map_err(Failure::new)?;
                let message = if qos == 0 { message } else { message.at_least_once() };
                Pending::Jmqt(client.queue(&message).await?)
            }
            Self::Mqtt(client) => {
                let message = mqtt::Publish::new(name, data)?.qos(self::qos(qos));
                Pending::Mqtt(client.queue(&message).await?)
            }
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Jmqt(client) => client.close().await,
            Self::Mqtt(client) => client.disconnect().await,
        }
    }
}

/// A publish without an acknowledgement.
pub(crate) enum Pending {
    Jmqt(Receipt),
    Mqtt(mqtt::Receipt),
}

impl Pending {
    pub(crate) async fn acknowledged(self) -> Result<(), Failure> {
        match self {
            Self::Jmqt(receipt) => receipt.await?,
            Self::Mqtt(receipt) => drop(receipt.await?),
        }
        Ok(())
    }
}

/// A subscription.
pub(crate) enum Stream {
    Jmqt(Subscription),
    Mqtt(mqtt::Subscription),
}

impl Stream {
    /// The number that the next message begins with, behind a quote.
    pub(crate) async fn next(&mut self) -> Option<u64> {
        let number = |digits: Option<&[u8]>| {
            digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or_default()
        };
        match self {
            Self::Jmqt(stream) => stream.next().await.map(|push| number(push.data().as_bytes().get(1..21))),
            Self::Mqtt(stream) => stream.next().await.map(|message| number(message.payload().get(1..21))),
        }
    }

    /// How many QoS 0 messages were dropped here.
    pub(crate) fn dropped(&self) -> u64 {
        match self {
            Self::Jmqt(stream) => stream.dropped(),
            Self::Mqtt(stream) => stream.dropped(),
        }
    }
}
