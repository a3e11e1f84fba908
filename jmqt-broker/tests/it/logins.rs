//! Who may log in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jmqt_client::mqtt::Client;
use serde_json::{Value, json};
use test_support::DEADLINE;

use crate::support::{Broker, Folder, refusal};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// A broker with the users `alice` and `alice-b`.
fn with_passwords(more: &str) -> Broker {
    let folder =
        Folder::new(&format!("AUTH = 'password_file{more}'\nPASSWORD_FILE = 'users.passwd'\nACL = 'none'"));
    folder.add_user("alice", "secret");
    folder.add_user("alice-b", "other");
    folder.start()
}

/// A JSON Web Token of [`SECRET`].
fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

#[tokio::test]
async fn users_log_in_with_their_passwords_in_both_languages() {
    let broker = with_passwords("");
    let client = broker.login("alice", "secret").await.unwrap();
    let assigned = client.information().unwrap();
    assert!(assigned.client_id.starts_with("alice:"), "{assigned:?}");
    broker.jmqt_client("alice", r#"{"username":"alice","password":"secret"}"#);
    for (user, password) in [("alice", "Secret"), ("alice", ""), ("bob", "secret"), ("", "")] {
        let refused = refusal(broker.login(user, password).await);
        // MQTT tells wrong credentials from missing ones.
        let code = if user.is_empty() { "0x87" } else { "0x86" };
        assert!(
            refused.contains("wrong credentials") && refused.contains(code),
            "{user} {password}: {refused}"
        );
        let mut jmqt = test_support::Client::open(broker.jmqt);
        jmqt.send(&format!(r#"{{"auth":{{"dt":{{"username":"{user}","password":"{password}"}}}}}}"#));
        jmqt.expect(r#"{"authAck":{"st":7,"#);
    }
    let log = broker.program.log_lines("");
    assert!(!log.concat().contains("ecret"), "no password is in the log: {log:?}");
}

#[tokio::test]
async fn nobody_has_the_client_id_of_another_user() {
    let broker = with_passwords(", anonymous");
    let with_id = async |user: &str, password: &str, id: &str| {
        let mut options = broker.options(user, password);
        options.client_id = id.to_owned();
        Client::connect(options).await
    };
    for id in ["alice", "alice:phone", "alice-phone", "alice-b", "alice-b:1", "sensor-7"] {
        let is_own = id == "alice" || id == "alice:phone";
        assert_eq!(with_id("alice", "secret", id).await.is_ok(), is_own, "alice as {id}");
        let refused = refusal(with_id("", "", id).await);
        assert!(refused.contains("use anonymous:1 or none"), "an anonymous client as {id}: {refused}");
    }
    assert!(with_id("alice-b", "other", "alice-b").await.is_ok());
    let refused = refusal(with_id("alice-b", "other", "alice").await);
    assert!(refused.contains("is not yours: use alice-b, alice-b:1 or none"), "{refused}");
    assert!(with_id("", "", "anonymous:7").await.is_ok());
}

#[tokio::test]
async fn any_client_id_that_is_not_that_of_a_user_is_allowed_if_the_configuration_says_so() {
    let folder = Folder::new(
        "AUTH = 'password_file, anonymous'\nPASSWORD_FILE = 'users.passwd'\nACL = 'none'\nCLIENT_IDS = 'ANY'",
    );
    folder.add_user("alice", "secret");
    folder.add_user("bob", "other");
    let broker = folder.start();
    for (id, is_allowed) in [("sensor-7", true), ("bob", true), ("alice", false), ("alice:1", false)] {
        let mut options = broker.options("bob", "other");
        options.client_id = id.to_owned();
        assert_eq!(Client::connect(options).await.is_ok(), is_allowed, "bob as {id}");
        let mut options = broker.options("", "");
        // The session of bob may not have ended yet.
        options.client_id = id.replace("sensor-7", "sensor-8");
        assert_eq!(Client::connect(options).await.is_ok(), id == "sensor-7", "an anonymous client as {id}");
    }
}

#[tokio::test]
async fn a_stored_session_belongs_to_the_user_who_began_it_whatever_its_client_id() {
    let folder = Folder::new(
        "AUTH = 'password_file, anonymous'\nPASSWORD_FILE = 'users.passwd'\nACL = 'none'\nCLIENT_IDS = 'ANY'",
    );
    folder.add_user("alice", "secret");
    folder.add_user("bob", "other");
    let broker = folder.start();
    let as_sensor = async |user: &str, password: &str, clean: bool| {
        let mut options = broker.options(user, password);
        (options.client_id, options.clean_start) = ("sensor-7".to_owned(), clean);
        options.session_expiry = Duration::from_secs(600);
        Client::connect(options).await
    };
    let sensor = as_sensor("alice", "secret", false).await.unwrap();
    for clean in [false, true] {
        for (user, password) in [("bob", "other"), ("", "")] {
            let refused = refusal(as_sensor(user, password, clean).await);
            assert!(refused.contains("0x87"), "{user}: {refused}");
        }
    }
    drop(sensor);
    assert!(as_sensor("bob", "other", false).await.is_err(), "also while alice is away");
    assert!(as_sensor("alice", "secret", false).await.is_ok());
}

/// An authority, and files of it in the folder of a broker.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Writes `FILE.pem` and `FILE.key` for this common name.
    fn issue(&self, folder: &Folder, file: &str, common_name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        folder.write(&format!("{file}.pem"), &certificate.pem());
        folder.write(&format!("{file}.key"), &key.serialize_pem());
    }
}

#[tokio::test]
async fn a_certificate_logs_in_the_user_that_it_names() {
    let authority = Authority::new();
    let folder = Folder::new(
        "AUTH = 'certificate, password_file'\nPASSWORD_FILE = 'users.passwd'\nACL = 'file'\nACL_FILE = 'rules.acl'\n\
         ENABLE_SSL = true\nSSL_CERT_PATH = 'server.pem'\nSSL_KEY_PATH = 'server.key'\nSSL_CLIENT_CERT = 'OPTIONAL'\n\
         SSL_CLIENT_CA_PATH = 'ca.pem'\nSSL_MQTT_PORT = 0\nSSL_SOCKET_PORT = ''\nSSL_WEBSOCKET_PORT = ''",
    );
    folder.add_user("bob", "b");
    folder.write("rules.acl", "allow all both home/%u/#\n");
    folder.write("ca.pem", &authority.0.pem());
    authority.issue(&folder, "server", "server");
    for (file, name) in [("lamp", "lamp-7"), ("odd", "a:b"), ("ghost", "anonymous")] {
        authority.issue(&folder, file, name);
    }
    Authority::new().issue(&folder, "forged", "lamp-7");
    let broker = folder.start_with(3);
    let port = broker.tls.unwrap().port();
    let with = |file: &str, login: Option<(&str, &str)>, id: &str| {
        let mut options = jmqt_client::mqtt::Options::url(&format!("mqtts://localhost:{port}")).unwrap();
        options.tls.ca_path = Some(broker.folder.path("ca.pem"));
        if !file.is_empty() {
            options.tls.cert_path = Some(broker.folder.path(&format!("{file}.pem")));
            options.tls.key_path = Some(broker.folder.path(&format!("{file}.key")));
        }
        if let Some((user, password)) = login {
            options = options.login(user, password);
        }
        options.client_id = id.to_owned();
        Client::connect(options)
    };
    let lamp = with("lamp", None, "").await.unwrap();
    assert!(lamp.information().unwrap().client_id.starts_with("lamp-7:"));
    assert!(lamp.subscribe("home/lamp-7/#", jmqt_client::mqtt::Qos::AtLeastOnce).await.is_ok());
    assert!(lamp.subscribe("home/bob/#", jmqt_client::mqtt::Qos::AtLeastOnce).await.is_err());
    assert!(with("lamp", None, "lamp-7:2").await.is_ok());
    assert!(with("lamp", None, "bob").await.is_err(), "the client id of somebody else");
    assert!(with("lamp", Some(("bob", "b")), "").await.is_ok(), "a password says who it is");
    assert!(with("lamp", Some(("bob", "wrong")), "").await.is_err());
    for file in ["odd", "ghost", "forged", ""] {
        assert!(with(file, None, "").await.is_err(), "{file:?}");
    }
}

#[tokio::test]
async fn a_token_of_the_broker_does_not_count_any_more_when_the_password_has_changed() {
    let broker = with_passwords("");
    let (client, token) = broker.jmqt_client("alice", r#"{"username":"alice","password":"secret"}"#);
    drop(client);
    let status = |token: &str| {
        let mut client = test_support::Client::open(broker.jmqt);
        client.send_conn("alice", token, "");
        client.expect(r#"{"connAck":{"st":"#)
    };
    assert!(status(&token).starts_with(r#"{"connAck":{"st":1,"#));
    broker.folder.add_user("alice", "changed");
    let start = Instant::now();
    while !status(&token).starts_with(r#"{"connAck":{"st":6"#) {
        assert!(start.elapsed() < DEADLINE, "the old token still counts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_anonymous_client_needs_no_credentials_if_the_configuration_says_so() {
    let broker = with_passwords(", anonymous");
    assert!(broker.login("", "").await.is_ok());
    assert!(broker.login("bob", "x").await.is_err(), "wrong credentials do not make anonymous");
    let mut client = test_support::Client::open(broker.jmqt);
    client.send(r#"{"auth":{"dt":null}}"#);
    let ack = client.expect(r#"{"authAck":{"st":1,"#);
    let ack: Value = serde_json::from_str(&ack).unwrap();
    let (id, token) = (ack["authAck"]["cl"].as_str().unwrap(), ack["authAck"]["at"].as_str().unwrap());
    assert!(id.starts_with("anonymous:"), "{id}");
    client.send_conn(id, token, "");
    client.expect(r#"{"connAck":{"st":1,"ts":"#);
}

#[tokio::test]
async fn users_are_added_and_removed_while_the_broker_runs() {
    let broker = with_passwords("");
    let (client, token) = broker.jmqt_client("alice", r#"{"username":"alice","password":"secret"}"#);
    drop(client);
    broker.folder.add_user("carol", "third");
    let removed = broker.folder.run(&["passwd", "--delete", "users.passwd", "alice"]);
    assert!(removed.status.success());
    let start = Instant::now();
    while broker.login("carol", "third").await.is_err() || broker.login("alice", "secret").await.is_ok() {
        assert!(start.elapsed() < DEADLINE, "the file was not read again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut client = test_support::Client::open(broker.jmqt);
    client.send_conn("alice", &token, "");
    client.expect(r#"{"connAck":{"st":6"#);
}

#[tokio::test]
async fn a_json_web_token_logs_in_and_ends_the_session_when_it_expires() {
    let folder = Folder::new("AUTH = 'jwt'\nJWT_SECRET_FILE = 'jwt.key'\nJWT_ISSUER = 'me'\nACL = 'none'");
    folder.write("jwt.key", SECRET);
    let broker = folder.start();
    let claims = |seconds| json!({"sub": "alice", "iss": "me", "exp": in_seconds(seconds)});
    let right = token(&claims(600));
    assert!(broker.login("whatever", &right).await.is_ok());
    let (client, back) = broker.jmqt_client("alice", &json!({"token": right}).to_string());
    assert_eq!(back, right, "the client comes back with its own token");
    drop(client);
    let mut client = test_support::Client::open(broker.jmqt);
    client.send_conn("alice", &right, "");
    client.expect(r#"{"connAck":{"st":1,"ts":"#);
    let mut other = test_support::Client::open(broker.jmqt);
    other.send_conn("bob", &right, "");
    other.expect(r#"{"connAck":{"st":6"#);

    let of_another = token(&json!({"sub": "alice", "iss": "you", "exp": in_seconds(600)}));
    assert!(broker.login("alice", &of_another).await.is_err());
    assert!(broker.login("alice", "secret").await.is_err());

    let (mut short, _) = broker.jmqt_client(
        "alice:2",
        &json!({"token": token(&json!({
            "sub": "alice", "client_id": "alice:2", "iss": "me", "exp": in_seconds(2)
        }))})
        .to_string(),
    );
    short.expect_exactly(r#"{"disconn":{"st":4007,"mg":"the token of the session has expired"}}"#);
    short.expect_end();
}
