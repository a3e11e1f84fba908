//! `jmqt` with an MQTT server: `--url mqtt://host`.

mod doctor;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use jmqt_client::mqtt::{
    Client, ConnectError, Error, Event, Message, Options, Publish, Qos, RetainHandling, Server,
    SubscribeOptions, Version, Will,
};
use serde_json::json;

use crate::arguments::{Arguments, Command, ConnectionArguments, Input, PubMqtt, SubMqtt, WillMqtt};
use crate::terminal::printed;
use crate::{Failure, Output, note, random_digits, random_name};

/// A session without end (3.1.2.11.2).
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Whether the options name an MQTT server.
pub(crate) fn is_meant(connection: &ConnectionArguments) -> bool {
    connection.url.as_deref().is_some_and(Server::is_url)
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = Output { json: arguments.connection.json };
    let mut options = options(&arguments.connection)?;
    match arguments.command {
        Command::Pub { channel, input, mqtt } => {
            options.will = will(&mqtt.will)?;
            publish(options, &channel, &input, &mqtt, output).await
        }
        Command::Sub { time: true, .. } | Command::Sub { format: Some(_), .. } => {
            Err(Failure::usage("with an MQTT server `jmqt sub` has no --time and --format"))
        }
        Command::Sub { persistent: true, .. } if arguments.connection.name.is_none() => Err(Failure::usage(
            "--persistent keeps the session for a client that comes back: add --name NAME",
        )),
        Command::Sub { channels, filters, persistent, count, headers, mqtt, .. } => {
            if persistent {
                options.clean_start = mqtt.clean;
                options.session_expiry = mqtt.expiry.unwrap_or(FOR_EVER);
            }
            options.will = will(&mqtt.will)?;
            let shared = |filter| match &mqtt.share {
                Some(group) => format!("$share/{group}/{filter}"),
                None => filter,
            };
            let filters: Vec<_> = channels.into_iter().chain(filters).map(shared).collect();
            let headers = headers || arguments.connection.verbose;
            subscribe(options, &filters, wanted(&mqtt), (count, headers), output).await
        }
        Command::Request { channel, data, response_topic } => {
            request(options, &channel, data.unwrap_or_default(), response_topic, output).await
        }
        Command::Doctor { topic } => doctor::run(options, topic, output).await,
        _ => Err(Failure::usage(
            "with an MQTT server there are only `jmqt pub`, `jmqt sub`, `jmqt request` and `jmqt doctor`",
        )),
    }
}

const fn qos(number: u8) -> Qos {
    match number {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

fn will(given: &WillMqtt) -> Result<Option<Will>, Failure> {
    let Some(topic) = &given.will_topic else { return Ok(None) };
    let message = Publish::new(topic, given.will_message.clone().unwrap_or_default())?;
    let message = message.qos(qos(given.will_qos.unwrap_or(0)));
    let will = Will::new(if given.will_retain { message.retained() } else { message });
    Ok(Some(will.after(given.will_delay.unwrap_or_default())))
}

fn wanted(given: &SubMqtt) -> SubscribeOptions {
    let mut options = SubscribeOptions::of_qos(Qos::ExactlyOnce);
    options.no_local = given.no_local;
    options.retain_as_published = given.retain_as_published;
    options.retain_handling = match given.retain_handling {
        None | Some(0) => RetainHandling::Send,
        Some(1) => RetainHandling::SendIfNew,
        Some(_) => RetainHandling::DoNotSend,
    };
    options
}

fn options(connection: &ConnectionArguments) -> Result<Options, Failure> {
    let url = connection.url.as_deref().unwrap_or_default();
    let mut options = Options::url(url).map_err(Failure::usage)?;
    if connection.auth.is_some() || connection.token.is_some() || connection.token_file.is_some() {
        return Err(Failure::usage("MQTT has no auth data and tokens: use mqtt://user:password@host"));
    }
    options.client_id = match &connection.name {
        Some(name) => name.clone(),
        None => random_name()?,
    };
    if connection.v3 {
        options.version = Version::V3_1_1;
    }
    let tls = &mut options.tls;
    tls.ca_path.clone_from(&connection.ca);
    tls.cert_path.clone_from(&connection.cert);
    tls.key_path.clone_from(&connection.key);
    tls.server_name.clone_from(&connection.server_name);
    if connection.insecure {
        tls.accept_any_certificate = true;
        note(format_args!(
            "WARNING: --insecure: the server's certificate is not checked. Anybody on the way can be the server, and read \
             and change everything, passwords included"
        ));
    }
    Ok(options)
}

async fn publish(
    options: Options,
    topic: &str,
    input: &Input,
    mqtt: &PubMqtt,
    output: Output,
) -> Result<(), Failure> {
    if input.lines || input.template || input.clear || input.count > 1 || input.wait_reply.is_some() {
        return Err(Failure::usage(
            "with an MQTT server `jmqt pub` publishes one message: as text, --file or --stdin",
        ));
    }
    let payload = match (&input.message, &input.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => {
            std::fs::read(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?
        }
        (None, None) => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            bytes
        }
    };
    let message = Publish::new(topic, payload)?.qos(qos(input.qos));
    let message = match mqtt.expiry {
        Some(expiry) => message.expires_after(expiry),
        None => message,
    };
    let message = if input.retained { message.retained() } else { message };
    let client = Client::connect(options).await?;
    let published = client.publish(&message).await;
    client.disconnect().await;
    let reason = published.map_err(|error| Failure::from(error).of(format_args!("pub {topic}")))?;
    if output.json {
        output.line(String::new, || json!({ "published": 1, "reason": reason.code() }))?;
    }
    Ok(())
}

async fn subscribe(
    options: Options,
    filters: &[String],
    wanted: SubscribeOptions,
    (count, headers): (Option<u64>, bool),
    output: Output,
) -> Result<(), Failure> {
    let client = Client::connect(options).await?;
    let mut events = client.events();
    // One stream for all filters: what has no stream of its own.
    let mut messages = client.messages().acknowledge_by_hand();
    for filter in filters {
        let subscribed = client.subscribe(filter, wanted).await;
        subscribed.map_err(|error| Failure::from(error).of(format_args!("sub {filter}")))?.detach();
    }
    let mut left = count;
    while left != Some(0) {
        tokio::select! {
            biased;
            message = messages.next() => {
                let Some(message) = message else {
                    return Err(client.ended().unwrap_or(Error::Closed).into());
                };
                show(&message, headers, output)?;
                client.acknowledge(&message);
                left = left.map(|left| left - 1);
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

/// Publishes a request with a response topic and correlation data (MQTT 5, 4.10), and prints the reply.
async fn request(
    options: Options,
    topic: &str,
    data: String,
    response_topic: Option<String>,
    output: Output,
) -> Result<(), Failure> {
    if options.version != Version::V5 {
        return Err(Failure::usage("requests need MQTT 5: --v3 has no response topics"));
    }
    let response = response_topic.unwrap_or_else(|| format!("reply/{}", options.client_id));
    let correlation = random_digits()?;
    let message = Publish::new(topic, data)?.at_least_once().response_topic(&response);
    let message = message.correlation_data(correlation.as_bytes());
    let limit = options.request_timeout;
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
    let reply = tokio::time::timeout(limit, reply).await.unwrap_or_else(|_| Err(Failure::timeout()))?;
    show(&reply, false, output)?;
    client.disconnect().await;
    // How a JMQT server tells the status of its application.
    match reply.user_properties().find(|(name, _)| *name == "st") {
        Some((_, status)) if status != "1" => {
            Err(Failure::refused(format!("request {topic}: refused with status {status}")))
        }
        _ => Ok(()),
    }
}

/// The payload as it came, and a line break; for programs text, or numbers where it is no text.
fn show(message: &Message, headers: bool, output: Output) -> Result<(), Failure> {
    let (topic, qos, retained) = (message.topic(), message.qos().bits(), message.is_retained());
    match message.text() {
        Err(_) if !output.json => {
            let mut stdout = std::io::stdout().lock();
            let head = if headers { format!("{topic} (QOS {qos}): ") } else { String::new() };
            write!(stdout, "{head}")?;
            stdout.write_all(message.payload())?;
            writeln!(stdout)?;
            stdout.flush()?;
            Ok(())
        }
        text => output.line(
            || {
                let text = text.unwrap_or_default();
                printed(if headers { format!("{topic} (QOS {qos}): {text}") } else { text.to_owned() })
            },
            || match text {
                Ok(text) => json!({ "topic": topic, "qos": qos, "retained": retained, "payload": text }),
                Err(_) => {
                    json!({ "topic": topic, "qos": qos, "retained": retained, "bytes": message.payload() })
                }
            },
        ),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused { .. } => Self::refused(error),
            Error::InvalidTopic { .. } => Self::usage(error),
            Error::Stopped(_) | Error::Closed | Error::Timeout { .. } => Self::disconnected(error),
            _ => Self::new(error),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Reach(reach) => {
                Self::unreachable(reach, "mqtt:// 1883, mqtts:// 8883, mqtt+ws:// 8083, mqtt+wss:// 8084")
            }
            ConnectError::Refused { .. } => Self::refused(error),
            _ => Self::disconnected(error),
        }
    }
}
