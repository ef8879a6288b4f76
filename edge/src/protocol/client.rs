//! Client → server (`PROTOCOL.md`, section 2).

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use proto::{Key, Position, Room};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ErrorCode;

/// Longest `id` of a request, in bytes.
const MAX_ID_BYTES: usize = 64;

/// One understood message, with the id its answer echoes.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: Option<Box<str>>,
    pub message: ClientMessage,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ClientMessage {
    Join { room: Room, since: Option<Since>, grant: Option<Box<str>> },
    Leave { room: Room },
    Broadcast { room: Room, body: Box<str>, key: Option<Key> },
    Auth { token: Box<str> },
    Ping,
}

/// Where a join is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    Position(Position),
    Last(u32),
}

/// A message that was not understood: the error that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    pub id: Option<Box<str>>,
    pub code: ErrorCode,
    /// What was given for a room's name and is none.
    pub room: Option<Box<str>>,
    pub text: Cow<'static, str>,
}

impl ClientMessage {
    /// The room it is about.
    pub fn room(&self) -> Option<&Room> {
        match self {
            Self::Join { room, .. } | Self::Leave { room } | Self::Broadcast { room, .. } => Some(room),
            Self::Auth { .. } | Self::Ping => None,
        }
    }
}

impl Request {
    /// Reads one text message.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let outer: Outer<'_> = object(text).map_err(|error| malformed_outer(text, error))?;
        let id: Option<Box<str>> = match outer.id {
            Some(id) if id.len() > MAX_ID_BYTES => {
                return Err(bad_message(None, format!("an id has at most {MAX_ID_BYTES} bytes")));
            }
            id => id.map(Into::into),
        };
        match parse_message(&outer.kind, outer.payload) {
            Ok(message) => Ok(Self { id, message }),
            Err(Refusal { code, text, room }) => Err(Malformed { id, code, room, text }),
        }
    }
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct JoinPayload<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow, default)]
    since: Option<&'a RawValue>,
    #[serde(borrow, default)]
    grant: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct SincePayload<'a> {
    #[serde(borrow, default)]
    epoch: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    last: Option<u32>,
}

#[derive(Deserialize)]
struct RoomPayload<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
}

#[derive(Deserialize)]
struct BroadcastPayload<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct AuthPayload<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
}

/// Why a message that is one of ours is not understood.
struct Refusal {
    code: ErrorCode,
    text: Cow<'static, str>,
    room: Option<Box<str>>,
}

impl Refusal {
    fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into(), room: None }
    }
}

fn parse_message(kind: &str, payload: Option<&RawValue>) -> Result<ClientMessage, Refusal> {
    match kind {
        "join" => {
            let JoinPayload { room, since, grant } = read(payload)?;
            let since = since.map(|since| since_of(&read(Some(since))?)).transpose()?;
            Ok(ClientMessage::Join { room: room_of(&room)?, since, grant: grant.map(Into::into) })
        }
        "leave" => {
            let RoomPayload { room } = read(payload)?;
            Ok(ClientMessage::Leave { room: room_of(&room)? })
        }
        "broadcast" => {
            let BroadcastPayload { room, body, key } = read(payload)?;
            let key = Key::try_new(key.as_deref().unwrap_or_default())
                .map_err(|error| Refusal::new(ErrorCode::BadMessage, error.to_string()))?;
            Ok(ClientMessage::Broadcast { room: room_of(&room)?, body: body.get().into(), key })
        }
        "auth" => {
            let AuthPayload { token } = read(payload)?;
            Ok(ClientMessage::Auth { token: token.into() })
        }
        "ping" => Ok(ClientMessage::Ping),
        _ => Err(Refusal::new(ErrorCode::UnknownType, "no such type of message")),
    }
}

fn read<'a, T: Deserialize<'a>>(payload: Option<&'a RawValue>) -> Result<T, Refusal> {
    let payload = payload.ok_or_else(|| Refusal::new(ErrorCode::BadMessage, "payload is missing"))?;
    // A wrong type's message quotes what the client sent, which is no more than it may send.
    object(payload.get()).map_err(|error| Refusal::new(ErrorCode::BadMessage, format!("payload: {error}")))
}

/// Reads an object. A derived `Deserialize` alone would take an array as well, for the fields in their order.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err("not an object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn room_of(name: &str) -> Result<Room, Refusal> {
    Room::try_new(name).map_err(|error| {
        // As it was sent, so that its sender knows which; it is no longer than a client's message.
        let room = Some(name.into());
        Refusal { code: ErrorCode::BadRoom, text: error.to_string().into(), room }
    })
}

fn since_of(since: &SincePayload<'_>) -> Result<Since, Refusal> {
    match since {
        SincePayload { epoch: Some(epoch), seq: Some(seq), last: None } => {
            Ok(Since::Position(Position::new(epoch, *seq)))
        }
        SincePayload { epoch: None, seq: None, last: Some(last) } => Ok(Since::Last(*last)),
        _ => Err(Refusal::new(ErrorCode::BadMessage, "since is either an epoch and a seq, or last")),
    }
}

/// Told apart: not JSON at all, and JSON that is no message.
fn malformed_outer(text: &str, error: String) -> Malformed {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return Malformed { id: None, code: ErrorCode::BadJson, room: None, text: "not JSON".into() };
    }
    bad_message(None, error)
}

fn bad_message(id: Option<Box<str>>, text: String) -> Malformed {
    Malformed { id, code: ErrorCode::BadMessage, room: None, text: text.into() }
}
