//! The keys that verify tokens: a secret, public keys as PEM, or a set of JSON Web Keys.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_compact::UntrustedToken;
use jwt_compact::jwk::JsonWebKey;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use ring::{hmac, signature};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoRef;

/// The shortest secret in bytes: as long as the signature.
const SHORTEST_SECRET: usize = 32;

/// 2,048 bits.
const SHORTEST_RSA: usize = 256;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const EDDSA_25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The keys that verify tokens. The kind of a key decides about the algorithm, and the header of a token does not: a public key is
/// never taken for a secret.
pub struct JwtKeys(Vec<Key>);

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.algorithms()).finish()
    }
}

/// Text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The secret could be guessed.
    #[error("the secret has {0} bytes; it must have {SHORTEST_SECRET} or more")]
    TooShort(usize),
    /// PEM without a public key.
    #[error("expected one or more \"-----BEGIN PUBLIC KEY-----\": {0}")]
    Pem(String),
    /// A key of another kind.
    #[error("expected keys for RS256, ES256 (P-256), EdDSA (Ed25519) or HS256; found {0}")]
    Kind(String),
    /// JSON that is no set of keys.
    #[error("expected a JSON Web Key, or a set of them: {{\"keys\":[...]}}: {0}")]
    Json(String),
}

struct Key {
    id: Option<String>,
    verifier: Verifier,
}

enum Verifier {
    Secret(hmac::Key),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// The encoding of PKCS #1.
    RsaDer(Vec<u8>),
    /// The point, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Verifier {
    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Rsa(_) | Self::RsaDer(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn is_signature(&self, signature: &[u8], message: &[u8]) -> bool {
        let public = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match self {
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok(),
            Self::RsaDer(key) => public(&RSA_PKCS1_2048_8192_SHA256, key),
            Self::P256(key) => public(&ECDSA_P256_SHA256_FIXED, key),
            Self::Ed25519(key) => public(&ED25519, key),
        }
    }
}

/// An element of a set of JSON Web Keys (RFC 7517).
#[derive(Deserialize)]
struct NamedKey {
    kid: Option<String>,
    #[serde(flatten)]
    key: JsonWebKey<'static>,
}

impl JwtKeys {
    /// Reads public keys as PEM, or a JSON Web Key, or a set of them. A damaged key is never taken for a secret.
    ///
    /// # Errors
    /// [`InvalidKey`], which does not quote the text.
    pub fn read(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        if text.starts_with('{') { Self::of_json(text) } else { Self::of_pem(text) }
    }

    /// A secret for HS256.
    ///
    /// # Errors
    /// [`InvalidKey::TooShort`] if it has less than 32 bytes.
    pub fn of_secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        let verifier = verifier_of_secret(secret)?;
        Ok(Self(vec![Key { id: None, verifier }]))
    }

    /// One or more public keys as PEM.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn of_pem(pem: &str) -> Result<Self, InvalidKey> {
        let mut keys = Vec::new();
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()) {
            let key = key.map_err(|error| InvalidKey::Pem(error.to_string()))?;
            keys.push(Key { id: None, verifier: verifier_of_der(&key)? });
        }
        if keys.is_empty() {
            return Err(InvalidKey::Pem(
                "there is none (private keys and certificates do not count)".to_owned(),
            ));
        }
        Ok(Self(keys))
    }

    /// A JSON Web Key, or a set of them. Keys of a set that are for something else are left out.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn of_json(json: &str) -> Result<Self, InvalidKey> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        // The messages of `serde_json` may quote a part of the text.
        let invalid = |error: serde_json::Error| InvalidKey::Json(format!("line {}", error.line()));
        let value: serde_json::Value = serde_json::from_str(json).map_err(invalid)?;
        let is_set = value.get("keys").is_some();
        let elements = if is_set { Set::deserialize(value).map_err(invalid)?.keys } else { vec![value] };
        let (mut keys, mut last_problem) = (Vec::new(), None);
        for element in elements {
            let read = NamedKey::deserialize(element)
                .map_err(|_| InvalidKey::Json("a key has wrong fields".to_owned()));
            match read.and_then(|named| Ok(Key { id: named.kid, verifier: verifier_of_jwk(&named.key)? })) {
                Ok(key) => keys.push(key),
                Err(problem) => last_problem = Some(problem),
            }
        }
        match last_problem {
            Some(problem) if keys.is_empty() => Err(problem),
            None if keys.is_empty() => Err(InvalidKey::Json("there is no key".to_owned())),
            _ => Ok(Self(keys)),
        }
    }

    pub(super) fn algorithms(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|key| key.verifier.algorithm())
    }

    pub(super) fn has_secret(&self) -> bool {
        self.0.iter().any(|key| matches!(key.verifier, Verifier::Secret(_)))
    }

    /// Checks the signature of a token; an error says what is wrong.
    pub(super) fn verify<H>(&self, token: &str, parsed: &UntrustedToken<'_, H>) -> Result<(), String> {
        let (signed, _) = token.rsplit_once('.').ok_or("not a JSON Web Token")?;
        let key_id = parsed.header().key_id.as_deref();
        let is_for = |key: &&Key| {
            let has_id = match (key_id, &key.id) {
                (Some(wanted), Some(id)) => wanted == id,
                _ => true,
            };
            has_id && key.verifier.algorithm() == parsed.algorithm()
        };
        let mut keys = self.0.iter().filter(is_for).peekable();
        if keys.peek().is_none() {
            let id = key_id.map_or_else(String::new, |id| format!(" and the id {:?}", shortened(id)));
            return Err(format!("there is no key for {:?}{id}", shortened(parsed.algorithm())));
        }
        let is_valid = keys.any(|key| key.verifier.is_signature(parsed.signature_bytes(), signed.as_bytes()));
        if is_valid { Ok(()) } else { Err("the signature is wrong".to_owned()) }
    }
}

/// The beginning of a text of a client, for a log line.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

fn verifier_of_secret(secret: &[u8]) -> Result<Verifier, InvalidKey> {
    if secret.len() < SHORTEST_SECRET {
        return Err(InvalidKey::TooShort(secret.len()));
    }
    Ok(Verifier::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)))
}

fn verifier_of_jwk(key: &JsonWebKey<'_>) -> Result<Verifier, InvalidKey> {
    match key {
        JsonWebKey::Rsa { modulus, .. } if modulus.len() < SHORTEST_RSA => Err(short_rsa()),
        JsonWebKey::Rsa { modulus, public_exponent, .. } => {
            Ok(Verifier::Rsa(RsaPublicKeyComponents { n: modulus.to_vec(), e: public_exponent.to_vec() }))
        }
        JsonWebKey::EllipticCurve { curve, x, y, .. }
            if curve == "P-256" && x.len() == 32 && y.len() == 32 =>
        {
            Ok(Verifier::P256([&[4], x.as_ref(), y.as_ref()].concat()))
        }
        JsonWebKey::KeyPair { curve, x, .. } if curve == "Ed25519" && x.len() == 32 => {
            Ok(Verifier::Ed25519(x.to_vec()))
        }
        JsonWebKey::EllipticCurve { curve, .. } | JsonWebKey::KeyPair { curve, .. } => {
            Err(InvalidKey::Kind(format!("a key of the curve {:?}", shortened(curve))))
        }
        JsonWebKey::Symmetric { .. } => symmetric(key),
        _ => Err(InvalidKey::Kind("a key of another type".to_owned())),
    }
}

fn short_rsa() -> InvalidKey {
    InvalidKey::Kind("an RSA key with less than 2,048 bits".to_owned())
}

/// The secret of a JSON Web Key, which the library shows only as JSON.
fn symmetric(key: &JsonWebKey<'_>) -> Result<Verifier, InvalidKey> {
    let json = serde_json::to_value(key).map_err(|_| InvalidKey::Kind("a secret".to_owned()))?;
    let secret = json.get("k").and_then(serde_json::Value::as_str).unwrap_or_default();
    let secret =
        URL_SAFE_NO_PAD.decode(secret).map_err(|_| InvalidKey::Json("k is not base64".to_owned()))?;
    verifier_of_secret(&secret)
}

fn verifier_of_der(der: &[u8]) -> Result<Verifier, InvalidKey> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|error| InvalidKey::Pem(error.to_string()))?;
    let key = info.subject_public_key.raw_bytes().to_vec();
    match info.algorithm.oid {
        RSA if key.len() < SHORTEST_RSA => Err(short_rsa()),
        RSA => Ok(Verifier::RsaDer(key)),
        EC if info.algorithm.parameters_oid().is_ok_and(|curve| curve == P256) => Ok(Verifier::P256(key)),
        EC => Err(InvalidKey::Kind("a key of another curve than P-256".to_owned())),
        EDDSA_25519 => Ok(Verifier::Ed25519(key)),
        other => Err(InvalidKey::Kind(format!("a key with the algorithm {other}"))),
    }
}
