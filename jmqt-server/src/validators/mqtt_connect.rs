//! What validators see of the CONNECT packet of an MQTT client (MQTT 5.0, 3.1).

/// The CONNECT packet of an MQTT client, whose user name and password are the data of the
/// [`AuthRequest`](crate::AuthRequest) too: `{"username":"…","password":"…"}`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct MqttConnect<'a> {
    /// The protocol level: 3 for MQTT 3.1, 4 for 3.1.1, 5 for 5.0.
    pub version: u8,
    /// The requested client id; empty if the server is to assign one. If it is not empty, the granted client id must be the
    /// same.
    pub client_id: &'a str,
    /// The user name.
    pub user_name: Option<&'a str>,
    /// The password. Never log it.
    pub password: Option<&'a [u8]>,
}

impl std::fmt::Debug for MqttConnect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttConnect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .finish_non_exhaustive()
    }
}
