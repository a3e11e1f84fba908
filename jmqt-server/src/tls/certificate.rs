//! Parses the parts of a certificate (X.509, DER) that are needed to warn of certificates that clients refuse, and the
//! subject of a client's certificate.
//!
//! It does not verify trust. Not here: files, TLS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{DateTime, Decode as _, Error, Reader as _, SliceReader};
use x509_cert::ext::pkix::name::DirectoryString;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// An RSA key.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// The common name of a subject.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The subject of a certificate as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) text: String,
    /// `None` if there is none, or several.
    pub(super) common_name: Option<String>,
}

impl Subject {
    /// `None` if the bytes are not a certificate.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let subject = certificate.tbs_certificate().subject();
        let mut names = subject.iter().filter(|attribute| attribute.oid == COMMON_NAME);
        let common_name = match (names.next(), names.next()) {
            (Some(name), None) => text_of(name),
            _ => None,
        };
        Some(Self { text: subject.to_string(), common_name })
    }
}

fn text_of(attribute: &AttributeTypeAndValue) -> Option<String> {
    let text = DirectoryString::try_from(&attribute.value).ok()?;
    Some(text.value().into_owned())
}

/// The parsed fields of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate {
    /// 1 to 3.
    pub(super) version: u8,
    not_before: DateTime,
    not_after: DateTime,
    /// The length of its key, if it is an RSA key.
    pub(super) rsa_bits: Option<usize>,
}

impl Certificate {
    /// `None` if the bytes are not a certificate.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let validity = certificate.validity();
        Some(Self {
            version: certificate.version() as u8 + 1,
            not_before: validity.not_before.to_date_time(),
            not_after: validity.not_after.to_date_time(),
            rsa_bits: rsa_bits(certificate.subject_public_key_info()),
        })
    }

    /// The remaining validity at `now`; `None` if the certificate has expired.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        self.not_after.unix_duration().checked_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Returns `true` if the certificate is not valid yet.
    pub(super) fn is_early(&self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH).unwrap_or_default() < self.not_before.unix_duration()
    }

    /// The last day of its validity, such as `2027-01-31`.
    pub(super) fn last_day(&self) -> String {
        let end = self.not_after;
        format!("{:04}-{:02}-{:02}", end.year(), end.month(), end.day())
    }
}

/// The length of the modulus, the first of the two numbers of an RSA key.
fn rsa_bits(key: &SubjectPublicKeyInfoOwned) -> Option<usize> {
    if key.algorithm.oid != RSA {
        return None;
    }
    let mut reader = SliceReader::new(key.subject_public_key.raw_bytes()).ok()?;
    let modulus = reader.sequence(|numbers| {
        let modulus = UintRef::decode(numbers)?;
        UintRef::decode(numbers)?;
        Ok::<_, Error>(modulus)
    });
    let modulus = modulus.ok()?.as_bytes();
    Some(modulus.len() * 8 - usize::try_from(modulus.first()?.leading_zeros()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_of_a_certificate_is_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2024, 2, 29), rcgen::date_time_ymd(2051, 2, 28));
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!((certificate.version, certificate.rsa_bits), (3, None));
        assert_eq!(certificate.last_day(), "2051-02-28");
        assert_eq!(certificate.not_before.unix_duration().as_secs(), 1_709_164_800); // date -d 2024-02-29 +%s
        let end = UNIX_EPOCH + certificate.not_after.unix_duration();
        assert_eq!(certificate.left(end - Duration::from_secs(7)), Some(Duration::from_secs(7)));
        assert_eq!(certificate.left(end + Duration::from_secs(1)), None);
        assert!(certificate.is_early(UNIX_EPOCH) && !certificate.is_early(end));
        for length in 0..der.len() {
            // Truncated input neither panics nor is read beyond its end.
            let _ = Certificate::parse(&der[..length]);
        }
        assert_eq!(Certificate::parse(b"x"), None);
    }

    #[test]
    fn the_version_and_the_rsa_key_length_are_read() {
        use tokio_rustls::rustls::pki_types::CertificateDer;
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;

        let old = CertificateDer::from_pem_slice(VERSION_1_WITH_1024_BITS.as_bytes()).unwrap();
        let certificate = Certificate::parse(&old).unwrap();
        assert_eq!((certificate.version, certificate.rsa_bits), (1, Some(1024)));
    }

    /// Made with `openssl x509 -req`, without extensions.
    const VERSION_1_WITH_1024_BITS: &str = "\
-----BEGIN CERTIFICATE-----
MIIBoDCCAQkCFE9ehmIvD1KOXnSbxWp9Z6UIo3iMMA0GCSqGSIb3DQEBCwUAMA4x
DDAKBgNVBAMMA29sZDAgFw0yNjExMjkyMjQ5MjBaGA8yMTI2MTEwNTIyNDkyMFow
DjEMMAoGA1UEAwwDb2xkMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDC53Lv
U9mSCfoZ739yEEBXZqdaBtsfzXJmchggoXkJxlvEY5bzchrIiwevowM5goOBHIyj
w2q1gWvfvsIX9i2Sd2wyyvlNpYoibRyte878yIvNlYcQ06p6iC4jQYtabgtKZNWL
WcB2Zde9MlBBGL9BuVC0wmX0IIlk+lmM600n8wIDAQABMA0GCSqGSIb3DQEBCwUA
A4GBACWdXbXZLhN3QKHaVtZ3Dm8h9mzgbY3zbxeQ6fJk8GDqdGgvSXyMnPTso+Gn
9rmWDs0qqJDlkhiwihpHhG9pCEGA9OMlFxN3zZHCyXPVnMLz8SJts3feJ+/bCuAQ
sUNl16asHJrqDPQwzUZXa5aNt7KMZreJHN2GS9uPufVYYkXb
-----END CERTIFICATE-----";
}
