//! What is published: a [`Publish`], and the [`Receipt`] of one with QoS 1 (§7.k, §9.a).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use jmqt_protocol::{
    ChannelKind, ChannelName, ClientId, InvalidChannel, Packet, PayloadBuf, Pub, Qos, Retain,
};
use tokio::sync::oneshot;

use crate::Error;

/// What names a channel: a [`ChannelName`], which has been checked, or text, which is checked now.
pub trait IntoChannel {
    /// The checked name.
    ///
    /// # Errors
    /// [`InvalidChannel`] if it is not one (protocol.md 2.8).
    fn into_channel(self) -> Result<ChannelName, InvalidChannel>;
}

impl IntoChannel for ChannelName {
    fn into_channel(self) -> Result<ChannelName, InvalidChannel> {
        Ok(self)
    }
}

impl IntoChannel for &ChannelName {
    fn into_channel(self) -> Result<ChannelName, InvalidChannel> {
        Ok(self.clone())
    }
}

impl IntoChannel for &str {
    fn into_channel(self) -> Result<ChannelName, InvalidChannel> {
        ChannelName::parse(self)
    }
}

impl IntoChannel for &String {
    fn into_channel(self) -> Result<ChannelName, InvalidChannel> {
        ChannelName::parse(self)
    }
}

impl IntoChannel for String {
    fn into_channel(self) -> Result<ChannelName, InvalidChannel> {
        ChannelName::parse(&self)
    }
}

/// A message to publish: a channel, data, QoS and the retained flag.
///
/// ```
/// use jmqt_client::Publish;
///
/// let message = Publish::json("news", &["rain", "sun"])?.at_least_once().retained();
/// # Ok::<(), jmqt_client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub(crate) channel: ChannelName,
    data: PayloadBuf,
    pub(crate) qos: Qos,
    retain: Retain,
    pub(crate) is_checked: bool,
    is_literal: bool,
}

impl Publish {
    /// A value, as JSON.
    ///
    /// # Errors
    /// [`Error::InvalidChannel`]; [`Error::InvalidData`] for a value that JSON cannot hold.
    pub fn json(channel: impl IntoChannel, data: &(impl serde::Serialize + ?Sized)) -> Result<Self, Error> {
        Ok(Self::new(channel.into_channel()?, PayloadBuf::json(data)?))
    }

    /// JSON text, which reaches the subscribers byte for byte (protocol.md 2.7).
    ///
    /// # Errors
    /// [`Error::InvalidChannel`]; [`Error::InvalidData`] if it is not one JSON value, or nested deeper than 128.
    pub fn raw(channel: impl IntoChannel, data: impl Into<String>) -> Result<Self, Error> {
        let channel = channel.into_channel()?;
        Ok(Self::new(channel, PayloadBuf::parse(data.into())?))
    }

    /// Bytes: text becomes a JSON string, or, if it is the text of a JSON value, that value; other bytes become
    /// `{"$b64":"…"}`. MQTT clients receive exactly these bytes, but for white space around JSON, and
    /// [`Push::bytes`](crate::Push::bytes) has them again (protocol.md 2.26).
    ///
    /// ```
    /// use jmqt_client::Publish;
    ///
    /// let image = Publish::bytes("camera", &[0xff, 0xd8])?;
    /// assert_eq!(image.data(), r#"{"$b64":"/9g="}"#);
    /// # Ok::<(), jmqt_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidChannel`].
    pub fn bytes(channel: impl IntoChannel, bytes: &[u8]) -> Result<Self, Error> {
        let data = jmqt_mqtt::payload::to_data(bytes, jmqt_mqtt::payload::Declared::Nothing);
        let message = Self::raw(channel, data.json)?;
        Ok(if data.literal { message.literal() } else { message })
    }

    /// A value for one client, on its point-to-point channel (§9.d).
    ///
    /// # Errors
    /// [`Error::InvalidData`] for a value that JSON cannot hold.
    pub fn to_client(client: &ClientId, data: &(impl serde::Serialize + ?Sized)) -> Result<Self, Error> {
        Self::json(ChannelName::of_client(client), data)
    }

    const fn new(channel: ChannelName, data: PayloadBuf) -> Self {
        Self { channel, data, qos: Qos::AtMostOnce, retain: Retain::No, is_checked: false, is_literal: false }
    }

    /// QoS 1: stored by the server, acknowledged to us, delivered until acknowledged (§9.a).
    #[must_use]
    pub const fn at_least_once(mut self) -> Self {
        self.qos = Qos::AtLeastOnce;
        self
    }

    /// QoS 0, but the publisher is told if the server refuses the message (protocol.md 2.5): the [`Receipt`] waits until the
    /// server has handled it. It costs an id and, however many messages flow, one heartbeat per round trip. It is still
    /// QoS 0: what a connection takes along when it breaks is not sent again, and the receipt says
    /// [`Error::ConnectionLost`]. Without effect with QoS 1, which is always acknowledged.
    ///
    /// ```no_run
    /// # async fn run(client: jmqt_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use jmqt_client::Publish;
    ///
    /// let message = Publish::json("news", "rain")?.checked();
    /// let receipt = client.queue(&message).await?; // goes on at once
    /// if let Err(error) = receipt.await {
    ///     eprintln!("not published: {error}"); // for example: 7 NOT_ALLOWED
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn checked(mut self) -> Self {
        self.is_checked = true;
        self
    }

    /// For MQTT clients the payload is literally the JSON text: `"ON"` is sent with its quotes (`jt`, protocol.md 2.26). Without
    /// effect on data that is neither a string nor `{"$b64":"…"}`.
    #[must_use]
    pub const fn literal(mut self) -> Self {
        self.is_literal = true;
        self
    }

    /// Kept for those who subscribe later (§9.b). Without effect on point-to-point channels.
    #[must_use]
    pub const fn retained(mut self) -> Self {
        self.retain = Retain::Yes;
        self
    }

    /// The channel.
    #[must_use]
    pub const fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The data, as JSON text.
    #[must_use]
    pub fn data(&self) -> &str {
        self.data.as_str()
    }

    /// The QoS.
    #[must_use]
    pub const fn qos(&self) -> Qos {
        self.qos
    }

    /// Appends the `pub` packet; `id` is the one of a QoS 1 publish, or of a checked one.
    pub(crate) fn encode(&self, id: Option<&str>, out: &mut Vec<u8>) {
        let retain = match self.channel.kind() {
            ChannelKind::Plain => self.retain,
            ChannelKind::Control | ChannelKind::PeerToPeer => Retain::No,
        };
        Packet::Pub(Pub {
            channel: self.channel.as_str().into(),
            data: Some(self.data.as_payload()),
            is_literal: self.is_literal,
            qos: self.qos,
            retain,
            id: id.map(Into::into),
        })
        .encode(out);
    }

    /// At most how long the packet is, its NUL included.
    pub(crate) fn size_hint(&self) -> usize {
        self.channel.as_str().len() + self.data.as_str().len() + 64
    }
}

/// The fate of a message that was queued: a future of the server's acknowledgement.
///
/// A QoS 0 message is never acknowledged, so its receipt is ready at once, unless it is [checked](Publish::checked). Dropping a receipt changes
/// nothing: the message is sent all the same.
///
/// # Errors
/// [`Error::Refused`] with the server's status (8 CLIENT_OFFLINE is final), [`Error::Timeout`] if it
/// was sent and not acknowledged within `publish_timeout`, [`Error::Dropped`] if the queue was full and this
/// was the oldest, [`Error::Closed`] if the client was closed first, [`Error::ConnectionLost`] for a checked QoS 0 message that
/// went with its connection.
#[derive(Debug)]
#[must_use = "a receipt tells whether the server has the message"]
pub struct Receipt(Option<oneshot::Receiver<Result<(), Error>>>);

impl Receipt {
    pub(crate) const fn of_qos0() -> Self {
        Self(None)
    }

    pub(crate) const fn new(acknowledged: oneshot::Receiver<Result<(), Error>>) -> Self {
        Self(Some(acknowledged))
    }
}

impl Future for Receipt {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            None => Poll::Ready(Ok(())),
            // The client's task drops what it no longer serves only at its end.
            Some(acknowledged) => {
                Pin::new(acknowledged).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
            }
        }
    }
}
