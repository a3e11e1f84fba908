//! What a backend answers, as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jmqt_core::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::grants::Grants;
use super::super::identity::{Answer, Identity};

/// The longest reason that is logged.
const LONGEST_REASON: usize = 200;

/// An answer with a known result. Fields that are not known are ignored.
pub(super) struct Reply<'a> {
    pub(super) result: Outcome,
    fields: Fields<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Allow,
    Deny,
    /// The backend does not know: others decide.
    Ignore,
}

#[derive(Deserialize)]
struct Fields<'a> {
    result: Option<String>,
    reason: Option<String>,
    status: Option<i32>,
    username: Option<String>,
    clientid: Option<String>,
    acl: Option<Grants>,
    expire_at: Option<f64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Reply<'a> {
    /// # Errors
    /// What is wrong, without anything of what was sent.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, String> {
        let fields: Fields<'a> = serde_json::from_slice(body).map_err(|error| {
            format!(
                "expected a JSON object with the fields of the documentation, line {}, column {}",
                error.line(),
                error.column()
            )
        })?;
        let result = match fields.result.as_deref() {
            Some("allow") => Outcome::Allow,
            Some("deny") => Outcome::Deny,
            Some("ignore") => Outcome::Ignore,
            Some(_) => return Err(r#"result is neither "allow" nor "deny" nor "ignore""#.to_owned()),
            None => return Err(r#"result is missing: expected "allow", "deny" or "ignore""#.to_owned()),
        };
        Ok(Self { result, fields })
    }

    /// The status of a refusal.
    pub(super) fn refusal(&self) -> StatusCode {
        let status = self.fields.status.map(StatusCode::new).filter(|status| !status.is_ok());
        status.unwrap_or(StatusCode::NOT_ALLOWED)
    }

    /// The status and the data of the answer to a control request.
    pub(super) fn status(&self) -> StatusCode {
        self.fields.status.map_or(StatusCode::OK, StatusCode::new)
    }

    pub(super) fn data(&self) -> Option<&'a str> {
        self.fields.data.map(RawValue::get)
    }

    /// Who the client is, who has shown this user name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn identity(self, shown: Option<&str>, is_anonymous: bool) -> Result<Answer, String> {
        let Fields { reason, username, clientid, acl, expire_at, .. } = self.fields;
        match self.result {
            Outcome::Ignore => return Ok(Answer::NotMine),
            Outcome::Deny => {
                let reason = reason.unwrap_or_default();
                let reason: String =
                    reason.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
                return Ok(Answer::Refused(format!("the HTTP backend denies it: {reason:?}")));
            }
            Outcome::Allow => {}
        }
        let user = username.as_deref().or(shown).filter(|user| !user.is_empty());
        if user.is_none() && !is_anonymous {
            return Err("username is missing: the client has shown none".to_owned());
        }
        let mut identity = user.map_or_else(Identity::default, Identity::of_user);
        identity.client = clientid.map(Into::into);
        identity.rules =
            acl.map(Grants::rules).transpose().map_err(|_| "acl has a pattern that cannot be used")?;
        identity.valid_until = expire_at.map(time).transpose()?;
        if identity.valid_until.is_some_and(|end| end <= SystemTime::now()) {
            return Ok(Answer::Refused("the HTTP backend says that it has expired (expire_at)".to_owned()));
        }
        Ok(Answer::Known(identity))
    }
}

fn time(seconds: f64) -> Result<SystemTime, String> {
    let wrong = || "expire_at is not a time in seconds since 1970".to_owned();
    // Of milliseconds, which are a time in the far future, nobody would notice that they never end.
    if seconds > 1e11 {
        return Err("expire_at is in milliseconds: expected seconds since 1970".to_owned());
    }
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    UNIX_EPOCH.checked_add(since).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(body: &str, shown: Option<&str>) -> Result<Answer, String> {
        Reply::read(body.as_bytes())?.identity(shown, shown.is_none())
    }

    #[test]
    fn only_a_known_result_is_an_answer() {
        for (body, expected) in [
            ("", "expected a JSON object"),
            ("null", "expected a JSON object"),
            ("\"allow\"", "expected a JSON object"),
            ("{}", "result is missing"),
            (r#"{"result":null}"#, "result is missing"),
            (r#"{"result":true}"#, "expected a JSON object"),
            (r#"{"result":"Allow"}"#, "neither"),
            (r#"{"result":"hunter2"}"#, "neither"),
            (r#"{"result":"deny","result":"allow"}"#, "expected a JSON object"),
            (r#"{"result":"allow"} more"#, "expected a JSON object"),
            (r#"{"allow":true}"#, "result is missing"),
            (r#"{"result":"allow","acl":["a"]}"#, "expected a JSON object"),
            (r#"{"result":"allow","acl":{"sub":["a/#/b"]}}"#, "acl has a pattern"),
            (r#"{"result":"allow","expire_at":4102444800000}"#, "milliseconds"),
            (r#"{"result":"allow","expire_at":-1}"#, "not a time"),
            (r#"{"result":"allow","expire_at":"hunter2"}"#, "expected a JSON object"),
        ] {
            let error = identity(body, Some("alice")).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{body}: {error}");
        }
    }

    #[test]
    fn an_answer_says_who_a_client_is() {
        let known = |body, shown| match identity(body, shown) {
            Ok(Answer::Known(identity)) => identity,
            other => panic!("{body}: {other:?}"),
        };
        assert_eq!(known(r#"{"result":"allow"}"#, Some("alice")).user.as_deref(), Some("alice"));
        assert_eq!(known(r#"{"result":"allow"}"#, None).user, None);
        let full = r#"{"result":"allow","username":"bob","clientid":"bob:1","expire_at":4102444800,"acl":{"all":["a"]},"is_superuser":true}"#;
        let identity = known(full, Some("alice"));
        assert_eq!((identity.user.as_deref(), identity.client.as_deref()), (Some("bob"), Some("bob:1")));
        assert_eq!(identity.valid_until, Some(UNIX_EPOCH + Duration::from_secs(4_102_444_800)));
        assert_eq!(identity.rules.unwrap().len(), 2);
    }

    #[test]
    fn a_refusal_and_an_end_in_the_past_are_refused() {
        for (body, expected) in [
            (r#"{"result":"deny","reason":"no\nsuch"}"#, "nosuch"),
            (r#"{"result":"allow","expire_at":1}"#, "expired"),
        ] {
            let Ok(Answer::Refused(reason)) = identity(body, Some("alice")) else { panic!("{body}") };
            assert!(reason.contains(expected), "{reason}");
        }
        assert!(matches!(identity(r#"{"result":"ignore"}"#, Some("alice")), Ok(Answer::NotMine)));
        let error = Reply::read(br#"{"result":"allow"}"#).unwrap().identity(None, false).unwrap_err();
        assert!(error.contains("username is missing"), "{error}");
        let reply = |body: &'static [u8]| Reply::read(body).unwrap().refusal();
        assert_eq!(reply(br#"{"result":"deny"}"#), StatusCode::NOT_ALLOWED);
        assert_eq!(reply(br#"{"result":"deny","status":1}"#), StatusCode::NOT_ALLOWED);
        assert_eq!(reply(br#"{"result":"deny","status":100}"#), StatusCode::new(100));
    }
}
