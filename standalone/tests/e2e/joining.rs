//! Section 4 of the contract: who may join, and what the backend has to do with it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Backend, Client, Plan, Question, Reply, Stage, Token, eventually, get, soon};

/// A backend that lets everybody in everywhere.
fn generous() -> Backend {
    Backend::answering(|_| Reply::Yes)
}

/// One that keeps whoever asks about `slow…` waiting.
fn slow() -> Backend {
    Backend::answering(|question| if question.room.starts_with("slow") { Reply::Held } else { Reply::Yes })
}

/// A stage that asks it each time.
fn asking(backend: &Backend) -> Plan {
    Stage::plan().with("BACKEND_URL", backend.url()).with("BACKEND_CACHE_TTL", "0s")
}

fn code(error: &Value) -> &str {
    error["code"].as_str().unwrap()
}

async fn member(stage: &Stage, edge: usize, user: &str, room: &str) -> Value {
    stage.edge(edge).connect(user).await.join(room).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_is_as_agreed() {
    let backend = generous();
    let stage = asking(&backend).with("HTTP_PROXY", "http://127.0.0.1:1").with("http_proxy", "http://127.0.0.1:1");
    let stage = stage.with("ALL_PROXY", "http://127.0.0.1:1").start().await;
    member(&stage, 0, "ana/7&x=1", "two words & é").await;
    let [Question { target, headers, .. }] = &backend.questions()[..] else { panic!("one question") };
    assert_eq!(target, "/ws/can_join?room=two%20words%20%26%20%C3%A9&user_id=ana%2F7%26x%3D1");
    assert_eq!(headers["accept"], "application/json");
    assert_eq!(headers.get("authorization"), None, "the token is not the backend's to see");
    let trace = headers["traceparent"].to_str().unwrap().to_owned();
    assert!(trace.len() == 55 && trace.starts_with("00-") && trace.ends_with("-00"), "{trace}");
    member(&stage, 0, "ana", "lobby").await;
    assert_ne!(backend.questions()[1].headers["traceparent"], *trace);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_choose_the_path() {
    let backend = generous();
    let routes = "order-{id}=/orders/{id}/can_access, order-{id}=/never/{id} ,seller-{id}=/sellers/{id}/can_access";
    let stage = asking(&backend).with("JOIN_ROUTES", routes).with("BACKEND_URL", format!("{}/api/", backend.url()));
    let stage = stage.start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    for (room, target) in [
        ("order-42", "/api/orders/42/can_access?user_id=ana"),
        ("seller-é x", "/api/sellers/%C3%A9%20x/can_access?user_id=ana"),
        ("order-../../admin", "/api/orders/..%2F..%2Fadmin/can_access?user_id=ana"),
        ("order-%2e%2e", "/api/orders/%252e%252e/can_access?user_id=ana"),
        ("order-1?user_id=bob#", "/api/orders/1%3Fuser_id%3Dbob%23/can_access?user_id=ana"),
        ("order-...", "/api/orders/.../can_access?user_id=ana"),
        ("order-.", "/api/ws/can_join?room=order-.&user_id=ana"),
        ("order-..", "/api/ws/can_join?room=order-..&user_id=ana"),
        ("order-", "/api/ws/can_join?room=order-&user_id=ana"),
        ("lobby", "/api/ws/can_join?room=lobby&user_id=ana"),
    ] {
        ana.join(room).await;
        assert_eq!(backend.questions().last().unwrap().target, target, "{room}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_mean_what_the_page_says() {
    let backend = Backend::answering(|question| match question.room.split_once(' ').unwrap() {
        ("status", status) => Reply::Status(status.parse().unwrap()),
        ("json", text) => Reply::Json(text.to_owned()),
        ("long", length) => Reply::Json(format!("{:1$}", r#"{"allowed":true}"#, length.parse::<usize>().unwrap())),
        (_, "never") => Reply::Never,
        (_, "broken") => Reply::Broken,
        other => panic!("{other:?}"),
    });
    let stage = asking(&backend).with("BACKEND_TIMEOUT", "500ms").start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    for (room, publish) in [
        (r#"json {"allowed":true}"#, true),
        (r#"json {"allowed":true,"publish":true,"more":[1]}"#, true),
        (r#"json {"publish":false,"allowed":true}"#, false),
        ("long 4096", true),
    ] {
        assert_eq!(ana.join(room).await["publish"], publish, "{room}");
    }
    let no = [r#"json {"allowed":false}"#.to_owned()];
    let no_status = [201, 202, 204, 400, 401, 403, 404, 405, 410, 418, 451].map(|status| format!("status {status}"));
    for room in no.iter().chain(&no_status) {
        let error = ana.refused("join", json!({"room": room})).await;
        assert_eq!((code(&error), &error["retry_ms"]), ("not_authorized", &Value::Null), "{room}");
    }
    let unknown = [
        "json yes",
        "json [true]",
        "json {}",
        r#"json {"allowed":"true"}"#,
        r#"json {"allowed":null}"#,
        "long 4097",
        "long 1000000",
        "it broken",
        "it never",
    ];
    let unknown_status =
        [301, 302, 303, 307, 308, 304, 408, 429, 500, 502, 503, 504].map(|status| format!("status {status}"));
    for room in unknown.iter().copied().chain(unknown_status.iter().map(String::as_str)) {
        let error = ana.refused("join", json!({"room": room})).await;
        assert_eq!(code(&error), "authorization_unavailable", "{room}");
        assert!(error["retry_ms"].is_u64(), "{room}: {error}");
    }
    assert!(backend.questions().iter().all(|question| question.target.starts_with("/ws/can_join")), "no redirect");
    drop(backend);
    assert_eq!(code(&ana.refused("join", json!({"room": "nobody there"})).await), "authorization_unavailable");
    ana.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_listen_does() {
    let backend = Backend::start();
    let stage = asking(&backend).start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let joined = ana.join("news").await;
    assert_eq!(joined["publish"], false);
    let error = ana.refused("broadcast", json!({"room": "news", "body": 1})).await;
    assert_eq!((code(&error), &error["room"]), ("not_authorized", &json!("news")));
    stage.fanout(0).publish("news", "2").await.unwrap();
    assert_eq!(ana.next_message().await.body(), "2");
    // Nor by a grant, on which no one is asked.
    let again = ana.ask("join", json!({"room": "news", "grant": joined["grant"]})).await;
    assert_eq!(again.json["payload"]["publish"], false);
    assert_eq!(backend.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_for_their_time_by_room_and_user() {
    let backend = generous();
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).with("BACKEND_CACHE_TTL", "1s").start().await;
    let start = Instant::now();
    member(&stage, 0, "ana", "lobby").await;
    member(&stage, 0, "ana", "lobby").await;
    let asked = if start.elapsed() < Duration::from_secs(1) { 1..=1 } else { 1..=2 };
    assert!(asked.contains(&backend.asked()));
    let before = backend.asked();
    member(&stage, 0, "bob", "lobby").await;
    member(&stage, 0, "ana", "other").await;
    assert_eq!(backend.asked(), before + 2, "another user, another room");
    let mut ana = stage.edge(0).connect("ana").await;
    let asked_again = async || {
        ana.join("lobby").await;
        backend.asked() > before + 2
    };
    wait_for(asked_again).await;
    assert!(start.elapsed() >= Duration::from_secs(1));

    let off = asking(&backend).start().await;
    let before = backend.asked();
    for _ in 0..3 {
        member(&off, 0, "ana", "lobby").await;
    }
    assert_eq!(backend.asked(), before + 3);
}

/// Waits until the edge has so many connections.
async fn until_connected(stage: &Stage, count: usize) {
    let line = format!("espigon_edge_connections {count}");
    let url = format!("http://{}/metrics", stage.edge(0).ops);
    eventually(&line, async || get(&url).await.1.lines().any(|other| other == line)).await;
}

/// Tries again until it holds.
async fn wait_for(mut holds: impl AsyncFnMut() -> bool) {
    soon("it to hold", async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_under_way_are_asked_once() {
    let backend = slow();
    let stage = asking(&backend).start().await;
    let (mut one, mut two) = (stage.edge(0).connect("ana").await, stage.edge(0).connect("ana").await);
    let mut bob = stage.edge(0).connect("bob").await;
    for client in [&mut one, &mut two, &mut bob] {
        client.request("join", json!({"room": "slow"})).await;
        // It was handled: what comes after it was.
        client.ping().await;
    }
    backend.until_under_way(2).await;
    // The one that was the first to ask goes; the other gets the answer.
    drop(one);
    until_connected(&stage, 2).await;
    backend.release();
    for client in [&mut two, &mut bob] {
        assert_eq!(client.expect("joined").await["room"], "slow");
    }
    assert_eq!(backend.asked(), 2, "one for each user");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_questions_are_under_way_so_many_wait_and_who_goes_away_makes_room() {
    let backend = slow();
    let stage = asking(&backend).with("BACKEND_MAX_INFLIGHT", "1").with("BACKEND_QUEUE", "1").start().await;
    let (mut first, mut second) = (stage.edge(0).connect("ana").await, stage.edge(0).connect("bob").await);
    let mut third = stage.edge(0).connect("cleo").await;
    first.request("join", json!({"room": "slow"})).await;
    backend.until_under_way(1).await;
    second.request("join", json!({"room": "order-1"})).await;
    second.ping().await;
    let error = third.refused("join", json!({"room": "order-1"})).await;
    assert_eq!(code(&error), "authorization_unavailable");
    assert!(error["retry_ms"].is_u64(), "{error}");
    assert_eq!(backend.asked(), 1);
    // The one under way goes away: its place goes to the one that waits.
    drop(first);
    assert_eq!(second.expect("joined").await["room"], "order-1");
    assert_eq!(backend.asked(), 2);
    third.join("order-1").await;

    // One that waits goes away as well.
    let mut first = stage.edge(0).connect("ana").await;
    first.request("join", json!({"room": "slow"})).await;
    backend.until_under_way(1).await;
    second.request("join", json!({"room": "order-2"})).await;
    second.ping().await;
    drop(second);
    until_connected(&stage, 2).await;
    third.request("join", json!({"room": "order-3"})).await;
    third.ping().await;
    assert_eq!(third.unasked("error"), 0, "it waits, as there is room to");
    backend.release();
    assert_eq!(third.expect("joined").await["room"], "order-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_room_is_nobody_elses() {
    let backend = generous();
    let with_backend = asking(&backend).start().await;
    let by_claims = Stage::plan().start().await;
    let admin = Token::of("ana").with("role", "admin").with("rooms", json!(["*", "user:*", "user:bob"]));
    for stage in [&with_backend, &by_claims] {
        let mut ana = stage.edge(0).connect_with(&admin).await;
        for room in ["user:bob", "user:", "user:ana2", "user:an"] {
            assert_eq!(code(&ana.refused("join", json!({"room": room})).await), "not_authorized", "{room}");
        }
        assert_eq!(ana.join("user:ana").await["publish"], false);
        let error = ana.refused("broadcast", json!({"room": "user:ana", "body": 1})).await;
        assert_eq!(code(&error), "not_authorized", "clients only listen there");
    }
    assert_eq!(backend.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_claims_decide() {
    let stage = Stage::plan().start().await;
    let mut some =
        stage.edge(0).connect_with(&Token::of("some").with("rooms", json!(["order-*", "lobby", "a*z"]))).await;
    for room in ["order-42", "order-", "lobby", "a*z"] {
        assert_eq!(some.join(room).await["publish"], true, "{room}");
    }
    for room in ["lobby-2", "Lobby", "orders", "reorder-1", "abz"] {
        assert_eq!(code(&some.refused("join", json!({"room": room})).await), "not_authorized", "{room}");
    }
    for (token, may) in [
        (Token::of("all").with("rooms", json!(["*"])), true),
        (Token::of("boss").without("rooms").with("role", "ADMIN"), true),
        (Token::of("none").without("rooms"), false),
        (Token::of("text").with("rooms", "*"), false),
        (Token::of("user").without("rooms").with("role", "administrator"), false),
    ] {
        let mut client = stage.edge(0).connect_with(&token).await;
        let answer = client.ask("join", json!({"room": "anything"})).await;
        assert_eq!(answer.is("joined"), may, "{token:?}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_spares_the_question_on_any_edge() {
    let backend = generous();
    let stage = asking(&backend).edges(2).start().await;
    let grant = member(&stage, 0, "ana", "lobby").await["grant"].clone();
    assert!(grant.as_str().is_some_and(|grant| grant.starts_with("v1.")), "{grant}");
    let mut ana = stage.edge(1).connect("ana").await;
    let again = ana.ask("join", json!({"room": "lobby", "grant": grant})).await;
    assert_eq!((&again.json["type"], &again.json["payload"]["publish"]), (&json!("joined"), &json!(true)));
    assert!(again.json["payload"]["grant"].is_string());
    assert_eq!(backend.asked(), 1);

    // Not another's, not for another room, not one that was changed: ignored, and the backend asked.
    let forged = grant.as_str().unwrap().replace("v1.A", "v1.B");
    assert_ne!(grant, json!(forged));
    for (user, room, grant) in [
        ("bob", "lobby", grant.clone()),
        ("ana", "other", grant.clone()),
        ("ana", "lobby", json!(forged)),
        ("ana", "lobby", json!("nonsense")),
        ("ana", "lobby", json!("")),
    ] {
        let before = backend.asked();
        let mut client = stage.edge(1).connect(user).await;
        assert!(client.ask("join", json!({"room": room, "grant": grant})).await.is("joined"));
        assert_eq!(backend.asked(), before + 1, "{user} {room} {grant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_given_for_a_grant_ends_with_the_first() {
    let backend = generous();
    let stage = asking(&backend).with("GRANT_TTL", "2s").start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let start = Instant::now();
    let mut grant = ana.join("lobby").await["grant"].clone();
    // Always with the newest: if that began anew, the backend would never be asked again.
    wait_for(async || {
        let joined = ana.ask("join", json!({"room": "lobby", "grant": grant})).await;
        grant = joined.json["payload"]["grant"].clone();
        backend.asked() > 1
    })
    .await;
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_can_be_turned_off() {
    let backend = generous();
    let on = asking(&backend).start().await;
    let grant = member(&on, 0, "ana", "lobby").await["grant"].clone();
    let off = asking(&backend).with("GRANT_TTL", "0s").start().await;
    let mut ana = off.edge(0).connect("ana").await;
    let joined = ana.ask("join", json!({"room": "lobby", "grant": grant})).await;
    assert_eq!(joined.json["payload"].get("grant"), None);
    assert_eq!(backend.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_token_is_part_of_the_question() {
    let backend = generous();
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).with("BACKEND_FORWARD_TOKEN", "true").start().await;
    let (one, two) = (Token::of("ana").sign(), Token::of("ana").with("x", 1).sign());
    for token in [&one, &two, &one] {
        Client::connect(stage.edge(0).ws, token).await.join("lobby").await;
    }
    let seen: Vec<_> = backend
        .questions()
        .iter()
        .map(|question| question.headers["authorization"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(seen, [format!("Bearer {one}"), format!("Bearer {two}")], "the third was answered by the first");

    // The newest one that the client showed.
    let mut ana = Client::connect(stage.edge(0).ws, &one).await;
    assert!(ana.ask("auth", json!({"token": two})).await.is("authenticated"));
    ana.join("other").await;
    assert_eq!(backend.questions()[2].headers["authorization"], format!("Bearer {two}"));
    assert!(!stage.edge(0).process.output().contains(&two));
}
