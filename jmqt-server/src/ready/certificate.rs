//! Users with certificates of their own.

use async_trait::async_trait;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::identity::{Answer, Credentials, Identity, IdentitySource};
use crate::tls::ClientCertificate;
use crate::validators::BoxError;

/// The name in a certificate that is the name of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CertificateName {
    /// The common name of the subject (CN).
    #[default]
    Common,
    /// The one DNS name or e-mail address among the subject alternative names (SAN).
    Alternative,
}

/// Knows users by the certificate with which they proved their identity in the TLS handshake: an authority of SSL_CLIENT_CA_PATH has
/// issued it, so the name in it is that of a user.
///
/// It is asked about clients without a password and without a token; one that shows a user name beside its certificate must
/// show the same name. A JMQT client shows the certificate again whenever it connects: tokens of this server do not replace it.
///
/// Revocation is not checked. An authority that issues certificates for other purposes too would let all of them in.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateLogin {
    name: CertificateName,
}

impl CertificateLogin {
    /// The user is in this part of the certificate.
    #[must_use]
    pub const fn new(name: CertificateName) -> Self {
        Self { name }
    }

    fn user_of(self, certificate: &ClientCertificate) -> Result<String, &'static str> {
        let user = match self.name {
            CertificateName::Common => certificate.common_name().map(str::to_owned),
            CertificateName::Alternative => certificate.chain().next().and_then(alternative_name),
        };
        user.filter(|user| !user.is_empty()).ok_or(match self.name {
            CertificateName::Common => "the certificate does not have one common name",
            CertificateName::Alternative => {
                "the certificate does not have one DNS name or e-mail address as subject alternative name"
            }
        })
    }
}

/// The alternative name that can be the name of a user, if there is one.
fn alternative_name(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let (_, names) = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok()??;
    let mut names = names.0.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) => Some(name.to_string()),
        _ => None,
    });
    names.next().filter(|_| names.next().is_none())
}

#[async_trait]
impl IdentitySource for CertificateLogin {
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        let Some(certificate) = credentials.certificate else { return Ok(Answer::NotMine) };
        if credentials.password.is_some() || credentials.token.is_some() {
            return Ok(Answer::NotMine);
        }
        Ok(match self.user_of(certificate) {
            Ok(user) if credentials.user.is_some_and(|asked| asked != user) => {
                Answer::Refused(format!("the certificate is that of {user:?}"))
            }
            Ok(user) => Answer::Known(Identity::of_user(&user)),
            Err(problem) => Answer::Refused(problem.to_owned()),
        })
    }

    /// Nobody: such a client shows its certificate again.
    async fn restore(&self, _: &str) -> Result<Option<Identity>, BoxError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(common: &[&str], alternative: Vec<rcgen::SanType>) -> ClientCertificate {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(rcgen::DnType::CommonName, *name);
        }
        params.subject_alt_names = alternative;
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        ClientCertificate::new("", common.first().copied(), Box::new([der.into()]))
    }

    async fn user_of(name: CertificateName, certificate: &ClientCertificate, shown: Option<&str>) -> String {
        let credentials =
            Credentials { certificate: Some(certificate), user: shown, ..Credentials::default() };
        match CertificateLogin::new(name).identify(&credentials).await.unwrap() {
            Answer::Known(identity) => identity.user.unwrap().into(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_user_is_the_common_name_or_the_one_alternative_name() {
        let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
        let mail = rcgen::SanType::Rfc822Name("alice@example.com".try_into().unwrap());
        let uri = rcgen::SanType::URI("urn:x:alice".try_into().unwrap());
        let ip = rcgen::SanType::IpAddress([192, 0, 2, 1].into());
        let both = certificate(&["lamp-7"], vec![uri, ip.clone(), dns("lamp.example.com")]);
        let (common, alternative) = (CertificateName::Common, CertificateName::Alternative);
        assert_eq!(user_of(common, &both, None).await, "lamp-7");
        assert_eq!(user_of(common, &both, Some("lamp-7")).await, "lamp-7");
        assert!(user_of(common, &both, Some("lamp-8")).await.starts_with("Refused"));
        assert_eq!(user_of(alternative, &both, None).await, "lamp.example.com");
        assert_eq!(
            user_of(alternative, &certificate(&[], vec![mail.clone()]), None).await,
            "alice@example.com"
        );
        for unclear in [vec![], vec![ip], vec![mail, dns("a.example.com")]] {
            assert!(user_of(alternative, &certificate(&["x"], unclear), None).await.starts_with("Refused"));
        }
        assert!(user_of(common, &certificate(&[], vec![]), None).await.starts_with("Refused"));
        let with_password =
            Credentials { password: Some(b"x"), certificate: Some(&both), ..Credentials::default() };
        let answer = CertificateLogin::default().identify(&with_password).await.unwrap();
        assert!(matches!(answer, Answer::NotMine));
    }
}
