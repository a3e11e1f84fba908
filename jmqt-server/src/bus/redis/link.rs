//! One connection to Redis of any kind.

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode,
};

use super::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use crate::config::{RedisMode, RedisOptions};

/// The most messages in flight to a slow connection.
const CONNECTION_QUEUE: usize = 64;

/// A connection.
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects; `received` gets the incoming messages.
    pub(super) async fn connect(
        options: &RedisOptions,
        received: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        let sender = move |info: PushInfo| -> Result<(), redis::aio::SendError> {
            received(info);
            Ok(())
        };
        let certificates = certificates(options)?;
        match &options.mode {
            RedisMode::Standalone { host, port } => {
                let info = connection_info(options, host, *port)?;
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                };
                let config = connection_config().set_push_sender(sender);
                Ok(Self::One(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            RedisMode::Sentinel { nodes, master } => {
                let mut client = sentinel(options, nodes, master, certificates)?;
                let config = connection_config().set_push_sender(sender);
                Ok(Self::One(client.get_async_connection_with_config(&config).await?))
            }
            RedisMode::Cluster { nodes } => {
                let infos: RedisResult<Vec<_>> =
                    nodes.iter().map(|(host, port)| connection_info(options, host, *port)).collect();
                let mut builder = ClusterClientBuilder::new(infos?)
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(ANSWER_TIMEOUT)
                    .push_sender(sender);
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                Ok(Self::Cluster(builder.build()?.get_async_connection().await?))
            }
        }
    }

    /// Subscribes; returns when Redis has confirmed all of them.
    pub(super) async fn subscribe(&self, names: Vec<String>) -> RedisResult<()> {
        match self {
            Self::One(connection) => connection.clone().subscribe(names).await,
            // Names of one command would have to live on one shard.
            Self::Cluster(connection) => {
                let each = names.into_iter().map(|name| {
                    let mut connection = connection.clone();
                    async move { connection.ssubscribe(name).await }
                });
                try_join_all(each).await.map(drop)
            }
        }
    }

    pub(super) async fn unsubscribe(&self, names: Vec<String>) -> RedisResult<()> {
        match self {
            Self::One(connection) => connection.clone().unsubscribe(names).await,
            Self::Cluster(connection) => {
                let each = names.into_iter().map(|name| {
                    let mut connection = connection.clone();
                    async move { connection.sunsubscribe(name).await }
                });
                try_join_all(each).await.map(drop)
            }
        }
    }

    /// Publishes messages in order. Returns the number of receivers of each (on a cluster, on its shard).
    pub(super) async fn publish(&self, messages: Vec<(String, Vec<u8>)>) -> RedisResult<Vec<u64>> {
        match self {
            Self::One(connection) => {
                let mut pipeline = redis::Pipeline::with_capacity(messages.len());
                for (name, payload) in &messages {
                    pipeline.cmd("PUBLISH").arg(name).arg(payload.as_slice());
                }
                pipeline.query_async(&mut connection.clone()).await
            }
            Self::Cluster(connection) => {
                let each =
                    messages.into_iter().map(|(name, payload)| {
                        let mut connection = connection.clone();
                        async move {
                            redis::cmd("SPUBLISH").arg(name).arg(payload).query_async(&mut connection).await
                        }
                    });
                try_join_all(each).await
            }
        }
    }
}

/// The error as text, with the message of the server.
pub(super) fn explain(error: &RedisError) -> String {
    let hint = match error.code() {
        Some("NOAUTH" | "WRONGPASS") => " (see REDIS_USER and REDIS_PASSWORD)",
        Some("NOPERM") => {
            " (REDIS_USER needs +publish +subscribe +unsubscribe, and the channels that begin with REDIS_PREFIX; \
             with Sentinel +role too, with a REDIS_DB_INDEX +select)"
        }
        _ => "",
    };
    format!("{error}{hint}")
}

fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
        .set_pipeline_buffer_size(CONNECTION_QUEUE)
}

fn redis_info(options: &RedisOptions) -> RedisConnectionInfo {
    let mut info =
        RedisConnectionInfo::default().set_db(options.db_index).set_protocol(ProtocolVersion::RESP3);
    if let Some(user) = &options.user {
        info = info.set_username(user);
    }
    if let Some(password) = &options.password {
        info = info.set_password(password);
    }
    info
}

fn address(options: &RedisOptions, host: &str, port: u16) -> ConnectionAddr {
    match options.tls {
        true => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}

fn connection_info(options: &RedisOptions, host: &str, port: u16) -> RedisResult<ConnectionInfo> {
    let info = address(options, host, port).into_connection_info()?;
    Ok(info.set_redis_settings(redis_info(options)))
}

fn certificates(options: &RedisOptions) -> RedisResult<Option<TlsCertificates>> {
    if !options.tls {
        return Ok(None);
    }
    let root_cert = options.ca_path.as_ref().map(std::fs::read).transpose()?;
    Ok(Some(TlsCertificates { client_tls: None, root_cert }))
}

fn sentinel(
    options: &RedisOptions,
    nodes: &[(String, u16)],
    master: &str,
    certificates: Option<TlsCertificates>,
) -> RedisResult<redis::sentinel::SentinelClient> {
    // Connections to Sentinels are not encrypted: Sentinels rarely have certificates.
    let sentinels = nodes.iter().map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
    let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(options.db_index);
    if let Some(user) = &options.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &options.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(certificates) = certificates {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        builder = builder.set_client_to_redis_certificates(certificates);
    }
    builder.build()
}
