//! Connections to Redis: with limits on time, options that find a dead peer, and a driver that is a task of ours.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection,
};
use service::Lifecycle;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::RedisSettings;

/// To connect and to greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For an answer. After it, the connection is given up: whatever comes late is nobody's.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Pipelines that wait within the client for the socket, first come first served. What is under way is limited by those
/// who send; the client's own limit would let a later pipeline overtake an earlier one.
const PIPELINE: usize = 1024;

/// What is written at once, so that a batch is one system call.
const WRITE_BYTES: usize = 256 << 10;

/// Takes what the server pushes. Must not wait.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection that is cut when the last of its clones is dropped.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    dead: CancellationToken,
    _cut: Arc<DropGuard>,
}

impl Connection {
    /// Resolves when the connection is gone.
    pub(super) async fn dead(&self) {
        self.dead.cancelled().await;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Ends it for all clones.
    pub(super) fn cut(&self) {
        self.dead.cancel();
    }

    /// The server's replication ID.
    pub(super) async fn replid(&self) -> RedisResult<String> {
        let mut redis = self.redis.clone();
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut redis).await?;
        let unknown = || RedisError::from((ErrorKind::UnexpectedReturnType, "INFO tells no replication ID"));
        replid(&info).map(str::to_owned).ok_or_else(unknown)
    }

    /// Whether the server answers.
    pub(super) async fn ping(&self) -> RedisResult<()> {
        let mut redis = self.redis.clone();
        redis::cmd("PING").query_async(&mut redis).await
    }
}

/// The replication ID in what `INFO replication` says.
pub(super) fn replid(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("master_replid:"))
}

pub(super) fn lost() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection was lost"))
}

/// Where connections' drivers run, and the token that ends them all.
#[derive(Debug, Clone)]
pub(super) struct Drivers {
    pub(super) lifecycle: Lifecycle,
    pub(super) end: CancellationToken,
}

pub(super) async fn connect(
    settings: &RedisSettings,
    on_push: Option<OnPush>,
    drivers: &Drivers,
) -> RedisResult<Connection> {
    timeout(CONNECT_TIMEOUT, open(settings, on_push, drivers))
        .await
        .unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no connection in time"))))
}

async fn open(settings: &RedisSettings, on_push: Option<OnPush>, drivers: &Drivers) -> RedisResult<Connection> {
    let address = &settings.address;
    let stream = TcpStream::connect((&*address.host, address.port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&keepalive)?;
    // Unacknowledged data for so long: the peer is gone without a word.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(10)))?;

    let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_db(address.db.into());
    if let Some(username) = &settings.username {
        info = info.set_username(username);
    }
    if let Some(password) = &settings.password {
        info = info.set_password(password.expose());
    }
    let mut config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_pipeline_buffer_size(PIPELINE)
        .set_write_backpressure_boundary(WRITE_BYTES);
    if let Some(on_push) = on_push {
        config = config.set_push_sender(move |push: PushInfo| {
            on_push(push);
            Ok::<_, redis::aio::SendError>(())
        });
    }
    let (redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    let dead = drivers.end.child_token();
    let until = dead.clone();
    drivers.lifecycle.spawn(async move {
        // Dropped with the socket when cut; ended when the socket is.
        until.run_until_cancelled(driver).await;
        until.cancel();
    });
    Ok(Connection { redis, _cut: Arc::new(dead.clone().drop_guard()), dead })
}
