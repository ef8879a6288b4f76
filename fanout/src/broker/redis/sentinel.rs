//! Asks Sentinels where the primary is. All of them, at the same time: one that is cut off from the others names the
//! primary of before, and is outvoted by the one that knows the latest failover.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use super::{
    RedisSettings,
    address::{Place, Server},
    connect::dial,
};

/// For one Sentinel to connect and answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the primary is now.
pub(super) async fn primary(settings: &RedisSettings) -> RedisResult<Server> {
    let (sentinels, name) = match &settings.address.place {
        Place::At(server) => return Ok(server.clone()),
        Place::Sentinels { sentinels, name } => (sentinels, name),
    };
    let answers = join_all(sentinels.iter().map(|sentinel| async move {
        let late = || RedisError::from((ErrorKind::Io, "a Sentinel did not answer in time"));
        timeout(PATIENCE, ask(sentinel, name, settings)).await.unwrap_or_else(|_| Err(late()))
    }))
    .await;
    let mut failure = RedisError::from((ErrorKind::Io, "no Sentinel knows the primary"));
    let mut best: Option<(u64, Server)> = None;
    for answer in answers {
        match answer {
            Ok((epoch, server)) if best.as_ref().is_none_or(|(known, _)| epoch > *known) => {
                best = Some((epoch, server));
            }
            Ok(_) => {}
            Err(error) => failure = error,
        }
    }
    best.map(|(_, server)| server).ok_or(failure)
}

/// What one of them says, and of which failover it knows. Most want no password; one that does wants Redis' own.
async fn ask(sentinel: &Server, name: &str, settings: &RedisSettings) -> RedisResult<(u64, Server)> {
    let plain = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    match ask_as(plain.clone(), sentinel, name).await {
        Err(error) if error.code() == Some("NOAUTH") => ask_as(settings.identify(plain), sentinel, name).await,
        answer => answer,
    }
}

async fn ask_as(info: RedisConnectionInfo, sentinel: &Server, name: &str) -> RedisResult<(u64, Server)> {
    let stream = dial(sentinel).await?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let (mut redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    let mut question = redis::pipe();
    question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    question.cmd("SENTINEL").arg("MASTER").arg(name);
    // The driver works for as long as there is an answer to wait for, and is dropped with the connection.
    let (address, about): (Option<(String, u16)>, HashMap<String, String>) = tokio::select! {
        answer = question.query_async(&mut redis) => answer?,
        () = driver => return Err(RedisError::from((ErrorKind::Io, "a Sentinel closed the connection"))),
    };
    let unknown = || RedisError::from((ErrorKind::UnexpectedReturnType, "a Sentinel knows no primary of this name"));
    let (host, port) = address.ok_or_else(unknown)?;
    let epoch = about.get("config-epoch").and_then(|epoch| epoch.parse().ok()).ok_or_else(unknown)?;
    Ok((epoch, Server { host, port }))
}
