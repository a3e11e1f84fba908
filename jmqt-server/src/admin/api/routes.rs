//! The routes of the API: one table, by which requests are checked and done, and from which the OpenAPI document is made.

use std::sync::Arc;

use hyper::{Method, StatusCode};

use super::schema::{Arguments, Field, Kind, optional, required};
use super::{PREFIX, Work, channels, clients, messages, node};
use crate::admin::Operator;
use crate::admin::answer::Refusal;
use crate::admin::keys::Scope;

/// A path with a method.
pub(in crate::admin) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The name in programs that are made from the OpenAPI document.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) scope: Scope,
    pub(super) query: &'static [Field],
    /// Empty: the request has no body.
    pub(super) body: &'static [Field],
    pub(super) answer: &'static [Field],
    /// An idempotency key may be given.
    pub(super) is_once: bool,
    pub(super) run: fn(Arc<Operator>, Arguments) -> Work,
}

const ANY: Kind = Kind::Integer(0, u64::MAX);
const TEXT: Kind = Kind::Text(1 << 20);

const CLIENT: Field = required("client", Kind::Client, "The client.");
const CHANNEL: Field = required("channel", Kind::Channel, "The channel.");
const AFTER: Field = optional("after", Kind::Text(1024), "Continue after this: `next` of the page before.");
const NEXT: Field = optional("next", TEXT, "Where the next page begins; missing on the last page.");
const LIMIT: Field = optional("limit", Kind::Integer(1, 1000), "The most entries of a page. Default 100.");

const MESSAGE: &[Field] = &[
    CHANNEL,
    optional(
        "data",
        Kind::Json,
        "The data, as JSON. JMQT clients receive it byte for byte. One of data, text and base64 is needed.",
    ),
    optional(
        "text",
        TEXT,
        "The data, as text: a JSON string for JMQT clients, the payload for MQTT clients.",
    ),
    optional("base64", TEXT, "The data, as bytes in Base64."),
    optional("qos", Kind::Integer(0, 1), "0, the default, or 1: stored, and delivered until acknowledged."),
    optional("retain", Kind::Switch, "Keep the message for later subscribers."),
    optional("sender", Kind::Client, "Publish as this client, which does not receive the message itself."),
];

const RETAINED: &[Field] = &[
    CHANNEL,
    optional("data", Kind::Json, "As of publish."),
    optional("text", TEXT, "As of publish."),
    optional("base64", TEXT, "As of publish."),
];

const CONNECTION: &[Field] = &[
    CLIENT,
    required("node", TEXT, "The node, or \"single\" without a cluster."),
    required("address", TEXT, "The address of the client."),
    required("protocol", Kind::Word(&["jmqt", "mqtt"]), "The language of the client."),
    required("transport", Kind::Word(&["tcp", "tls", "ws", "wss"]), "How the client is connected."),
    optional("since", ANY, "When the session began, in seconds since 1970. Known for clients of this node."),
];

const LOAD: &[Field] = &[
    CLIENT,
    required("address", TEXT, "The address of the client."),
    required("queued_bytes", ANY, "Bytes that wait for the client to read them."),
    required("in_flight", ANY, "QoS 1 and 2 pushes that the client has not acknowledged."),
    required(
        "window_full",
        Kind::Switch,
        "The client must acknowledge before it receives more QoS 1 pushes.",
    ),
];

const SUBSCRIPTION: &[Field] = &[
    optional("channel", TEXT, "The channel; or a filter."),
    optional("filter", TEXT, "The filter."),
    required("persistent", Kind::Switch, "The subscription outlives the connection."),
];

const PENDING: &[Field] = &[
    optional("channel", TEXT, "The channel; or a filter."),
    optional("filter", TEXT, "The filter."),
    required("messages", ANY, "Messages that the store keeps for the client."),
];

const NOTHING: &[Field] = &[];

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "POST",
        path: "/api/v1/publish",
        name: "publish",
        about: "Publish a message. With QoS 1 the answer comes when the message is on disk.",
        scope: Scope::Write,
        query: NOTHING,
        body: MESSAGE,
        answer: &[required("published", Kind::Switch, "true")],
        is_once: true,
        run: |operator, arguments| Box::pin(messages::publish(operator, arguments)),
    },
    Route {
        method: "POST",
        path: "/api/v1/publish-many",
        name: "publishMany",
        about: "Publish up to 1000 messages. Each is published or refused by itself; those with QoS 1 keep their order.",
        scope: Scope::Write,
        query: NOTHING,
        body: &[required("messages", Kind::List(1000, MESSAGE), "The messages.")],
        answer: &[
            required("published", ANY, "How many were published."),
            required(
                "refused",
                Kind::List(
                    1000,
                    &[
                        required("index", ANY, "The place of the message in the list, from 0."),
                        required("what", TEXT, "What is wrong."),
                        required("where", TEXT, "The place."),
                        required("expected", TEXT, "What would be right."),
                    ],
                ),
                "Those that were not.",
            ),
        ],
        is_once: true,
        run: |operator, arguments| Box::pin(messages::publish_many(operator, arguments)),
    },
    Route {
        method: "POST",
        path: "/api/v1/subscribe",
        name: "subscribe",
        about: "Subscribe a client to a channel, without asking it or the validators.",
        scope: Scope::Write,
        query: NOTHING,
        body: &[
            CLIENT,
            CHANNEL,
            optional(
                "persistent",
                Kind::Switch,
                "The subscription outlives the connection, and the client may be absent. Default false.",
            ),
        ],
        answer: &[required("subscribed", Kind::Switch, "true")],
        is_once: false,
        run: |operator, arguments| Box::pin(channels::subscribe(operator, arguments)),
    },
    Route {
        method: "POST",
        path: "/api/v1/unsubscribe",
        name: "unsubscribe",
        about: "End the subscription of a client, connected or not.",
        scope: Scope::Write,
        query: NOTHING,
        body: &[CLIENT, CHANNEL],
        answer: &[required("existed", Kind::Switch, "The client had the subscription.")],
        is_once: false,
        run: |operator, arguments| Box::pin(channels::unsubscribe(operator, arguments)),
    },
    Route {
        method: "POST",
        path: "/api/v1/disconnect",
        name: "disconnect",
        about: "Close the connection of a client, on any node.",
        scope: Scope::Write,
        query: NOTHING,
        body: &[
            CLIENT,
            optional("message", Kind::Text(120), "For the user of the client."),
            optional("keep_out", Kind::Switch, "The client must not reconnect by itself. Default false."),
        ],
        answer: &[required("existed", Kind::Switch, "The client was connected.")],
        is_once: false,
        run: |operator, arguments| Box::pin(clients::disconnect(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/connections",
        name: "connections",
        about: "The clients that have a session, on any node, in the order of their ids.",
        scope: Scope::Read,
        query: &[
            LIMIT,
            AFTER,
            optional("begins", Kind::Text(256), "Only clients whose ids begin with this."),
            optional("contains", Kind::Text(256), "Only clients whose ids contain this."),
            optional("protocol", Kind::Word(&["jmqt", "mqtt"]), "Only clients of this language."),
            optional("here", Kind::Switch, "Only clients of this node."),
        ],
        body: NOTHING,
        answer: &[
            required("connections", Kind::List(1000, CONNECTION), "The page."),
            required("matching", ANY, "How many there are, on all pages."),
            NEXT,
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(clients::connections(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/connection",
        name: "connection",
        about: "Everything about one client, connected or remembered.",
        scope: Scope::Read,
        query: &[CLIENT],
        body: NOTHING,
        answer: &[
            CLIENT,
            required("connected", Kind::Switch, "The client has a session on a node."),
            required("remembered", Kind::Switch, "The store keeps a session for the client."),
            optional("connection", Kind::Object(CONNECTION), "The connection, if it is connected."),
            optional(
                "load",
                Kind::Object(LOAD),
                "What waits for the client, if it is connected to this node.",
            ),
            required(
                "subscriptions",
                Kind::List(1000, SUBSCRIPTION),
                "The first 1000 subscriptions; of an absent client those that are kept.",
            ),
            required("subscription_count", ANY, "How many there are."),
            required(
                "pending",
                Kind::List(1000, PENDING),
                "The messages that the store keeps, for the first 1000 subscriptions that have some.",
            ),
            required("pending_messages", ANY, "How many there are in all."),
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(clients::connection(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/slow-consumers",
        name: "slowConsumers",
        about: "The clients of this node that leave most bytes unread, or must acknowledge first.",
        scope: Scope::Read,
        query: &[LIMIT],
        body: NOTHING,
        answer: &[required("clients", Kind::List(1000, LOAD), "Those that leave most unread first.")],
        is_once: false,
        run: |operator, arguments| Box::pin(clients::slow(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/subscriptions",
        name: "subscriptions",
        about: "The clients of this node that are subscribed to a channel, in the order of their ids.",
        scope: Scope::Read,
        query: &[CHANNEL, LIMIT, AFTER],
        body: NOTHING,
        answer: &[
            required(
                "subscriptions",
                Kind::List(
                    1000,
                    &[CLIENT, required("persistent", Kind::Switch, "It outlives the connection.")],
                ),
                "The page.",
            ),
            required("matching", ANY, "How many there are, on all pages."),
            NEXT,
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(channels::subscriptions(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/retained",
        name: "retainedChannels",
        about: "The channels with a retained message, in the order of their names.",
        scope: Scope::Read,
        query: &[
            optional("filter", Kind::Text(512), "Only channels that this MQTT filter matches. Default #."),
            AFTER,
        ],
        body: NOTHING,
        answer: &[
            required(
                "channels",
                Kind::List(1000, &[CHANNEL]),
                "The page, which may be short or empty before the last one.",
            ),
            NEXT,
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(messages::retained_channels(operator, arguments)),
    },
    Route {
        method: "PUT",
        path: "/api/v1/retained",
        name: "setRetained",
        about: "Publish a retained message with QoS 1.",
        scope: Scope::Write,
        query: NOTHING,
        body: RETAINED,
        answer: &[required("published", Kind::Switch, "true")],
        is_once: false,
        run: |operator, arguments| Box::pin(messages::set_retained(operator, arguments)),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/retained",
        name: "clearRetained",
        about: "Delete the retained message of a channel.",
        scope: Scope::Write,
        query: &[CHANNEL],
        body: NOTHING,
        answer: &[required("existed", Kind::Switch, "The channel had one.")],
        is_once: false,
        run: |operator, arguments| Box::pin(messages::clear_retained(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/retained/message",
        name: "retained",
        about: "The retained message of a channel.",
        scope: Scope::Read,
        query: &[CHANNEL],
        body: NOTHING,
        answer: &[
            CHANNEL,
            optional("sender", Kind::Client, "The client that published it; missing if the server did."),
            required(
                "data",
                Kind::Json,
                "The data as JMQT clients receive it. A program may read numbers with less precision.",
            ),
            required("base64", TEXT, "The bytes as they were published."),
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(messages::retained(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/pending",
        name: "pending",
        about: "The messages that the store keeps for a client, by channel.",
        scope: Scope::Read,
        query: &[CLIENT],
        body: NOTHING,
        answer: &[
            required("pending", Kind::List(1000, PENDING), "The first 1000 subscriptions that have some."),
            required("messages", ANY, "How many there are in all."),
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(messages::pending(operator, arguments)),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/pending",
        name: "purgePending",
        about: "Drop the messages that the store keeps for an absent client. Its subscriptions stay. Refused while the client is connected.",
        scope: Scope::Write,
        query: &[CLIENT],
        body: NOTHING,
        answer: &[required("dropped", ANY, "How many were dropped.")],
        is_once: false,
        run: |operator, arguments| Box::pin(messages::purge(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/nodes",
        name: "nodes",
        about: "The nodes of the cluster.",
        scope: Scope::Read,
        query: NOTHING,
        body: NOTHING,
        answer: &[
            required(
                "nodes",
                Kind::List(
                    1000,
                    &[
                        required("node", TEXT, "The id, or \"single\" without a cluster."),
                        required("this", Kind::Switch, "The node that answers."),
                        required("present", Kind::Switch, "It was heard within the last seconds."),
                    ],
                ),
                "Those that are not known to be dead.",
            ),
            required("version", TEXT, "The version of this node."),
            required("draining", Kind::Switch, "This node is stopping, or was drained."),
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(node::nodes(operator, arguments)),
    },
    Route {
        method: "GET",
        path: "/api/v1/counters",
        name: "counters",
        about: "The counters of this node since its start.",
        scope: Scope::Read,
        query: NOTHING,
        body: NOTHING,
        answer: &[
            required("counters", Kind::Anything, "Name and value."),
            required("uptime_seconds", ANY, "How long the server has been running."),
            required("sessions", ANY, "Sessions on this node."),
            required("subscriptions", ANY, "Subscriptions of connected clients on this node."),
            required("queued_bytes", ANY, "Bytes that wait for clients to read them."),
            required("in_flight", ANY, "QoS 1 and 2 pushes that clients have not acknowledged."),
        ],
        is_once: false,
        run: |operator, arguments| Box::pin(node::counters(operator, arguments)),
    },
    Route {
        method: "POST",
        path: "/api/v1/drain",
        name: "drain",
        about: "Close the listeners of this node, and its sessions one by one, as when it stops. The process goes on, and must be restarted to serve clients again.",
        scope: Scope::Write,
        query: NOTHING,
        body: &[required(
            "node",
            TEXT,
            "The id of this node, from nodes: so that no other node is drained by mistake.",
        )],
        answer: &[required("sessions", ANY, "How many sessions are being closed.")],
        is_once: false,
        run: |operator, arguments| Box::pin(node::drain(operator, arguments)),
    },
];

/// The route of a request.
pub(super) fn find(method: &Method, path: &str) -> Result<&'static Route, Refusal> {
    // HEAD is a GET without the body, which hyper leaves out.
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let mut here = ROUTES.iter().filter(|route| route.path == path).peekable();
    let Some(first) = here.peek() else {
        let expected = format!("one of the paths in {PREFIX}openapi.json");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path", "path", expected));
    };
    let allowed = if first.method == "POST" {
        "POST"
    } else {
        match ROUTES.iter().filter(|route| route.path == path).count() {
            3 => "GET, HEAD, PUT, DELETE",
            2 => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    };
    here.find(|route| route.method == method).ok_or_else(|| Refusal::method(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_methods_and_no_others() {
        let found = |method: Method, path: &str| {
            find(&method, path).map(|route| route.name).map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(found(Method::GET, "/api/v1/retained"), Ok("retainedChannels"));
        assert_eq!(found(Method::HEAD, "/api/v1/retained"), Ok("retainedChannels"));
        assert_eq!(found(Method::DELETE, "/api/v1/retained"), Ok("clearRetained"));
        assert_eq!(found(Method::POST, "/api/v1/retained"), Err(405));
        assert_eq!(
            find(&Method::GET, "/api/v1/publish").err().map(|it| it.expected.into_owned()),
            Some("POST".to_owned())
        );
        for nothing in [
            "/api/v1/",
            "/api/v1/publish/",
            "/api/v1//publish",
            "/api/v1/../v1/publish",
            "/api/v1/%70ublish",
            "/API/v1/publish",
        ] {
            assert_eq!(found(Method::POST, nothing), Err(404), "{nothing}");
        }
    }

    #[test]
    fn whatever_changes_something_needs_a_key_that_writes() {
        for route in ROUTES {
            assert_eq!(route.scope == Scope::Read, route.method == "GET", "{}", route.name);
            assert!(
                route.path.starts_with(PREFIX) && (route.body.is_empty() || route.query.is_empty()),
                "{}",
                route.name
            );
        }
    }
}
