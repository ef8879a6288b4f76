//! One text message of a client: understood or not, what is made of it fits the limits of `PROTOCOL.md`, and the answer
//! is JSON that tells the client which request it answers.

use edge::protocol::{ClientMessage, ErrorCode, Malformed, Request, ServerMessage};
use proto::Room;
use serde_json::{Value, value::RawValue};

/// See the module.
///
/// # Panics
/// If it does not hold.
pub fn run(input: &[u8]) {
    // What is not UTF-8 is found before it is parsed: that is for the target `socket`.
    let text = String::from_utf8_lossy(input);
    let is_json = serde_json::from_str::<&RawValue>(&text).is_ok();
    match Request::parse(&text) {
        Ok(request) => {
            assert!(is_json, "understood, and no JSON");
            check(&request, &text);
        }
        Err(malformed) => {
            assert_eq!(malformed.code == ErrorCode::BadJson, !is_json, "{malformed:?}");
            check_refusal(&malformed);
        }
    }
}

fn check(request: &Request, text: &str) {
    let id = request.id.as_deref();
    check_id(id);
    if let Some(room) = request.message.room() {
        assert!(Room::try_new(room).is_ok(), "{room:?}");
    }
    if let ClientMessage::Broadcast { body, key, .. } = &request.message {
        assert!(text.contains(&**body), "the body is not as it was sent");
        assert!(serde_json::from_str::<&RawValue>(body).is_ok(), "the body is no JSON: {body:?}");
        assert!(key.as_ref().is_none_or(|key| (1..=128).contains(&key.len())), "{key:?}");
    }
    // What serde's own tree makes of it says the same. It refuses numbers that no f64 holds, and deep nesting.
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        let kind = match request.message {
            ClientMessage::Join { .. } => "join",
            ClientMessage::Leave { .. } => "leave",
            ClientMessage::Broadcast { .. } => "broadcast",
            ClientMessage::Auth { .. } => "auth",
            ClientMessage::Ping => "ping",
        };
        assert_eq!(value["type"], kind);
        assert_eq!(value["id"].as_str(), id);
        if let Some(room) = request.message.room() {
            assert_eq!(value["payload"]["room"].as_str(), Some(room.as_str()));
        }
    }
    assert_eq!(read(&ServerMessage::Pong { id })["id"].as_str(), id);
}

fn check_refusal(Malformed { id, code, room, text }: &Malformed) {
    check_id(id.as_deref());
    assert_eq!(room.is_some(), *code == ErrorCode::BadRoom);
    assert!(room.as_deref().is_none_or(|room| Room::try_new(room).is_err()), "{room:?}");
    let answer = read(&ServerMessage::error(id.as_deref(), *code, text, room.as_deref()));
    assert_eq!(answer["id"].as_str(), id.as_deref());
    assert_eq!(answer["payload"]["code"], code.as_str());
    assert_eq!(answer["payload"]["room"].as_str(), room.as_deref());
    assert!(answer["payload"]["error"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
}

fn check_id(id: Option<&str>) {
    assert!(id.is_none_or(|id| id.len() <= 64), "{id:?}");
}

/// The message as a client reads it.
fn read(message: &ServerMessage<'_>) -> Value {
    let text = message.json();
    assert_eq!(message.frame(), edge::protocol::frame::text(text.as_bytes()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("an answer is no JSON: {error}: {text:?}"))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"type":"join","id":"1","payload":{"room":"order-42"}}"#,
        r#"{"type":"join","payload":{"room":"a","since":{"epoch":"k3f9","seq":17},"grant":"g.h"}}"#,
        r#"{"type":"join","payload":{"room":"a","since":{"last":20}}}"#,
        r#"{"type":"leave","id":"\u00e9","payload":{"room":"two words"}}"#,
        r#"{"type":"broadcast","id":"5","payload":{"room":"a","key":"k","body":{"text":"hi","n":[1,2.5e3,null]}}}"#,
        r#"{"type":"auth","payload":{"token":"a.b.c"}}"#,
        r#" {"type":"ping"} "#,
        r#"{"type":"dance","id":"x"}"#,
        r#"["join",null,{"room":"a"}]"#,
        "not JSON",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
