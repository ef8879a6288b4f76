//! What the terminal shows once both tiers are up, made to be pasted.

use std::net::SocketAddr;

use crate::{settings::Settings, token};

const USER: &str = "demo";

/// A working day and a night.
const TOKEN_LIFE_S: i64 = 24 * 60 * 60;

/// Tells where to connect and how to publish, on standard output; the log is on standard error.
pub(crate) fn print(settings: &Settings, demo: SocketAddr, ws: SocketAddr, api: SocketAddr) -> anyhow::Result<()> {
    let token = token::sign(settings.secret(), USER, TOKEN_LIFE_S)?;
    println!(
        "\nBoth tiers are up, on the memory broker: for development only.\n\n\
         Demo, to be opened in a browser:\n  http://{demo}/\n\n\
         Console:\n  {console}\n\n\
         WebSocket URL:\n  ws://{ws}/ws?token={token}\n\n\
         Development token (user {USER}, all rooms, one day):\n  {token}\n\n\
         Publish to the room lobby:\n  {publish}\n",
        console = console(api),
        publish = publish(api, "lobby"),
    );
    Ok(())
}

/// Where the fanout node shows its status.
pub(crate) fn console(api: SocketAddr) -> String {
    format!("http://{api}/console")
}

/// A command that publishes to this room.
pub(crate) fn publish(api: SocketAddr, room: &str) -> String {
    format!(
        "curl http://{api}/v1/rooms/{room}/publications -H 'content-type: application/json' \
         -d '{{\"body\":{{\"text\":\"hello\"}}}}'"
    )
}
