//! As much of a certificate (X.509, DER) as people want to see: whose it is and when it ends.
//!
//! Reads, never judges: whether a certificate is to be trusted is rustls' business, and was decided before.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 2.5.4.3, the common name.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const DAY: Duration = Duration::from_secs(86_400);
/// A certificate that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// Name and end, such as `localhost until 2027-01-31`.
pub(crate) fn describe(der: &[u8]) -> String {
    let Some(certificate) = parse(der) else { return "a certificate that cannot be read".to_owned() };
    let (year, month, day) = civil(certificate.not_after);
    let subject = certificate.subject.unwrap_or_else(|| "(no name)".to_owned());
    format!("{} until {year:04}-{month:02}-{day:02}", subject.escape_debug())
}

/// What is to be said of a certificate that ends soon.
pub(crate) fn warning(der: &[u8], now: SystemTime) -> Option<String> {
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(parse(der)?.not_after))?;
    let left = end.duration_since(now).unwrap_or_default();
    (left < SOON)
        .then(|| format!("the certificate ends in {} days: renew it", left.as_secs() / DAY.as_secs()))
}

struct Certificate {
    subject: Option<String>,
    /// Seconds since 1970.
    not_after: u64,
}

fn parse(der: &[u8]) -> Option<Certificate> {
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    let (_, _, fields) = element(fields)?; // serial number
    let (_, _, fields) = element(fields)?; // signature algorithm
    let (_, _, fields) = element(fields)?; // issuer
    let (_, validity, fields) = element(fields)?;
    let (_, subject, _) = element(fields)?;
    let (_, _, not_after) = element(validity)?;
    let (kind, text, _) = element(not_after)?;
    Some(Certificate { subject: common_name(subject), not_after: time(kind, text)? })
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 || digits > rest.len() {
            return None;
        }
        let (length, rest) = rest.split_at(digits);
        (length.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Names are sets of pairs of type and value.
fn common_name(mut name: &[u8]) -> Option<String> {
    while let Some((_, set, rest)) = element(name) {
        name = rest;
        let (SEQUENCE, pair, _) = element(set)? else { continue };
        let (_, kind, value) = element(pair)?;
        if kind == COMMON_NAME {
            return Some(String::from_utf8_lossy(element(value)?.1).into_owned());
        }
    }
    None
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(kind: u8, text: &[u8]) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        std::str::from_utf8(text.get(from..to)?).ok()?.parse().ok()
    };
    let (year, at) = match kind {
        UTC_TIME => {
            let short = number(0, 2)?;
            (if short < 50 { 2000 + short } else { 1900 + short }, 2)
        }
        GENERALIZED_TIME => (number(0, 4)?, 4),
        _ => return None,
    };
    let days = days_since_1970(year, number(at, at + 2)?, number(at + 2, at + 4)?)?;
    Some(
        ((days * 24 + number(at + 4, at + 6)?) * 60 + number(at + 6, at + 8)?) * 60
            + number(at + 8, at + 10)?,
    )
}

fn days_in(year: u64, month: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || day == 0 || !(1970..=9999).contains(&year) {
        return None;
    }
    let years: u64 = (1970..year).flat_map(|year| (1..=12).map(move |month| days_in(year, month))).sum();
    let months: u64 = (1..month).map(|month| days_in(year, month)).sum();
    Some(years + months + day - 1)
}

/// Year, month and day of a time since 1970.
fn civil(seconds: u64) -> (u64, u64, u64) {
    let mut days = seconds / DAY.as_secs();
    let (mut year, mut month) = (1970, 1);
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_end_of_a_certificate_are_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "My \u{e9} server");
        params.not_after = rcgen::date_time_ymd(2031, 2, 28);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(describe(&der), "My \u{e9} server until 2031-02-28");
        let before = |days: u64| {
            let end = days_since_1970(2031, 2, 28).unwrap();
            UNIX_EPOCH + DAY * u32::try_from(end - days).unwrap()
        };
        assert_eq!(warning(&der, before(7)).unwrap(), "the certificate ends in 7 days: renew it");
        assert_eq!(warning(&der, UNIX_EPOCH), None);
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
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
