//! Who may join: the backend, or the token, says.

use serde_json::json;

use crate::harness::{Backend, Stage, Token};

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_decides() {
    let backend = Backend::start();
    let stage = Stage::plan().with("BACKEND_URL", format!("http://{}", backend.address)).start().await;
    let mut ana = stage.edge(0).connect("ana").await;

    assert_eq!(ana.join("order-ana").await["publish"], true);
    ana.request("join", json!({"room": "order-bob"})).await;
    let error = ana.expect("error").await;
    assert_eq!((&error["code"], &error["room"]), (&json!("not_authorized"), &json!("order-bob")));

    assert_eq!(ana.join("news").await["publish"], false);
    ana.request("broadcast", json!({"room": "news", "body": 1})).await;
    assert_eq!(ana.expect("error").await["code"], "not_authorized");

    ana.request("join", json!({"room": "broken"})).await;
    let error = ana.expect("error").await;
    assert_eq!(error["code"], "authorization_unavailable");
    assert!(error["retry_ms"].is_u64(), "{error}");

    assert_eq!(backend.asked(), 4);
    stage.edge(0).connect("ana").await.join("order-ana").await;
    assert_eq!(backend.asked(), 4, "the answer was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_the_token_decides() {
    let stage = Stage::plan().start().await;
    let token = Token::of("ana").with("rooms", json!(["order-*", "lobby"]));
    let mut ana = stage.edge(0).connect_with(&token).await;
    ana.join("order-42").await;
    ana.join("lobby").await;
    for room in ["lobby-2", "orders", "user:bob"] {
        ana.request("join", json!({"room": room})).await;
        assert_eq!(ana.expect("error").await["code"], "not_authorized", "{room}");
    }
    let mut boss = stage.edge(0).connect_with(&Token::of("boss").with("role", "Admin").with("rooms", json!([]))).await;
    boss.join("anything").await;
    boss.request("join", json!({"room": "user:ana"})).await;
    assert_eq!(boss.expect("error").await["code"], "not_authorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_room_reaches_all_of_its_connections() {
    let stage = Stage::plan().edges(2).start().await;
    let (mut one, mut two) = (stage.edge(0).connect("7").await, stage.edge(1).connect("7").await);
    stage.fanout(0).publish("user:7", r#""for you""#).await.unwrap();
    for client in [&mut one, &mut two] {
        assert_eq!(client.next_message().await.body(), r#""for you""#);
    }
    assert_eq!(one.join("user:7").await["publish"], false);
}
