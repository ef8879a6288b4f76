//! Server → client (`PROTOCOL.md`, section 3), but for the envelope, which is shared by all members.

use bytes::Bytes;
use proto::Position;
use serde::Serialize;

use super::{ErrorCode, frame};

/// A message to one client.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerMessage<'a> {
    Welcome {
        payload: Welcome<'a>,
    },
    Joined {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        payload: Joined<'a>,
    },
    Left {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        payload: Left<'a>,
    },
    Ack {
        id: &'a str,
        payload: Ack<'a>,
    },
    Lost {
        payload: Lost<'a>,
    },
    Reconnect {
        payload: Reconnect,
    },
    Authenticated {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        payload: Authenticated,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        payload: Error<'a>,
    },
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Welcome<'a> {
    pub connection: &'a str,
    pub user: &'a str,
    /// Unix time in seconds.
    pub expires: i64,
    pub ping_ms: u64,
    pub dedup_ms: u64,
    pub reconnect_ms: u64,
    pub max_message_bytes: usize,
    pub rooms: &'a [&'a str],
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Joined<'a> {
    pub room: &'a str,
    pub epoch: &'a str,
    pub seq: u64,
    pub recovered: bool,
    pub publish: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Left<'a> {
    pub room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ack<'a> {
    pub room: &'a str,
    pub epoch: &'a str,
    pub seq: u64,
    pub duplicate: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lost<'a> {
    pub room: &'a str,
    pub epoch: &'a str,
    pub seq: u64,
    pub reason: LostReason,
    pub after_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LostReason {
    History,
    Failover,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Reconnect {
    pub after_ms: u64,
    pub reason: ReconnectReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReconnectReason {
    Draining,
    Age,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Authenticated {
    /// Unix time in seconds.
    pub expires: i64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Error<'a> {
    pub code: &'a str,
    pub error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u32>,
}

impl<'a> ServerMessage<'a> {
    /// An error, with the hint when to repeat if its code is a passing one.
    pub fn error(id: Option<&'a str>, code: ErrorCode, error: &'a str, room: Option<&'a str>) -> Self {
        Self::Error { id, payload: Error { code: code.as_str(), error, room, retry_ms: code.retry_ms() } }
    }

    /// An error's hint when to repeat, better known than by its code.
    #[must_use]
    pub fn retry_in(mut self, ms: u32) -> Self {
        if let Self::Error { payload, .. } = &mut self {
            payload.retry_ms = Some(ms);
        }
        self
    }

    pub fn lost(room: &'a str, position: &'a Position, reason: LostReason, after_ms: u64) -> Self {
        Self::Lost { payload: Lost { room, epoch: &position.epoch, seq: position.seq, reason, after_ms } }
    }

    pub fn reconnect(after_ms: u64, reason: ReconnectReason) -> Self {
        Self::Reconnect { payload: Reconnect { after_ms, reason } }
    }

    pub fn json(&self) -> String {
        // Plain structs of strings and numbers cannot fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub fn frame(&self) -> Bytes {
        frame::text_with(256, |buffer| {
            let _ = serde_json::to_writer(buffer, self);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_page_shows_them() {
        let joined = Joined { room: "order-42", epoch: "k3f9", seq: 17, recovered: false, publish: true, grant: None };
        assert_eq!(
            ServerMessage::Joined { id: Some("1"), payload: joined }.json(),
            r#"{"type":"joined","id":"1","payload":{"room":"order-42","epoch":"k3f9","seq":17,"recovered":false,"publish":true}}"#
        );
        assert_eq!(
            ServerMessage::Left { id: None, payload: Left { room: "order-42", reason: Some("removed") } }.json(),
            r#"{"type":"left","payload":{"room":"order-42","reason":"removed"}}"#
        );
        let ack = Ack { room: "order-42", epoch: "k3f9", seq: 18, duplicate: false };
        assert_eq!(
            ServerMessage::Ack { id: "5", payload: ack }.json(),
            r#"{"type":"ack","id":"5","payload":{"room":"order-42","epoch":"k3f9","seq":18,"duplicate":false}}"#
        );
        let position = Position::new("p0q1", 90);
        assert_eq!(
            ServerMessage::lost("order-42", &position, LostReason::History, 800).json(),
            r#"{"type":"lost","payload":{"room":"order-42","epoch":"p0q1","seq":90,"reason":"history","after_ms":800}}"#
        );
        assert_eq!(
            ServerMessage::reconnect(1740, ReconnectReason::Draining).json(),
            r#"{"type":"reconnect","payload":{"after_ms":1740,"reason":"draining"}}"#
        );
        assert_eq!(ServerMessage::Pong { id: Some("7") }.json(), r#"{"type":"pong","id":"7"}"#);
        assert_eq!(
            ServerMessage::error(Some("8"), ErrorCode::Unavailable, "no fanout node answers", Some("order-42")).json(),
            r#"{"type":"error","id":"8","payload":{"code":"unavailable","error":"no fanout node answers","room":"order-42","retry_ms":1500}}"#
        );
        assert_eq!(
            ServerMessage::error(None, ErrorCode::BadJson, "not JSON", None).json(),
            r#"{"type":"error","payload":{"code":"bad_json","error":"not JSON"}}"#
        );
    }
}
