use proptest::prelude::*;

use super::*;

fn room(name: &str) -> Room {
    Room::try_new(name).unwrap()
}

fn code(text: &str) -> ErrorCode {
    Request::parse(text).unwrap_err().code
}

#[test]
fn every_message_of_the_page_is_understood() {
    let parse = |text| Request::parse(text).unwrap().message;
    assert_eq!(
        parse(r#"{"type":"join","id":"1","payload":{"room":"order-42"}}"#),
        ClientMessage::Join { room: room("order-42"), since: None, grant: None }
    );
    assert_eq!(
        parse(
            r#"{"type":"join","id":"2","payload":{"room":"order-42","since":{"epoch":"k3f9","seq":17},"grant":"v1"}}"#
        ),
        ClientMessage::Join {
            room: room("order-42"),
            since: Some(Since::Position(Position::new("k3f9", 17))),
            grant: Some("v1".into())
        }
    );
    assert_eq!(
        parse(r#"{"type":"join","payload":{"room":"order-42","since":{"last":20}}}"#),
        ClientMessage::Join { room: room("order-42"), since: Some(Since::Last(20)), grant: None }
    );
    assert_eq!(
        parse(r#"{"type":"leave","id":"4","payload":{"room":"order-42"}}"#),
        ClientMessage::Leave { room: room("order-42") }
    );
    assert_eq!(
        parse(r#"{"type":"auth","id":"6","payload":{"token":"abc"}}"#),
        ClientMessage::Auth { token: "abc".into() }
    );
    assert_eq!(parse(r#"{"type":"ping","id":"7","else":[1]}"#), ClientMessage::Ping);
}

#[test]
fn a_body_is_kept_byte_for_byte() {
    for body in [r#"{"a" : 1.0, "a":12345678901234567890123}"#, r#""\u00e9\/🦀""#, "1e5", "null", "[ ]"] {
        let text = format!(r#"{{"type":"broadcast","payload":{{"room":"r","body":{body},"key":"k"}}}}"#);
        let Ok(Request { message: ClientMessage::Broadcast { body: got, .. }, .. }) = Request::parse(&text) else {
            panic!("{text}")
        };
        assert_eq!(&*got, body);
    }
}

#[test]
fn what_is_malformed_is_named() {
    assert_eq!(code("{"), ErrorCode::BadJson);
    assert_eq!(code(""), ErrorCode::BadJson);
    assert_eq!(code("[1]"), ErrorCode::BadMessage);
    assert_eq!(code(r#"{"id":"1"}"#), ErrorCode::BadMessage);
    assert_eq!(code(r#"{"type":"ping","id":7}"#), ErrorCode::BadMessage);
    assert_eq!(code(r#"{"type":"dance"}"#), ErrorCode::UnknownType);
    assert_eq!(code(r#"{"type":"join"}"#), ErrorCode::BadMessage);
    assert_eq!(code(r#"{"type":"join","payload":{"room":1}}"#), ErrorCode::BadMessage);
    assert_eq!(code(r#"{"type":"join","payload":{"room":""}}"#), ErrorCode::BadRoom);
    assert_eq!(code(r#"{"type":"join","payload":{"room":"r","since":{"seq":1}}}"#), ErrorCode::BadMessage);
    assert_eq!(code(r#"{"type":"broadcast","payload":{"room":"r"}}"#), ErrorCode::BadMessage);
    let long = format!(r#"{{"type":"ping","id":"{}"}}"#, "i".repeat(65));
    assert_eq!(code(&long), ErrorCode::BadMessage);
    let error = Request::parse(r#"{"type":"join","id":"9","payload":{}}"#).unwrap_err();
    assert_eq!(error.id.as_deref(), Some("9"));
}

#[test]
fn arrays_are_no_messages() {
    for text in [
        r#"["ping"]"#,
        r#" ["ping","1"]"#,
        r#"["join","1",{"room":"r"}]"#,
        r#"{"type":"join","payload":["r"]}"#,
        r#"{"type":"join","payload":["r",null,"v1.x"]}"#,
        r#"{"type":"join","payload":{"room":"r","since":["e",1]}}"#,
        r#"{"type":"leave","payload":["r"]}"#,
        r#"{"type":"broadcast","payload":["r",1]}"#,
        r#"{"type":"auth","payload":["t"]}"#,
        r#""ping""#,
        "null",
        "7",
    ] {
        assert_eq!(code(text), ErrorCode::BadMessage, "{text}");
    }
    assert_eq!(code(r#"["ping""#), ErrorCode::BadJson);
    // No white space of JSON.
    assert_eq!(code("\u{c}{\"type\":\"ping\"}"), ErrorCode::BadJson);
    assert_eq!(Request::parse("\r\n\t {\"type\":\"ping\"} ").unwrap().message, ClientMessage::Ping);
}

#[test]
fn ids_are_strings_of_64_bytes_at_most() {
    let id = |id: &serde_json::Value| {
        Request::parse(&serde_json::json!({"type": "ping", "id": id}).to_string()).map(|request| request.id)
    };
    for good in ["", "7", "\0🦀", &"i".repeat(64), &"é".repeat(32)] {
        assert_eq!(id(&good.into()).unwrap().as_deref(), Some(good));
    }
    assert_eq!(id(&serde_json::Value::Null).unwrap(), None);
    for bad in [
        serde_json::json!(7),
        serde_json::json!(7.5),
        serde_json::json!(true),
        serde_json::json!(["7"]),
        serde_json::json!({}),
        "i".repeat(65).into(),
        "é".repeat(33).into(),
    ] {
        assert_eq!(id(&bad).unwrap_err().code, ErrorCode::BadMessage, "{bad}");
    }
}

#[test]
fn a_key_has_at_most_128_bytes() {
    let send =
        |key: &str| Request::parse(&format!(r#"{{"type":"broadcast","payload":{{"room":"r","body":1,"key":{key}}}}}"#));
    assert!(send(&format!("{:?}", "k".repeat(128))).is_ok());
    for bad in [&*format!("{:?}", "k".repeat(129)), "7", "[]", "{}", "true"] {
        assert_eq!(send(bad).unwrap_err().code, ErrorCode::BadMessage, "{bad}");
    }
}

#[test]
fn a_known_field_stands_once() {
    for text in [
        r#"{"type":"ping","type":"ping"}"#,
        r#"{"type":"ping","id":"1","id":"1"}"#,
        r#"{"type":"leave","payload":{"room":"r"},"payload":{"room":"r"}}"#,
        r#"{"type":"leave","payload":{"room":"r","room":"r"}}"#,
        r#"{"type":"join","payload":{"room":"r","since":{"last":1,"last":1}}}"#,
        r#"{"type":"broadcast","payload":{"room":"r","body":1,"body":2}}"#,
    ] {
        assert_eq!(code(text), ErrorCode::BadMessage, "{text}");
    }
    let text = r#"{"type":"leave","x":1,"x":2,"payload":{"room":"r","x":{},"x":[]}}"#;
    assert!(Request::parse(text).is_ok(), "unknown fields are ignored, however often they stand there");
}

#[test]
fn since_has_one_of_two_shapes() {
    let since = |json: &str| Request::parse(&format!(r#"{{"type":"join","payload":{{"room":"r","since":{json}}}}}"#));
    for good in [
        r#"{"epoch":"","seq":0}"#,
        r#"{"seq":18446744073709551615,"epoch":"e"}"#,
        r#"{"last":0}"#,
        r#"{"last":4294967295,"x":1}"#,
        "null",
    ] {
        assert!(since(good).is_ok(), "{good}");
    }
    for bad in [
        "{}",
        r#"{"epoch":"e"}"#,
        r#"{"seq":1}"#,
        r#"{"epoch":"e","seq":1,"last":1}"#,
        r#"{"epoch":"e","last":1}"#,
        r#"{"epoch":1,"seq":1}"#,
        r#"{"epoch":"e","seq":"1"}"#,
        r#"{"epoch":"e","seq":-1}"#,
        r#"{"epoch":"e","seq":1.5}"#,
        r#"{"epoch":"e","seq":18446744073709551616}"#,
        r#"{"last":-1}"#,
        r#"{"last":1.0}"#,
        r#"{"last":4294967296}"#,
        r#"{"last":"1"}"#,
        r#"{"last":null}"#,
        r#""e""#,
        "17",
        "true",
        "[]",
    ] {
        assert_eq!(since(bad).unwrap_err().code, ErrorCode::BadMessage, "{bad}");
    }
}

#[test]
fn depth_is_no_matter() {
    const DEPTH: usize = 100_000;
    let (open, close) = ("[".repeat(DEPTH), "]".repeat(DEPTH));
    let deep = format!("{open}{close}");
    let text = format!(r#"{{"type":"broadcast","payload":{{"room":"r","body":{deep}}}}}"#);
    let Ok(Request { message: ClientMessage::Broadcast { body, .. }, .. }) = Request::parse(&text) else {
        panic!("a body is any JSON")
    };
    assert_eq!(&*body, deep);
    assert_eq!(code(&deep), ErrorCode::BadMessage);
    assert_eq!(code(&open), ErrorCode::BadJson);
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    for text in [
        objects.clone(),
        format!(r#"{{"type":{objects}}}"#),
        format!(r#"{{"type":"ping","id":{deep}}}"#),
        format!(r#"{{"type":"leave","payload":{deep}}}"#),
        format!(r#"{{"type":"leave","payload":{{"room":{objects}}}}}"#),
        format!(r#"{{"type":"join","payload":{{"room":"r","since":{objects}}}}}"#),
    ] {
        assert_eq!(code(&text), ErrorCode::BadMessage, "{}…", &text[..40]);
    }
    assert!(Request::parse(&format!(r#"{{"type":"ping","else":{objects}}}"#)).is_ok());
}

/// Messages that are nearly good: a piece of one replaced by other bytes.
fn nearly_good() -> impl Strategy<Value = Vec<u8>> {
    let good = prop::sample::select(vec![
        r#"{"type":"join","id":"2","payload":{"room":"order-42","since":{"epoch":"k3f9","seq":17},"grant":"v1"}}"#,
        r#"{"type":"join","payload":{"room":"order-42","since":{"last":20}}}"#,
        r#"{"type":"broadcast","id":"5","payload":{"room":"é","body":{"a":[1e5,"\ud83e\udd80"]},"key":"k"}}"#,
        r#"{"type":"auth","id":"6","payload":{"token":"abc"}}"#,
    ]);
    let pieces = ["[", "{", "}", "]", ",", ":", "\"", "null", "\\u", "-1", "1e999"];
    let other = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        prop::sample::select(pieces.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
    ];
    (good, any::<prop::sample::Index>(), 0..8usize, other).prop_map(|(good, at, length, other)| {
        let mut bytes = good.as_bytes().to_vec();
        let at = at.index(bytes.len());
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, other);
        bytes
    })
}

proptest! {
    #[test]
    fn no_input_panics(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), nearly_good()]) {
        // Bytes that are no UTF-8 do not get here: they end the connection.
        let _ = Request::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = Request::parse(&text);
    }

    #[test]
    fn broadcasts_survive_the_way(name in "[a-z]{1,20}", body in any::<i64>(), id in prop::option::of("[a-z0-9]{1,64}")) {
        let message = serde_json::json!({"type": "broadcast", "id": id, "payload": {"room": name, "body": body}});
        let request = Request::parse(&message.to_string()).unwrap();
        prop_assert_eq!(request.id.as_deref(), id.as_deref());
        let sent = ClientMessage::Broadcast { room: room(&name), body: body.to_string().into(), key: None };
        prop_assert_eq!(request.message, sent);
    }
}
