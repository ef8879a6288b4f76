//! Connections to Redis: with limits on time, options that find a dead peer, and a driver that is a task of ours.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use service::Lifecycle;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{RedisSettings, address::Server, sentinel, tls};

/// To find the primary, connect and greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// Where it leads.
    pub(super) server: Server,
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

    /// What the server says of its replication.
    pub(super) async fn replication(&self) -> RedisResult<Replication> {
        let mut redis = self.redis.clone();
        let info: RedisResult<String> = redis::cmd("INFO").arg("replication").query_async(&mut redis).await;
        let info = info.map_err(|error| match error.code() {
            Some("NOPERM") => RedisError::from((
                ErrorKind::AuthenticationFailed,
                "the user of REDIS_USERNAME may not run INFO, by which numbering is fenced",
            )),
            _ => error,
        })?;
        let unknown = || RedisError::from((ErrorKind::UnexpectedReturnType, "INFO tells no replication ID"));
        Replication::read(&info).ok_or_else(unknown)
    }

    /// Whether the server answers.
    pub(super) async fn ping(&self) -> RedisResult<()> {
        let mut redis = self.redis.clone();
        redis::cmd("PING").query_async(&mut redis).await
    }
}

/// What `INFO replication` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) id: Arc<str>,
    pub(super) primary: bool,
    /// It refuses to write without some replicas, and so cannot go on for long once it is cut off from all.
    pub(super) min_replicas: bool,
}

impl Replication {
    pub(super) fn read(info: &str) -> Option<Self> {
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Some(Self {
            id: field("master_replid")?.into(),
            primary: field("role") == Some("master"),
            min_replicas: field("min_slaves_good_slaves").is_some(),
        })
    }
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

/// Asks one server something, over a connection for the purpose.
pub(super) async fn ask(
    server: &Server,
    settings: &RedisSettings,
    question: &redis::Pipeline,
    patience: Duration,
) -> RedisResult<Vec<Value>> {
    let info = settings.identify(RedisConnectionInfo::default().set_skip_set_lib_name());
    let stream = dial(server).await?;
    if settings.address.tls {
        let stream = tls::greet(stream, &server.host, settings.ca.as_deref()).await?;
        ask_over(stream, &info, question, patience).await
    } else {
        ask_over(stream, &info, question, patience).await
    }
}

async fn ask_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    info: &RedisConnectionInfo,
    question: &redis::Pipeline,
    patience: Duration,
) -> RedisResult<Vec<Value>> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(patience));
    let (mut redis, driver) = MultiplexedConnection::new_with_config(info, stream, config).await?;
    // The driver works for as long as there is an answer to wait for, and is dropped with the connection.
    tokio::select! {
        answer = redis.send_packed_commands(question, 0, question.len()) => answer,
        () = driver => Err(lost()),
    }
}

async fn open(settings: &RedisSettings, on_push: Option<OnPush>, drivers: &Drivers) -> RedisResult<Connection> {
    let server = sentinel::primary(settings).await?;
    let stream = dial(&server).await?;
    if settings.address.tls {
        let stream = tls::greet(stream, &server.host, settings.ca.as_deref()).await?;
        greet(settings, server, stream, on_push, drivers).await
    } else {
        greet(settings, server, stream, on_push, drivers).await
    }
}

/// A socket to the server, with options that find a dead peer.
pub(super) async fn dial(server: &Server) -> RedisResult<TcpStream> {
    let stream = TcpStream::connect((&*server.host, server.port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&keepalive)?;
    // Unacknowledged data for so long: the peer is gone without a word.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

async fn greet(
    settings: &RedisSettings,
    server: Server,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    on_push: Option<OnPush>,
    drivers: &Drivers,
) -> RedisResult<Connection> {
    let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    let info = settings.identify(info.set_db(settings.address.db.into()));
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
    Ok(Connection { redis, server, _cut: Arc::new(dead.clone().drop_guard()), dead })
}
