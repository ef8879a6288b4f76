//! A body is carried byte for byte, whatever the way in.

use crate::harness::Stage;

const BODIES: &[&str] = &[
    "12345678901234567890123456789012345678901234567890",
    "1.0",
    "-0.0",
    "1e400",
    "1E+2",
    r#"{"a":1,"a":2,"b":{"a":1,"a":1.0}}"#,
    r#"{"z":1,"a":2}"#,
    r#""\u00e9\ud83e\udd80\/\b\"\\""#,
    r#""é🦀👩‍👩‍👧""#,
    r#""\u0000""#,
    r#"{ "spaced" : [ 1 , 2 ,	3 ] }"#,
    r#"{"type":"message","seq":99,"room":"elsewhere"}"#,
    "null",
    "false",
    r#""""#,
    "[]",
    r#"[[[[[[[[[[{"deep":true}]]]]]]]]]]"#,
];

#[tokio::test(flavor = "multi_thread")]
async fn over_memory() {
    byte_for_byte(&Stage::plan().start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_redis() {
    byte_for_byte(&Stage::plan().redis().start().await).await;
}

async fn byte_for_byte(stage: &Stage) {
    let (mut ana, mut bob) = (stage.edge(0).connect("ana").await, stage.edge(0).connect("bob").await);
    ana.join("lobby").await;
    bob.join("lobby").await;
    for body in BODIES {
        ana.broadcast("lobby", body).await;
        stage.fanout(0).publish("lobby", body).await.unwrap();
        let (status, answer) = stage.fanout(0).post("lobby", body).await;
        assert_eq!(status, 200, "{body}: {answer}");
        for message in bob.next_messages(3).await {
            assert_eq!(message.body(), *body, "from {}", message.json["from"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_is_refused() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    ana.join("lobby").await;
    for body in ["", "nul", "{", "1 2", "'a'", "[1,]", "NaN", "\u{feff}1"] {
        assert!(stage.fanout(0).publish("lobby", body).await.is_err(), "{body}");
        ana.send(&format!(r#"{{"type":"broadcast","id":"x","payload":{{"room":"lobby","body":{body}}}}}"#)).await;
        let error = ana.expect("error").await;
        assert!(["bad_json", "bad_message"].contains(&error["code"].as_str().unwrap()), "{body}: {error}");
    }
    ana.broadcast("lobby", "1").await;
    assert_eq!(ana.next_message().await.seq(), 1, "nothing of it was stored");
}
