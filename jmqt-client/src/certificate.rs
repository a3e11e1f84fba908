//! What people want to know of a certificate: its subject and when it expires.
//!
//! Reads, never judges: whether a certificate is to be trusted is rustls' business, and was decided before.

use std::time::{Duration, SystemTime};

use x509_cert::Certificate;
use x509_cert::der::Decode as _;

const DAY: Duration = Duration::from_secs(86_400);
/// A certificate that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// Name and end, such as `localhost until 2027-01-31`.
pub(crate) fn describe(der: &[u8]) -> String {
    let Ok(certificate) = Certificate::from_der(der) else {
        return "a certificate that cannot be read".to_owned();
    };
    let certificate = certificate.tbs_certificate();
    let end = certificate.validity().not_after.to_date_time();
    let name = certificate.subject().common_name().ok().flatten();
    let name = name.map_or_else(|| "(no name)".into(), |name| name.value().into_owned());
    format!("{} until {:04}-{:02}-{:02}", name.escape_debug(), end.year(), end.month(), end.day())
}

/// What is to be said of a certificate that ends soon.
pub(crate) fn warning(der: &[u8], now: SystemTime) -> Option<String> {
    let end = Certificate::from_der(der).ok()?.tbs_certificate().validity().not_after.to_system_time();
    let left = end.duration_since(now).unwrap_or_default();
    (left < SOON)
        .then(|| format!("the certificate ends in {} days: renew it", left.as_secs() / DAY.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn name_and_end_of_a_certificate_are_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "My \u{e9} server");
        params.not_after = rcgen::date_time_ymd(2031, 2, 28);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(describe(&der), "My \u{e9} server until 2031-02-28");
        let end = UNIX_EPOCH + Duration::from_secs(1_930_003_200); // date -u -d 2031-02-28 +%s
        assert_eq!(warning(&der, end - DAY * 7).unwrap(), "the certificate ends in 7 days: renew it");
        assert_eq!(warning(&der, UNIX_EPOCH), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_described_as_such() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::new(["a".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .der()
            .to_vec();
        for length in 0..der.len() {
            // Neither panics nor reads beyond the end.
            describe(&der[..length]);
        }
        assert_eq!(describe(b"x"), "a certificate that cannot be read");
    }
}
