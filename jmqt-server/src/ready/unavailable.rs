//! An answer that cannot be given now.

/// The error of an [`IdentitySource`](super::IdentitySource) that cannot answer now, and has logged why: [`Login`](super::Login) refuses the client
/// with SERVER_ERROR, "try again later", and logs nothing more. For an MQTT client that is 0x88, server unavailable (3 before MQTT 5).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

impl Unavailable {
    /// With the reason.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}
