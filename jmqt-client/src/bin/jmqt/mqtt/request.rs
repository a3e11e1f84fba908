//! `jmqt request` with an MQTT server: a request with a response topic and correlation data (MQTT 5, 4.10). Before MQTT 5 only
//! the application of a JMQT server can be asked, which answers on `$reply/NAME`.

use std::time::Duration;

use jmqt_client::mqtt::{Error, Options, Publish, Qos, ReasonCode, Version};

use super::subscribe::Shown;
use crate::arguments::RequestMqtt;
use crate::codec::encode;
use crate::{Failure, Output, note, random_digits};

/// How long to wait for a reply before the user is told what may be wrong.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(
    options: Options,
    topic: &str,
    data: String,
    mqtt: RequestMqtt,
    output: Output,
) -> Result<(), Failure> {
    let is_5 = options.version == Version::V5;
    let response = match (is_5, mqtt.response_topic) {
        (true, named) => named.unwrap_or_else(|| format!("reply/{}", options.client_id)),
        (false, Some(_)) => return Err(Failure::usage("--response-topic needs MQTT 5")),
        (false, None) => reply_topic(topic)?,
    };
    let correlation = random_digits()?;
    let codec = mqtt.codec.or_else(|| options.topics.of(topic).codec);
    // Without data there is none to encode.
    let encoded =
        encode(codec.as_ref().filter(|_| !data.is_empty()), data.into_bytes()).map_err(Failure::usage)?;
    let mut message = Publish::new(topic, encoded.payload)?.at_least_once();
    if is_5 {
        if let Some(content_type) = encoded.content_type {
            message = message.content_type(content_type);
        }
        if encoded.is_text {
            message = message.as_text();
        }
        message = message.response_topic(&response).correlation_data(correlation.as_bytes());
    }
    let limit = options.request_timeout;
    let topics = options.topics.clone();
    let mut shown = Shown { codec, topics, headers: false, time: false, format: None, unreadable: 0, output };
    let client = super::connect(options).await?;
    let subscribed = client.subscribe(&response, Qos::AtLeastOnce).await;
    let mut replies = subscribed.map_err(|error| Failure::from(error).of(format_args!("sub {response}")))?;
    let published = client.publish(&message).await;
    let answer = published.map_err(|error| refused(topic, error))?;
    if answer == ReasonCode::NO_MATCHING_SUBSCRIBERS {
        return Err(nobody_answers(topic));
    }
    let reply = async {
        loop {
            let Some(reply) = replies.next().await else {
                return Err(Failure::from(client.ended().unwrap_or(Error::Closed)));
            };
            if !is_5 || reply.correlation_data() == Some(correlation.as_bytes()) {
                return Ok(reply);
            }
        }
    };
    let told = async {
        if !topic.starts_with('$') {
            tokio::time::sleep(PATIENCE).await;
            note(format_args!("request {topic}: no reply yet; {}", with_dollar(topic)));
        }
        std::future::pending().await
    };
    let reply = async {
        tokio::select! { reply = reply => reply, () = told => Err(Failure::timeout()) }
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

/// Where the application of a JMQT server answers a client before MQTT 5.
fn reply_topic(topic: &str) -> Result<String, Failure> {
    match topic.strip_prefix('$') {
        Some(name) => Ok(format!("$reply/{name}")),
        None => Err(Failure::usage(format!(
            "requests to other clients need MQTT 5, because older versions have no response topics; {}",
            with_dollar(topic)
        ))),
    }
}

/// The application of a JMQT server has another name for it than the user may have meant.
fn with_dollar(topic: &str) -> String {
    format!("to ask the application of a JMQT server, write '${topic}', in quotes")
}

fn refused(topic: &str, error: Error) -> Failure {
    let is_unknown = topic.starts_with('$') && error.reason() == Some(ReasonCode::TOPIC_NAME_INVALID);
    let failure = Failure::from(error).of(format_args!("request {topic}"));
    if !is_unknown {
        return failure;
    }
    let message = format!("{} (the application answers no such control channel)", failure.message);
    failure.reworded(message)
}

/// The server says that nobody has received the request.
fn nobody_answers(topic: &str) -> Failure {
    let advice = match topic.strip_prefix('$') {
        Some(_) => "the application of a JMQT server may have no such control channel".to_owned(),
        None => with_dollar(topic),
    };
    Failure::refused(format!("request {topic}: nobody is subscribed to it, so no reply can come; {advice}"))
}
