//! What the terminal shows once both tiers are up, made to be pasted.

use std::net::SocketAddr;

use anyhow::Context as _;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use service::Clock;

use crate::settings::Settings;

const USER: &str = "demo";

/// A working day and a night.
const TOKEN_LIFE_S: i64 = 24 * 60 * 60;

/// Tells where to connect and how to publish, on standard output; the log is on standard error.
pub(crate) fn print(settings: &Settings, ws: SocketAddr, api: SocketAddr) -> anyhow::Result<()> {
    let expires = Clock::system().unix_secs() + TOKEN_LIFE_S;
    let claims = json!({"sub": USER, "exp": expires, "rooms": ["*"]});
    let key = EncodingKey::from_secret(settings.secret().expose().as_bytes());
    let token = encode(&Header::default(), &claims, &key).context("sign the development token")?;
    println!(
        "\nBoth tiers are up, on the memory broker: for development only.\n\n\
         WebSocket URL:\n  ws://{ws}/ws?token={token}\n\n\
         Development token (user {USER}, all rooms, one day):\n  {token}\n\n\
         Publish to the room lobby:\n  \
         curl http://{api}/v1/rooms/lobby/publications -H 'content-type: application/json' \
         -d '{{\"body\":{{\"text\":\"hello\"}}}}'\n"
    );
    Ok(())
}
