//! What clients send wrongly, too long, too often or twice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    self,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::harness::{Client, Stage, Token, metric, soon};

fn join(room: &str) -> String {
    json!({"type": "join", "id": "7", "payload": {"room": room}}).to_string()
}

fn text(bytes: &[u8]) -> tungstenite::Message {
    tungstenite::Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(Data::Text), true))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_malformed_is_answered_and_the_connection_kept() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    ana.join("lobby").await;
    let deep = format!("{}1{}", "[".repeat(3000), "]".repeat(3000));
    for (sent, code, id) in [
        ("", "bad_json", None),
        ("{", "bad_json", None),
        ("ping", "bad_json", None),
        ("{'type':'ping'}", "bad_json", None),
        (r#"{"type":"ping"}{"type":"ping"}"#, "bad_json", None),
        ("\u{feff}{\"type\":\"ping\"}", "bad_json", None),
        (&"[".repeat(8000), "bad_json", None),
        (&deep, "bad_message", None),
        (r#"["ping"]"#, "bad_message", None),
        (r#""ping""#, "bad_message", None),
        ("{}", "bad_message", None),
        (r#"{"type":7}"#, "bad_message", None),
        (r#"{"type":"ping","id":7}"#, "bad_message", None),
        (&format!(r#"{{"type":"ping","id":"{}"}}"#, "i".repeat(65)), "bad_message", None),
        (r#"{"type":"dance","id":"7"}"#, "unknown_type", Some("7")),
        (r#"{"type":"Ping","id":"7"}"#, "unknown_type", Some("7")),
        (r#"{"type":"welcome","id":"7"}"#, "unknown_type", Some("7")),
        (r#"{"type":"join","id":"7"}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":null}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":["r"]}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":{}}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":{"room":7}}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":{"room":"r","since":7}}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":{"room":"r","since":{"seq":1}}}"#, "bad_message", Some("7")),
        (r#"{"type":"join","id":"7","payload":{"room":"r","grant":7}}"#, "bad_message", Some("7")),
        (r#"{"type":"leave","id":"7","payload":{"rooms":["r"]}}"#, "bad_message", Some("7")),
        (r#"{"type":"broadcast","id":"7","payload":{"room":"lobby"}}"#, "bad_message", Some("7")),
        (r#"{"type":"broadcast","id":"7","payload":{"body":1}}"#, "bad_message", Some("7")),
        (r#"{"type":"broadcast","id":"7","payload":{"room":"lobby","body":1,"key":7}}"#, "bad_message", Some("7")),
        (&join(""), "bad_room", Some("7")),
        (&join(&"r".repeat(201)), "bad_room", Some("7")),
        (&join(&"é".repeat(101)), "bad_room", Some("7")),
        (&join("two\nlines"), "bad_room", Some("7")),
        (&join("nul\0"), "bad_room", Some("7")),
        (&join(" r"), "bad_room", Some("7")),
        (&join("r\u{a0}"), "bad_room", Some("7")),
        (r#"{"type":"auth","id":"7","payload":{"token":null}}"#, "bad_message", Some("7")),
        (r#"{"type":"auth","id":"7","payload":"x.y.z"}"#, "bad_message", Some("7")),
    ] {
        ana.send(sent).await;
        let error = ana.next_of_all().await.json;
        let shown: String = sent.chars().take(80).collect();
        assert_eq!((&error["type"], &error["payload"]["code"]), (&json!("error"), &json!(code)), "{shown}");
        assert_eq!(error["id"], json!(id), "{shown}");
        let asked: Value = serde_json::from_str(sent).unwrap_or_default();
        let room = if code == "bad_room" { &asked["payload"]["room"] } else { &Value::Null };
        assert_eq!(&error["payload"]["room"], room, "{shown}");
        assert_eq!(error["payload"]["retry_ms"], Value::Null, "{shown}");
        assert!(error["payload"]["error"].as_str().is_some_and(|text| !text.is_empty()), "{shown}");
        // Understood, so that there are never 20 in a row.
        ana.ping().await;
    }
    ana.join(&"r".repeat(200)).await;
    ana.broadcast("lobby", "1").await;
    assert_eq!(ana.next_message().await.seq(), 1, "nothing of it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_rules_ends_the_connection_with_its_code() {
    let stage = Stage::plan().with("WRITE_WAIT", "1s").start().await;
    let spaces = " ".repeat(1 << 20);
    let just_too_long = format!("{}{{\"type\":\"ping\"}}", " ".repeat(8193 - 15));
    for (message, closed) in [
        (tungstenite::Message::binary(&br#"{"type":"ping"}"#[..]), "1003 binary"),
        (text(b"\xff"), "1007 bad_utf8"),
        (text(b"{\"type\":\"ping\",\"x\":\"\xc3\x28\"}"), "1007 bad_utf8"),
        (text(b"\xed\xa0\x80"), "1007 bad_utf8"),
        (text(spaces.as_bytes()), "1009 message_too_large"),
        (text(just_too_long.as_bytes()), "1009 message_too_large"),
    ] {
        let mut ana = stage.edge(0).connect("ana").await;
        ana.send_raw(message).await;
        assert_eq!(ana.closed().await, closed);
    }
    let mut ana = stage.edge(0).connect("ana").await;
    ana.send(&just_too_long[1..]).await;
    ana.next("pong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_is_no_matter_and_a_body_over_the_limit_is_said_to_be() {
    let stage = Stage::plan().with("MAX_MESSAGE_BYTES", "1MiB").start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    ana.join("lobby").await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    ana.broadcast("lobby", &nested(30_000)).await;
    assert_eq!(ana.next_message().await.body(), nested(30_000));
    ana.send(&nested(100_000)).await;
    assert_eq!(ana.expect("error").await["code"], "bad_message");
    let too_large =
        format!(r#"{{"type":"broadcast","id":"7","payload":{{"room":"lobby","body":{}}}}}"#, nested(100_000));
    ana.send(&too_large).await;
    let error = ana.answer("7").await.json;
    assert_eq!(error["payload"]["code"], "message_too_large");
    assert_eq!(error["payload"]["retry_ms"], Value::Null);
    assert_eq!(ana.broadcast("lobby", "1").await["seq"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_so_many_rooms() {
    let stage = Stage::plan().with("MAX_ROOMS_PER_CONNECTION", "2").start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    ana.join("one").await;
    ana.join("two").await;
    let error = ana.refused("join", json!({"room": "three"})).await;
    assert_eq!(
        (&error["code"], &error["room"], &error["retry_ms"]),
        (&json!("too_many_rooms"), &json!("three"), &Value::Null)
    );
    assert_eq!(metric(stage.edge(0).ops, r#"espigon_edge_errors_total{code="too_many_rooms"}"#).await, 1);
    ana.ask("leave", json!({"room": "one"})).await;
    stage.edge(0).connect("bob").await.join("one").await;
    let mut other = stage.edge(0).connect("ana").await;
    other.join("three").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_its_rate_is_not_done_and_twice_the_burst_ends_it() {
    let stage = Stage::plan().with("CLIENT_RATE", "1/s").with("CLIENT_BURST", "20").start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    ana.join("lobby").await;
    // In one go, so that nothing is given back meanwhile but for a slow machine's seconds.
    let ids: Vec<_> = (0..30).map(|number| format!("b{number}")).collect();
    for id in &ids {
        ana.send(&json!({"type": "broadcast", "id": id, "payload": {"room": "lobby", "body": id}}).to_string()).await;
    }
    let (mut done, mut refused) = (0, 0);
    for id in &ids {
        let answer = ana.answer(id).await;
        if answer.is("ack") {
            done += 1;
            continue;
        }
        let error = &answer.json["payload"];
        assert_eq!((&error["code"], &error["room"]), (&json!("rate_limited"), &json!("lobby")));
        assert!(error["retry_ms"].as_u64().is_some_and(|ms| (1000..=21_000).contains(&ms)), "{error}");
        refused += 1;
    }
    assert!(done >= 20 && refused > 0, "{done} done, {refused} refused");
    assert!(ana.join("other").await["seq"].is_u64(), "joins have an allowance of their own");
    ana.next_messages(done).await;
    let position = stage.edge(0).connect("bob").await.join("lobby").await;
    assert_eq!(position["seq"], done, "what was refused is not done");

    // Up to the end, and beyond: the rest finds nobody.
    for _ in 0..60 {
        if ana.try_send(r#"{"type":"ping"}"#).await.is_err() {
            break;
        }
    }
    assert_eq!(ana.closed().await, "4029 rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_have_an_allowance_of_their_own() {
    let plan = Stage::plan().with("MAX_ROOMS_PER_CONNECTION", "5").with("CLIENT_RATE", "1/s").with("CLIENT_BURST", "1");
    let stage = plan.start().await;
    // Their own room makes it six in ten seconds.
    let mut ana = Client::connect_apart(stage.edge(0).ws, &Token::of("ana").sign()).await;
    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.push(ana.request("join", json!({"room": "lobby"})).await);
    }
    let (mut joined, mut limited) = (0, 0);
    for id in answers {
        let answer = ana.answer(&id).await;
        if answer.is("joined") {
            joined += 1;
        } else {
            assert_eq!(answer.json["payload"]["code"], "rate_limited");
            assert!(answer.json["payload"]["retry_ms"].is_u64());
            limited += 1;
        }
    }
    assert!(joined >= 6 && limited > 0, "{joined} joined, {limited} refused");
    ana.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_errors_in_a_row_end_it() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let wrong = ["{", "[]", r#"{"type":"dance"}"#, &join(" ")];
    for round in 0..2 {
        for index in 0..19 {
            ana.send(wrong[index % wrong.len()]).await;
            assert!(ana.next_of_all().await.is("error"), "{round}");
        }
        // Even one that is refused was understood.
        assert_eq!(ana.refused("broadcast", json!({"room": "lobby", "body": 1})).await["code"], "not_joined");
    }
    for index in 0..20 {
        ana.send(wrong[index % wrong.len()]).await;
        assert!(ana.next_of_all().await.is("error"));
    }
    assert_eq!(ana.closed().await, "1008 too_many_errors");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_the_senders_in_its_room() {
    for plan in [Stage::plan(), Stage::plan().redis()] {
        let stage = plan.edges(2).start().await;
        let mut ana = stage.edge(0).connect("ana").await;
        let mut bob = stage.edge(0).connect("bob").await;
        let mut elsewhere = stage.edge(1).connect("ana").await;
        for client in [&mut ana, &mut bob, &mut elsewhere] {
            client.join("lobby").await;
            client.join("other").await;
        }
        let send = |room: &str, body: u64| json!({"room": room, "body": body, "key": "k"});
        let ack = |message: crate::harness::Message| {
            let payload = &message.json["payload"];
            (payload["seq"].as_u64().unwrap(), payload["duplicate"].as_bool().unwrap())
        };
        assert_eq!(ack(ana.ask("broadcast", send("lobby", 1)).await), (1, false));
        assert_eq!(ack(ana.ask("broadcast", send("lobby", 2)).await), (1, true));
        assert_eq!(ack(elsewhere.ask("broadcast", send("lobby", 3)).await), (1, true), "on any edge");
        assert_eq!(ack(bob.ask("broadcast", send("lobby", 4)).await), (2, false), "another user");
        assert_eq!(ack(ana.ask("broadcast", send("other", 5)).await), (1, false), "another room");
        assert_eq!(ack(ana.ask("broadcast", json!({"room": "lobby", "body": 6, "key": "K"})).await), (3, false));
        let got = bob.next_messages(4).await;
        let mut bodies: Vec<_> = got.iter().map(|message| message.json["body"].as_u64().unwrap()).collect();
        bodies.sort_unstable();
        assert_eq!(bodies, [1, 4, 5, 6], "the first of each, once");
        assert!(got.iter().all(|message| message.json["key"].as_str().is_some_and(|key| key == "k" || key == "K")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_forgotten_after_its_time() {
    for plan in [Stage::plan(), Stage::plan().redis()] {
        let stage = plan.with("DEDUP_WINDOW", "1s").start().await;
        let mut ana = stage.edge(0).connect("ana").await;
        assert_eq!(ana.welcome["dedup_ms"], 1000);
        ana.join("lobby").await;
        let mut send = async || {
            let ack = ana.ask("broadcast", json!({"room": "lobby", "body": 1, "key": "k"})).await;
            (ack.json["payload"]["seq"].as_u64().unwrap(), ack.json["payload"]["duplicate"] == true)
        };
        let start = tokio::time::Instant::now();
        assert_eq!(send().await, (1, false));
        soon("a new message", async {
            while send().await != (2, false) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert!(start.elapsed() >= Duration::from_millis(990), "not before: {:?}", start.elapsed());
    }
}
