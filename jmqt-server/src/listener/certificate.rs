//! As much of a certificate (X.509, DER) as it takes to warn of one that clients will refuse.
//!
//! Reads, never judges trust. Not here: files, TLS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 1.2.840.113549.1.1.1, an RSA key.
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const DAY_SECONDS: u64 = 86_400;

/// What a certificate says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate {
    /// 1 to 3.
    pub(super) version: u8,
    /// Seconds since 1970.
    not_before: u64,
    not_after: u64,
    /// The length of its key, if that is an RSA key.
    pub(super) rsa_bits: Option<usize>,
}

impl Certificate {
    /// `None` if that is not a certificate.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let mut fields = inside(SEQUENCE, element(inside(SEQUENCE, element(der)?)?)?)?;
        let mut version = 1;
        if fields.first() == Some(&VERSION) {
            let (_, number, rest) = element(fields)?;
            version = element(number)?.1.last()?.checked_add(1)?;
            fields = rest;
        }
        let (_, _, fields) = element(fields)?; // serial number
        let (_, _, fields) = element(fields)?; // signature algorithm
        let (_, _, fields) = element(fields)?; // issuer
        let (_, validity, fields) = element(fields)?;
        let (_, _, fields) = element(fields)?; // subject
        let (_, key, _) = element(fields)?;
        let (kind, text, rest) = element(validity)?;
        let not_before = time(kind, text)?;
        let (kind, text, _) = element(rest)?;
        Some(Self { version, not_before, not_after: time(kind, text)?, rsa_bits: rsa_bits(key) })
    }

    /// How long it is valid from then on; `None` if it has ended.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        Duration::from_secs(self.not_after).checked_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Whether its time has not come yet.
    pub(super) fn is_early(&self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() < self.not_before
    }

    /// The day on which it ends, such as `2027-01-31`.
    pub(super) fn last_day(&self) -> String {
        let (year, month, day) = civil(self.not_after / DAY_SECONDS);
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if !(1..=4).contains(&digits.len()) {
            return None;
        }
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The content, if the element has this tag.
fn inside<'a>(tag: u8, (found, content, _): (u8, &'a [u8], &'a [u8])) -> Option<&'a [u8]> {
    (found == tag).then_some(content)
}

/// The length of the modulus, which is the first of the two numbers that an RSA key is.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let (_, algorithm, rest) = element(key)?;
    if inside(OBJECT, element(algorithm)?)? != RSA {
        return None;
    }
    let (_unused_bits, numbers) = inside(BIT_STRING, element(rest)?)?.split_first()?;
    let modulus = inside(INTEGER, element(inside(SEQUENCE, element(numbers)?)?)?)?;
    let leading_zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &modulus[leading_zeros..];
    Some(modulus.len() * 8 - usize::try_from(modulus.first()?.leading_zeros()).ok()?)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as seconds since 1970; what was before that is 1970.
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
    let (hour, minute, second) = (number(at + 4, at + 6)?, number(at + 6, at + 8)?, number(at + 8, at + 10)?);
    Some(days * DAY_SECONDS + hour * 3600 + minute * 60 + second)
}

/// Counts in years that begin in March, so that the leap day is a year's last.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 9999 {
        return None;
    }
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    Some(days.saturating_sub(DAYS_BEFORE_1970))
}

/// Days from 1 March of the year 0 to 1970.
const DAYS_BEFORE_1970: u64 = 719_468;

/// Year, month and day.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2024, 2, 29), rcgen::date_time_ymd(2051, 2, 28));
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!((certificate.version, certificate.rsa_bits), (3, None));
        assert_eq!(certificate.last_day(), "2051-02-28");
        assert_eq!(certificate.not_before, 1_709_164_800); // date -d 2024-02-29 +%s
        let end = UNIX_EPOCH + Duration::from_secs(certificate.not_after);
        assert_eq!(certificate.left(end - Duration::from_secs(7)), Some(Duration::from_secs(7)));
        assert_eq!(certificate.left(end + Duration::from_secs(1)), None);
        assert!(certificate.is_early(UNIX_EPOCH) && !certificate.is_early(end));
        for length in 0..der.len() {
            // Neither panics nor reads beyond the end.
            let _ = Certificate::parse(&der[..length]);
        }
        assert_eq!(Certificate::parse(b"x"), None);
    }

    #[test]
    fn days_and_dates_are_each_others_reverse() {
        for days in 0..200_000 {
            let (year, month, day) = civil(days);
            assert_eq!(days_since_1970(year, month, day), Some(days));
        }
        assert_eq!((civil(0), civil(59), civil(19_782)), ((1970, 1, 1), (1970, 3, 1), (2024, 2, 29)));
    }
}
