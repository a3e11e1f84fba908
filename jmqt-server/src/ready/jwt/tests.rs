//! Tokens that a real issuer could have signed, and those that nobody should believe.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
/// 2030.
const EXPIRY: u64 = 1_893_456_000;

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(claims));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(key: &[u8], message: &[u8]) -> Vec<u8> {
    ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// A token of the secret.
fn of_secret(claims: &Value) -> String {
    token(&json!({"alg": "HS256", "typ": "JWT"}), claims, |message| hs256(SECRET, message))
}

fn login() -> JwtLogin {
    JwtLogin::new(JwtKeys::of_secret(SECRET).unwrap())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn refusal(login: &JwtLogin, token: &str) -> String {
    login.user_of(token, at(EXPIRY - 100)).unwrap_err()
}

#[test]
fn a_token_tells_user_client_id_expiry_and_rules() {
    let claims = json!({
        "sub": "alice", "exp": EXPIRY, "client_id": "alice-phone",
        "acl": {"sub": ["news/#"], "all": ["home/%u/#"]},
    });
    let identity = login().user_of(&of_secret(&claims), at(EXPIRY - 100)).unwrap();
    assert_eq!((identity.user.as_deref(), identity.client.as_deref()), (Some("alice"), Some("alice-phone")));
    assert_eq!(identity.valid_until, Some(at(EXPIRY)));
    let rules = identity.rules.clone().unwrap();
    let client = jmqt_core::ClientId::parse("alice-phone").unwrap();
    let may = |access, channel| {
        rules.allow(Some("alice"), &client, access, &jmqt_core::ChannelName::parse(channel).unwrap())
    };
    use crate::ready::Access::{Read, Write};
    assert!(
        may(Read, "news/1")
            && !may(Write, "news/1")
            && may(Write, "home/alice/x")
            && !may(Read, "home/bob/x")
    );
}

#[test]
fn a_token_ends_with_its_time_and_begins_with_it() {
    let token = of_secret(&json!({"sub": "a", "exp": EXPIRY, "nbf": EXPIRY - 1000}));
    for (now, is_valid) in
        [(EXPIRY + 31, false), (EXPIRY + 29, true), (EXPIRY - 1029, true), (EXPIRY - 1031, false)]
    {
        assert_eq!(login().user_of(&token, at(now)).is_ok(), is_valid, "{now}");
    }
}

#[test]
fn tokens_without_user_or_expiry_and_with_wrong_types_are_refused() {
    for (claims, reason) in [
        (json!({"exp": EXPIRY}), "the claim sub is missing"),
        (json!({"sub": "", "exp": EXPIRY}), "the claim sub is missing"),
        (json!({"sub": "a"}), "the claim exp is missing"),
        (json!({"sub": "a", "exp": "never"}), "the claims cannot be used"),
        (json!({"sub": "a", "exp": EXPIRY, "nbf": "x"}), "the claims cannot be used"),
        (json!({"sub": 7, "exp": EXPIRY}), "the claims cannot be used"),
        (json!({"sub": "a", "exp": EXPIRY, "acl": {"sub": ["a/#/b"]}}), "claim acl: "),
    ] {
        let found = refusal(&login(), &of_secret(&claims));
        assert!(found.starts_with(reason), "{claims}: {found}");
    }
}

#[test]
fn issuer_and_audience_are_compared_if_they_are_set() {
    let login = login().issuer("me").audience("chat");
    let with = |iss: &str, aud: Value| of_secret(&json!({"sub": "a", "exp": EXPIRY, "iss": iss, "aud": aud}));
    assert!(login.user_of(&with("me", json!("chat")), at(EXPIRY)).is_ok());
    assert!(login.user_of(&with("me", json!(["x", "chat"])), at(EXPIRY)).is_ok());
    assert!(refusal(&login, &with("you", json!("chat"))).contains("(iss)"));
    assert!(refusal(&login, &with("me", json!("cha"))).contains("(aud)"));
    assert!(refusal(&login, &of_secret(&json!({"sub": "a", "exp": EXPIRY, "iss": "me"}))).contains("(aud)"));
}

#[test]
fn public_keys_as_pem_and_as_json_verify_tokens_of_their_private_keys() {
    let random = SystemRandom::new();
    let claims = json!({"sub": "a", "exp": EXPIRY});

    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &random).unwrap();
    let sign = |message: &[u8]| key.sign(&random, message).unwrap().as_ref().to_vec();
    let token_ec = token(&json!({"alg": "ES256", "kid": "k1"}), &claims, sign);
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k1",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
    for text in [
        pair.public_key_pem(),
        jwk.to_string(),
        json!({"keys": [{"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}, jwk]}).to_string(),
    ] {
        let login = JwtLogin::new(JwtKeys::read(&text).unwrap());
        assert!(login.user_of(&token_ec, at(EXPIRY)).is_ok(), "{text}");
    }
    let other = json!({"kty": "EC", "crv": "P-256", "kid": "k2", "x": jwk["x"], "y": jwk["y"]}).to_string();
    assert!(refusal(&JwtLogin::new(JwtKeys::read(&other).unwrap()), &token_ec).contains("\"k1\""));

    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pair.serialize_der()).unwrap();
    let token_ed = token(&json!({"alg": "EdDSA"}), &claims, |message| key.sign(message).as_ref().to_vec());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref())});
    for text in [pair.public_key_pem(), jwk.to_string()] {
        let login = JwtLogin::new(JwtKeys::read(&text).unwrap());
        assert!(login.user_of(&token_ed, at(EXPIRY)).is_ok(), "{text}");
        assert!(refusal(&login, &token_ec).contains("no key for \"ES256\""));
    }
}

#[test]
fn rsa_keys_verify_tokens_of_openssl() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new("openssl").args(arguments).current_dir(folder.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&["genrsa", "-out", "key.pem", "2048"]);
    run(&["pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-outform", "DER", "-out", "key.der"]);
    let pem = String::from_utf8(run(&["pkey", "-inform", "DER", "-in", "key.der", "-pubout"])).unwrap();
    let key = RsaKeyPair::from_pkcs8(&std::fs::read(folder.path().join("key.der")).unwrap()).unwrap();
    let right = token(&json!({"alg": "RS256"}), &json!({"sub": "a", "exp": EXPIRY}), |message| {
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    });
    let public = ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
    let jwk =
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(public.n), "e": URL_SAFE_NO_PAD.encode(public.e)});
    for text in [pem.clone(), jwk.to_string()] {
        let login = JwtLogin::new(JwtKeys::read(&text).unwrap());
        assert!(login.user_of(&right, at(EXPIRY)).is_ok(), "{text}");
        // The public key as the secret of HS256 is the classical attack.
        let claims = json!({"sub": "admin", "exp": EXPIRY});
        let forged = token(&json!({"alg": "HS256"}), &claims, |message| hs256(pem.as_bytes(), message));
        assert!(refusal(&login, &forged).contains("no key for \"HS256\""));
    }
}

#[test]
fn tokens_that_are_changed_unsigned_or_of_another_secret_are_refused() {
    let claims = json!({"sub": "admin", "exp": EXPIRY});
    let right = of_secret(&claims);
    assert!(login().user_of(&right, at(EXPIRY)).is_ok());
    let other = token(&json!({"alg": "HS256"}), &claims, |message| hs256(&[7; 32], message));
    assert_eq!(refusal(&login(), &other), "the signature is wrong");
    for header in [json!({"alg": "none"}), json!({"alg": "None"}), json!({"alg": "HS512"}), json!({})] {
        let forged = token(&header, &claims, |_| Vec::new());
        assert!(login().user_of(&forged, at(EXPIRY)).is_err(), "{header}");
    }
    let critical =
        token(&json!({"alg": "HS256", "crit": ["exp"]}), &claims, |message| hs256(SECRET, message));
    assert!(refusal(&login(), &critical).contains("crit"));
    for index in 0..right.len() {
        let mut changed = right.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(login().user_of(&changed, at(EXPIRY)).is_err(), "changed at {index}");
        assert!(login().user_of(&right[..index], at(EXPIRY)).is_err(), "cut at {index}");
    }
}

#[test]
fn files_without_a_key_are_refused_without_their_text() {
    for (text, beginning) in [
        ("hunter2", "expected one or more"),
        ("0123456789abcdef0123456789abcdef", "expected one or more"),
        ("[{\"kty\":\"RSA\"}]", "expected one or more"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "expected one or more"),
        ("{\"keys\":[]}", "expected a JSON Web Key"),
        ("{hunter2", "expected a JSON Web Key"),
        ("{\"kty\":\"oct\",\"k\":\"aHVudGVyMg\"}", "the secret has 7 bytes"),
        ("{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AA\",\"y\":\"AA\"}", "expected keys for RS256"),
    ] {
        let error = JwtKeys::read(text).unwrap_err().to_string();
        assert!(error.starts_with(beginning) && !error.contains("hunter2"), "{error}");
    }
    assert_eq!(JwtKeys::of_secret(b"hunter2").unwrap_err(), InvalidKey::TooShort(7));
    let secret = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)}).to_string();
    let login = JwtLogin::new(JwtKeys::read(&secret).unwrap());
    assert!(login.user_of(&of_secret(&json!({"sub": "a", "exp": EXPIRY})), at(EXPIRY)).is_ok());
    assert!(!format!("{login:?}").contains(&STANDARD.encode(SECRET)));
}
