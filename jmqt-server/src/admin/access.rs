//! Who may ask: the names by which the listener is reached, pages of other hosts, and keys.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{StatusCode, Uri};

use super::answer::Refusal;
use super::keys::{Holder, Keys, Scope};
use crate::config::HostName;
use crate::log_limit::log_limited;

/// Wrong keys from one address within a [`PERIOD`]. After them the answer is 429.
const MOST_FAILURES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// The most addresses whose failures are counted. If there are more, counting begins again.
const MOST_ADDRESSES: usize = 1024;
/// A key is shorter.
const MOST_KEY_BYTES: usize = 256;

/// Who may ask.
pub(super) struct Access {
    /// `None`: there is no admin API.
    keys: Option<Keys>,
    hosts: Vec<HostName>,
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Access {
    pub(super) fn new(keys: Option<Keys>, hosts: Vec<HostName>) -> Self {
        Self { keys, hosts, failures: Mutex::default() }
    }

    pub(super) fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Checks that the request is meant for this server. A page whose own name points to this machine (DNS rebinding) names
    /// another host, and a page of another host names itself.
    pub(super) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let (Some(host), None) = (host, hosts.next()) else {
            let what = "the request names no host, or several";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, what, "header Host", "one header Host"));
        };
        let in_target = uri.authority().map(|authority| authority.as_str());
        if ![Some(host), in_target].into_iter().flatten().all(|host| self.is_known(host)) {
            log_limited!(warn, target: "jmqt::admin", "refused a request for an unknown host name: to allow the name, add it to ADMIN_HOSTS");
            let expected = "an IP address, localhost, or a name in ADMIN_HOSTS";
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this server is not called so",
                "header Host",
                expected,
            ));
        }
        if is_of_another_page(headers, host) {
            let what = "the request comes from a page of another host";
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                what,
                "header Origin",
                "no page, or one of this server",
            ));
        }
        Ok(())
    }

    fn is_known(&self, host: &str) -> bool {
        let name = without_port(host);
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        is_address(inner.unwrap_or(name))
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.as_str().eq_ignore_ascii_case(name))
    }

    /// The owner of the key of a request, if the key has this scope.
    pub(super) fn holder(
        &self,
        headers: &HeaderMap,
        remote: SocketAddr,
        needed: Scope,
    ) -> Result<Holder, Refusal> {
        const EXPECTED: &str = "Authorization: Bearer KEY, with a key of ADMIN_KEYS_FILE";
        let Some(keys) = &self.keys else {
            let what = "this server has no admin API";
            return Err(Refusal::new(StatusCode::NOT_FOUND, what, "path", "a server with ADMIN_KEYS_FILE"));
        };
        let refused = |what: &'static str| {
            Refusal::new(StatusCode::UNAUTHORIZED, what, "header Authorization", EXPECTED)
        };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(refused("the request has no key"));
        };
        let bytes = value.as_bytes();
        let (scheme, key) = bytes.split_at(bytes.len().min("Bearer ".len()));
        let key = key.trim_ascii();
        let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ") && key.len() <= MOST_KEY_BYTES;
        // A valid key is accepted in any case: others from the same address cannot lock its owner out.
        let Some(holder) = keys.holder(if is_bearer { key } else { b"" }) else {
            return Err(match self.count_failure(remote.ip(), Instant::now()) {
                Some(wait) => {
                    let what = "too many wrong keys from this address";
                    let expected = "a valid key, or a pause";
                    Refusal::new(StatusCode::TOO_MANY_REQUESTS, what, "header Authorization", expected)
                        .retry_after(wait)
                }
                None => refused("the key is not valid"),
            });
        };
        if holder.scope < needed {
            let what = format!("the scope of this key is {}", holder.scope);
            let expected = format!("a key with the scope {needed}");
            return Err(Refusal::new(StatusCode::FORBIDDEN, what, "header Authorization", expected));
        }
        Ok(holder)
    }

    /// Counts a wrong key. Returns the seconds to wait if there were too many.
    fn count_failure(&self, from: IpAddr, now: Instant) -> Option<u32> {
        log_limited!(warn, target: "jmqt::admin", remote = %from, "refused a request with a wrong admin key");
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MOST_ADDRESSES && !failures.contains_key(&from) {
            failures.clear();
        }
        let (since, count) = failures.entry(from).or_insert((now, 0));
        if now.duration_since(*since) >= PERIOD {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        let left = PERIOD.saturating_sub(now.duration_since(*since));
        (*count > MOST_FAILURES).then(|| u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX))
    }
}

/// Whether a browser says that a page of another host, or of another port, makes the request.
fn is_of_another_page(headers: &HeaderMap, host: &str) -> bool {
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let site = headers.get(SITE).map(|site| site.as_bytes());
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    headers.get_all(ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let of_origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        of_origin.is_none_or(|of_origin| !of_origin.eq_ignore_ascii_case(host))
    })
}

/// The host of `host:port`; an IPv6 address stays in its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.is_empty() => {
            // `::1` without brackets is no host with a port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::new(None, vec!["jmqt-1.example.com".parse().unwrap()])
    }

    fn status(target: &str, headers: &[(&'static str, &'static str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, hyper::header::HeaderValue::from_static(value));
        }
        access().check_host(&target.parse().unwrap(), &map).err().map(|refusal| refusal.status.as_u16())
    }

    #[test] // DNS rebinding: the name in the address of the page points to this machine
    fn a_request_for_a_name_that_is_not_known_is_refused() {
        for known in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]:9090",
            "[::1]",
            "localhost:9090",
            "LOCALHOST",
            "10.0.0.5:1",
            "jmqt-1.example.com:9090",
            "JMQT-1.EXAMPLE.COM",
        ] {
            assert_eq!(status("/metrics", &[("host", known)]), None, "{known}");
        }
        for unknown in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            ":9090",
            "jmqt-1.example.com.",
            "user@localhost",
        ] {
            assert_eq!(status("/metrics", &[("host", unknown)]), Some(403), "{unknown}");
        }
        assert_eq!(status("/metrics", &[]), Some(400));
        assert_eq!(status("/metrics", &[("host", "localhost"), ("host", "evil.example")]), Some(400));
        assert_eq!(status("http://evil.example/metrics", &[("host", "localhost")]), Some(403));
        assert_eq!(status("http://localhost/metrics", &[("host", "localhost")]), None);
    }

    #[test]
    fn a_page_of_another_host_is_refused() {
        let host = ("host", "localhost:9090");
        assert_eq!(status("/", &[host, ("origin", "http://localhost:9090")]), None);
        assert_eq!(status("/", &[host, ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(status("/", &[host, ("sec-fetch-site", "none")]), None, "typed by its user");
        for origin in ["http://localhost:8000", "https://evil.example", "null", "", "file://"] {
            assert_eq!(status("/", &[host, ("origin", origin)]), Some(403), "{origin}");
        }
        assert_eq!(status("/", &[host, ("sec-fetch-site", "cross-site")]), Some(403));
        assert_eq!(status("/", &[host, ("sec-fetch-site", "same-site")]), Some(403));
    }

    #[test]
    fn many_wrong_keys_from_one_address_are_answered_with_a_pause() {
        let (access, start) = (access(), Instant::now());
        let at = |seconds| access.count_failure([192, 0, 2, 1].into(), start + Duration::from_secs(seconds));
        assert!((0..MOST_FAILURES).all(|_| at(0).is_none()));
        assert_eq!(at(10), Some(51));
        assert_eq!(access.count_failure([192, 0, 2, 2].into(), start), None, "another address");
        assert_eq!(at(60), None, "the next minute");
        for address in 0..2 * MOST_ADDRESSES as u32 {
            access.count_failure(std::net::Ipv4Addr::from(address).into(), start);
        }
        assert!(access.failures.lock().unwrap().len() <= MOST_ADDRESSES);
    }
}
