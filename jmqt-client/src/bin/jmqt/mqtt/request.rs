//! `jmqt request` with an MQTT server: a request with a response topic and correlation data (MQTT 5, 4.10).

use jmqt_client::mqtt::{Client, Error, Options, Publish, Qos, Version};

use super::subscribe::Shown;
use crate::arguments::RequestMqtt;
use crate::codec::encode;
use crate::{Failure, Output, random_digits};

pub(super) async fn run(
    options: Options,
    topic: &str,
    data: String,
    mqtt: RequestMqtt,
    output: Output,
) -> Result<(), Failure> {
    if options.version != Version::V5 {
        return Err(Failure::usage("requests need MQTT 5: older versions have no response topics"));
    }
    let response = mqtt.response_topic.unwrap_or_else(|| format!("reply/{}", options.client_id));
    let correlation = random_digits()?;
    let codec = mqtt.codec.or_else(|| options.topics.of(topic).codec);
    // Without data there is none to encode.
    let encoded =
        encode(codec.as_ref().filter(|_| !data.is_empty()), data.into_bytes()).map_err(Failure::usage)?;
    let mut message = Publish::new(topic, encoded.payload)?.at_least_once().response_topic(&response);
    if let Some(content_type) = encoded.content_type {
        message = message.content_type(content_type);
    }
    if encoded.is_text {
        message = message.as_text();
    }
    let message = message.correlation_data(correlation.as_bytes());
    let limit = options.request_timeout;
    let topics = options.topics.clone();
    let mut shown = Shown { codec, topics, headers: false, time: false, format: None, unreadable: 0, output };
    let client = Client::connect(options).await?;
    let subscribed = client.subscribe(&response, Qos::AtLeastOnce).await;
    let mut replies = subscribed.map_err(|error| Failure::from(error).of(format_args!("sub {response}")))?;
    let published = client.publish(&message).await;
    published.map_err(|error| Failure::from(error).of(format_args!("request {topic}")))?;
    let reply = async {
        loop {
            let Some(reply) = replies.next().await else {
                return Err(Failure::from(client.ended().unwrap_or(Error::Closed)));
            };
            if reply.correlation_data() == Some(correlation.as_bytes()) {
                return Ok(reply);
            }
        }
    };
    let reply = tokio::time::timeout(limit, reply).await.unwrap_or_else(|_| {
        Err(Failure::timeout_of(&format!("request {topic}: no reply came on {response}")))
    })?;
    let is_shown = shown.show(&reply)?;
    client.disconnect().await;
    // How a JMQT server tells the status of its application.
    match reply.user_properties().find(|(name, _)| *name == "st") {
        Some((_, status)) if status != "1" => {
            Err(Failure::refused(format!("request {topic}: refused with status {status}")))
        }
        _ if is_shown => Ok(()),
        _ => Err(Failure::new(format!("request {topic}: the reply cannot be read"))),
    }
}
