//! The admin API.

use jmqt_server::Protocol;
use jmqt_server::admin::{Scope, add_key, remove_key};
use serde_json::{Value, json};

use super::http::{Operator, Response};
use super::with_operator;
use crate::support::{TestServer, client_id, within};

const JSON: &str = "Content-Type: application/json\r\n";

/// A server with keys, and operators who may write, read, and read metrics.
struct Keyed {
    server: TestServer,
    writer: Operator,
    reader: Operator,
    scraper: Operator,
    nobody: Operator,
    file: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Keyed {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.keys");
        let keys = [Scope::Write, Scope::Read, Scope::Metrics]
            .map(|scope| add_key(&file, scope.as_str(), scope).unwrap());
        let (server, nobody) = with_operator(|config| config.admin_keys_file = Some(file.clone())).await;
        let [writer, reader, scraper] = keys.map(|key| nobody.with_key(&key));
        Self { server, writer, reader, scraper, nobody, file, _folder: folder }
    }

    async fn post(&self, path: &str, body: Value) -> Response {
        self.writer.request("POST", &format!("/api/v1/{path}"), JSON, &body.to_string()).await
    }

    #[track_caller]
    fn done(response: &Response) -> Value {
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    async fn get(&self, path: &str) -> Value {
        Self::done(&self.reader.get(&format!("/api/v1/{path}")).await)
    }
}

/// Checks that an error says what, where and what was expected.
#[track_caller]
fn refused(response: &Response, status: u16, place: &str) {
    assert_eq!(response.status, status, "{response:?}");
    let error = &response.json()["error"];
    assert_eq!(error["where"], place, "{response:?}");
    for member in ["what", "expected"] {
        assert!(error[member].as_str().is_some_and(|text| !text.is_empty()), "{response:?}");
    }
}

#[tokio::test]
async fn a_published_message_reaches_subscribers_byte_for_byte() {
    let keyed = Keyed::start().await;
    let mut alice = keyed.server.connect("alice").await;
    alice.sub("news").await;
    let body = r#"{"channel":"news","data":{"a": 1.50},"qos":1}"#;
    let done = keyed.writer.request("POST", "/api/v1/publish", JSON, body).await;
    assert_eq!(Keyed::done(&done), json!({ "published": true }));
    let push = alice.next_push().await;
    assert_eq!((push.data(), push.client()), (r#"{"a": 1.50}"#, ""));
    Keyed::done(&keyed.post("publish", json!({ "channel": "news", "text": "hello", "sender": "bob" })).await);
    let push = alice.next_push().await;
    assert_eq!((push.data(), push.client()), ("\"hello\"", "bob"));
    let many = json!({ "messages": [
        { "channel": "news", "data": 1 }, { "channel": "$news", "data": 2 }, { "channel": "news" }, { "channel": "news", "base64": "AAE=" },
    ] });
    let answer = Keyed::done(&keyed.post("publish-many", many).await);
    assert_eq!(answer["published"], 2);
    let at: Vec<_> =
        answer["refused"].as_array().unwrap().iter().map(|it| it["index"].as_u64().unwrap()).collect();
    assert_eq!(at, [1, 2]);
    assert_eq!(alice.next_push().await.data(), "1");
    alice.next_push().await;
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_is_done_once() {
    let keyed = Keyed::start().await;
    let mut alice = keyed.server.connect("alice").await;
    alice.sub("orders").await;
    let headers = format!("{JSON}Idempotency-Key: order-7\r\n");
    let ask = |body: &'static str| keyed.writer.request("POST", "/api/v1/publish", &headers, body);
    let first = ask(r#"{"channel":"orders","data":7}"#).await;
    let second = ask(r#"{"channel":"orders","data":7}"#).await;
    assert_eq!(
        (Keyed::done(&first), Keyed::done(&second)),
        (json!({ "published": true }), json!({ "published": true }))
    );
    assert_eq!(alice.next_push().await.data(), "7");
    alice.expect_nothing_before_hb().await;
    refused(&ask(r#"{"channel":"orders","data":8}"#).await, 422, "header Idempotency-Key");
    let subscribe =
        keyed.writer.request("POST", "/api/v1/subscribe", &headers, r#"{"client":"a","channel":"b"}"#).await;
    refused(&subscribe, 400, "header Idempotency-Key");
}

#[tokio::test]
async fn clients_are_subscribed_unsubscribed_and_disconnected() {
    let keyed = Keyed::start().await;
    let mut alice = keyed.server.connect("alice").await;
    let subscription = json!({ "client": "alice", "channel": "news", "persistent": true });
    Keyed::done(&keyed.post("subscribe", subscription).await);
    assert_eq!(
        keyed.get("subscriptions?channel=news").await,
        json!({
            "subscriptions": [{ "client": "alice", "persistent": true }], "matching": 1,
        })
    );
    let nobody = keyed.post("subscribe", json!({ "client": "bob", "channel": "news" })).await;
    refused(&nobody, 409, "body.client");
    let ended = keyed.post("unsubscribe", json!({ "client": "alice", "channel": "news" })).await;
    assert_eq!(Keyed::done(&ended), json!({ "existed": true }));
    let kick = json!({ "client": "alice", "message": "see you", "keep_out": true });
    assert_eq!(Keyed::done(&keyed.post("disconnect", kick.clone()).await), json!({ "existed": true }));
    let told = alice.told().await;
    assert!(format!("{told:?}").contains("see you"), "{told:?}");
    let again = within("gone", async {
        loop {
            let answer = Keyed::done(&keyed.post("disconnect", kick.clone()).await);
            if answer["existed"] == false {
                return answer;
            }
        }
    });
    assert_eq!(again.await, json!({ "existed": false }));
}

#[tokio::test]
async fn connections_are_listed_in_pages_and_filtered() {
    let keyed = Keyed::start().await;
    let mut clients = Vec::new();
    for name in ["b", "a", "d"] {
        clients.push(keyed.server.connect(name).await);
    }
    clients.push(keyed.server.websocket("c").await);
    let ids = |page: &Value| -> Vec<String> {
        page["connections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["client"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = keyed.get("connections?limit=3").await;
    assert_eq!(
        (ids(&first), &first["matching"], &first["next"]),
        (vec!["a".into(), "b".into(), "c".into()], &json!(4), &json!("c"))
    );
    let second = keyed.get("connections?limit=3&after=c").await;
    assert_eq!((ids(&second), second.get("next")), (vec!["d".to_owned()], None));
    assert_eq!(ids(&keyed.get("connections?begins=c").await), ["c"]);
    assert_eq!(keyed.get("connections?protocol=mqtt").await["matching"], 0);
    let entry = &first["connections"][2];
    assert_eq!(
        (&entry["transport"], &entry["protocol"], &entry["node"]),
        (&json!("ws"), &json!("jmqt"), &json!("single"))
    );
    assert!(
        entry["since"].as_u64().unwrap() > 1_700_000_000
            && entry["address"].as_str().unwrap().starts_with("127.0.0.1:")
    );
}

#[tokio::test]
async fn one_connection_is_shown_with_everything_about_it() {
    let keyed = Keyed::start().await;
    let mut alice = keyed.server.connect("alice").await;
    alice.sub_persistent("news").await;
    alice.sub("weather").await;
    let one = keyed.get("connection?client=alice").await;
    assert_eq!(
        (&one["connected"], &one["subscription_count"]),
        (&json!(true), &json!(3)),
        "with its own channel: {one}"
    );
    assert!(
        one["subscriptions"].as_array().unwrap().contains(&json!({ "channel": "news", "persistent": true }))
    );
    assert_eq!((&one["load"]["in_flight"], &one["connection"]["transport"]), (&json!(0), &json!("tcp")));
    refused(&keyed.reader.get("/api/v1/connection?client=nobody").await, 404, "parameter client");
}

#[tokio::test]
async fn pending_messages_of_an_absent_client_are_shown_and_dropped() {
    let keyed = Keyed::start().await;
    let mut alice = keyed.server.connect("alice").await;
    alice.sub_persistent("news").await;
    refused(
        &keyed.writer.request("DELETE", "/api/v1/pending?client=alice", "", "").await,
        409,
        "parameter client",
    );
    drop(alice);
    within("absent", async {
        while keyed.server.handle().is_connected(&client_id("alice")) {
            tokio::task::yield_now().await
        }
    })
    .await;
    for number in 0..3 {
        Keyed::done(&keyed.post("publish", json!({ "channel": "news", "data": number, "qos": 1 })).await);
    }
    assert_eq!(
        keyed.get("pending?client=alice").await,
        json!({ "pending": [{ "channel": "news", "messages": 3 }], "messages": 3 })
    );
    let one = keyed.get("connection?client=alice").await;
    assert_eq!(
        (&one["connected"], &one["remembered"], &one["pending_messages"]),
        (&json!(false), &json!(true), &json!(3))
    );
    // The session may still be ending.
    let purged = within("purged", async {
        loop {
            let purged = keyed.writer.request("DELETE", "/api/v1/pending?client=alice", "", "").await;
            if purged.status != 409 {
                return purged;
            }
        }
    })
    .await;
    assert_eq!(Keyed::done(&purged), json!({ "dropped": 3 }));
    Keyed::done(&keyed.post("publish", json!({ "channel": "news", "data": "later", "qos": 1 })).await);
    let mut alice = keyed.server.connect("alice").await;
    assert_eq!(
        alice.next_push().await.data(),
        "\"later\"",
        "the subscription is still there, and only this message"
    );
    refused(
        &keyed.writer.request("DELETE", "/api/v1/pending?client=nobody", "", "").await,
        404,
        "parameter client",
    );
}

#[tokio::test]
async fn retained_messages_are_set_listed_read_and_deleted() {
    let keyed = Keyed::start().await;
    for name in ["rooms/1/light", "rooms/2/light", "weather"] {
        let body = json!({ "channel": name, "data": { "on": true } }).to_string();
        Keyed::done(&keyed.writer.request("PUT", "/api/v1/retained", JSON, &body).await);
    }
    let all = keyed.get("retained").await;
    assert_eq!(all["channels"].as_array().unwrap().len(), 3, "{all}");
    let lights = keyed.get("retained?filter=rooms%2F%2B%2Flight").await;
    assert_eq!(lights["channels"], json!([{ "channel": "rooms/1/light" }, { "channel": "rooms/2/light" }]));
    let one = keyed.get("retained/message?channel=weather").await;
    assert_eq!((&one["data"], &one["base64"]), (&json!({ "on": true }), &json!("eyJvbiI6dHJ1ZX0=")));
    let cleared = || keyed.writer.request("DELETE", "/api/v1/retained?channel=weather", "", "");
    assert_eq!(Keyed::done(&cleared().await), json!({ "existed": true }));
    assert_eq!(Keyed::done(&cleared().await), json!({ "existed": false }));
    refused(&keyed.reader.get("/api/v1/retained/message?channel=weather").await, 404, "parameter channel");
}

#[tokio::test]
async fn nodes_counters_and_slow_consumers_are_shown() {
    let keyed = Keyed::start().await;
    let mut slow = keyed.server.connect_with_window("slow", 1).await;
    slow.sub("news").await;
    assert_eq!(
        keyed.get("nodes").await["nodes"],
        json!([{ "node": "single", "this": true, "present": true }])
    );
    for number in 0..3 {
        Keyed::done(&keyed.post("publish", json!({ "channel": "news", "data": number, "qos": 1 })).await);
    }
    let clients = keyed.get("slow-consumers").await;
    let entry = &clients["clients"][0];
    assert_eq!(
        (&entry["client"], &entry["in_flight"], &entry["window_full"]),
        (&json!("slow"), &json!(1), &json!(true)),
        "{clients}"
    );
    assert!(entry["queued_bytes"].as_u64().unwrap() > 0);
    let counters = keyed.get("counters").await;
    assert_eq!(
        (&counters["sessions"], &counters["counters"]["messages_published"]),
        (&json!(1), &json!(3)),
        "{counters}"
    );
}

#[tokio::test]
async fn a_drained_node_closes_its_sessions_and_listeners_and_goes_on() {
    let mut keyed = Keyed::start().await;
    let mut alice = keyed.server.connect("alice").await;
    refused(&keyed.post("drain", json!({ "node": "another" })).await, 400, "body.node");
    assert_eq!(
        Keyed::done(&keyed.post("drain", json!({ "node": "single" })).await),
        json!({ "sessions": 1 })
    );
    alice.closed().await;
    assert_eq!(keyed.nobody.get("/readyz").await.status, 503);
    assert_eq!(keyed.get("nodes").await["draining"], true);
    let address = keyed.server.address(Protocol::Socket);
    within("the listener", async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await
        }
    })
    .await;
    keyed.server.shutdown().await;
}

#[tokio::test]
async fn a_key_is_needed_and_its_scope_decides() {
    let keyed = Keyed::start().await;
    let publish = json!({ "channel": "news", "data": 1 }).to_string();
    let ask = |operator: &Operator| {
        let (operator, publish) = (operator.clone(), publish.clone());
        async move {
            let written = operator.request("POST", "/api/v1/publish", JSON, &publish).await.status;
            let read = operator.get("/api/v1/nodes").await.status;
            (written, read, operator.get("/metrics").await.status, operator.get("/readyz").await.status)
        }
    };
    assert_eq!(ask(&keyed.writer).await, (200, 200, 200, 200));
    assert_eq!(ask(&keyed.reader).await, (403, 200, 200, 200));
    assert_eq!(ask(&keyed.scraper).await, (403, 403, 200, 200));
    assert_eq!(ask(&keyed.nobody).await, (401, 401, 401, 200));
    let wrong = keyed.nobody.with_key("jmqt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    for _ in 0..10 {
        let refusal = wrong.get("/api/v1/nodes").await;
        assert!(matches!(refusal.status, 401 | 429) && !refusal.body.contains("AAAA"), "{refusal:?}");
    }
    let late = wrong.get("/api/v1/nodes").await;
    assert!(late.status == 429 && late.head.contains("retry-after: "), "{late:?}");
    assert_eq!(keyed.reader.get("/api/v1/nodes").await.status, 200, "others do not lock its owner out");
    assert!(keyed.nobody.get("/api/v1/nothing").await.status != 404, "nobody learns which paths there are");
}

#[tokio::test]
async fn keys_are_read_again_when_their_file_changes() {
    let keyed = Keyed::start().await;
    let added = keyed.nobody.with_key(&add_key(&keyed.file, "new", Scope::Read).unwrap());
    within("the new key", async { while added.get("/api/v1/nodes").await.status != 200 {} }).await;
    assert_eq!(keyed.reader.get("/api/v1/nodes").await.status, 200, "both are valid");
    remove_key(&keyed.file, "read").unwrap();
    within("the old key", async { while keyed.reader.get("/api/v1/nodes").await.status == 200 {} }).await;
}

#[tokio::test]
async fn without_a_file_with_keys_there_is_no_api() {
    let (_server, operator) = with_operator(|_| {}).await;
    refused(&operator.with_key("jmqt_x").get("/api/v1/nodes").await, 404, "path");
    assert_eq!(operator.get("/api/v1/openapi.json").await.status, 200);
}

#[tokio::test] // a page of another host can send neither this content type nor the key without being asked first
async fn requests_that_a_page_could_forge_are_refused() {
    let keyed = Keyed::start().await;
    let body = r#"{"channel":"news","data":1}"#;
    for content_type in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json-x\r\n",
    ] {
        let forged = keyed.writer.request("POST", "/api/v1/publish", content_type, body).await;
        refused(&forged, 415, "header Content-Type");
    }
    let of_page = format!("{JSON}Origin: http://evil.example\r\n");
    refused(&keyed.writer.request("POST", "/api/v1/publish", &of_page, body).await, 403, "header Origin");
    let asked_first = keyed
        .nobody
        .request(
            "OPTIONS",
            "/api/v1/publish",
            "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n",
            "",
        )
        .await;
    assert!(asked_first.status >= 400 && !asked_first.head.contains("access-control-"), "{asked_first:?}");
    let in_target = keyed.nobody.get("/api/v1/nodes?key=jmqt_x").await;
    assert_eq!(in_target.status, 401, "a key in the address would be in logs");
}

#[tokio::test]
async fn mistakes_are_named_with_their_place() {
    let keyed = Keyed::start().await;
    let ask = |body: &'static str| keyed.writer.request("POST", "/api/v1/publish", JSON, body);
    refused(&ask("{").await, 400, "body");
    refused(&ask(r#"{"channel":"$control","data":1}"#).await, 400, "body.channel");
    refused(&ask(r#"{"channel":"news"}"#).await, 400, "body");
    refused(&ask(r#"{"channel":"news","data":1,"text":"x"}"#).await, 400, "body");
    refused(&ask(r#"{"channel":"news","base64":"!"}"#).await, 400, "body.base64");
    refused(&ask(r#"{"channel":"news","data":1,"qos":2}"#).await, 400, "body.qos");
    refused(&ask(r#"{"channel":"alice","data":1,"quos":1}"#).await, 400, "body.quos");
    refused(&ask(r##"{"channel":"#alice","data":1,"sender":"alice"}"##).await, 400, "body.sender");
    refused(&keyed.reader.get("/api/v1/connections?limit=1001").await, 400, "parameter limit");
    refused(&keyed.reader.get("/api/v1/connections?limt=1").await, 400, "parameter limt");
    refused(&keyed.reader.get("/api/v1/connection").await, 400, "parameter client");
    refused(&keyed.reader.get("/api/v1/nothing").await, 404, "path");
    let post = keyed.reader.request("POST", "/api/v1/nodes", JSON, "{}").await;
    refused(&post, 405, "method");
    assert!(post.head.contains("allow: get, head"), "{post:?}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let keyed = Keyed::start().await;
    let large = format!("{{\"channel\":\"news\",\"text\":\"{}\"}}", "x".repeat(1 << 20));
    refused(&keyed.writer.request("POST", "/api/v1/publish", JSON, &large).await, 413, "body");
    let fits = format!("{{\"channel\":\"news\",\"text\":\"{}\"}}", "x".repeat((1 << 20) - 100));
    assert_eq!(keyed.writer.request("POST", "/api/v1/publish", JSON, &fits).await.status, 200);
}

/// Checks that an answer has what the schema describes.
#[track_caller]
fn check(value: &Value, schema: &Value, place: &str) {
    let kind = schema["type"].as_str().unwrap_or_default();
    let is_right = match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    assert!(is_right, "{place} is {value}, not {kind}");
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{place} has no {required}: {value}");
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, member) in value.as_object().unwrap() {
            let described = properties.get(name).unwrap_or_else(|| panic!("{place}.{name} is not described"));
            check(member, described, &format!("{place}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        check(item, &schema["items"], &format!("{place}[]"));
    }
}

#[tokio::test]
async fn answers_are_as_the_openapi_document_describes_them() {
    let keyed = Keyed::start().await;
    let mut alice = keyed.server.connect_with_window("alice", 1).await;
    alice.sub_persistent("news").await;
    let retained = json!({ "channel": "news", "data": 1 }).to_string();
    Keyed::done(&keyed.writer.request("PUT", "/api/v1/retained", JSON, &retained).await);
    keyed.server.handle().subscriptions(&client_id("alice")).await.unwrap();
    let document = keyed.nobody.get("/api/v1/openapi.json").await.json();
    let schema = |path: &str, method: &str| {
        let operation = &document["paths"][format!("/api/v1/{path}")][method];
        operation["responses"]["200"]["content"]["application/json"]["schema"].clone()
    };
    for (path, query) in [
        ("connections", ""),
        ("connection", "?client=alice"),
        ("slow-consumers", ""),
        ("subscriptions", "?channel=news"),
        ("retained", ""),
        ("retained/message", "?channel=news"),
        ("pending", "?client=alice"),
        ("nodes", ""),
        ("counters", ""),
    ] {
        let schema = schema(path, "get");
        assert!(schema.is_object(), "{path}");
        check(&keyed.get(&format!("{path}{query}")).await, &schema, path);
    }
    let published = keyed.post("publish-many", json!({ "messages": [{ "channel": "news" }] })).await;
    check(&Keyed::done(&published), &schema("publish-many", "post"), "publish-many");
}

#[tokio::test]
async fn the_committed_openapi_document_is_that_of_the_code() {
    let (_server, operator) = with_operator(|_| {}).await;
    let served = operator.get("/api/v1/openapi.json").await.body;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os("JMQT_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &served).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(served == committed, "docs/openapi.json is old: run this test with JMQT_WRITE_OPENAPI=1");
}
