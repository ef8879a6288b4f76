//! Section 1 of the contract: who gets a socket, and what the others are told.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Backend, Client, Edge, Fanout, Opening, Stage, Token, eventually, free_port, now_s, readyz};

fn token(user: &str) -> String {
    Token::of(user).sign()
}

/// A client that presents itself so; it must be let in.
async fn let_in(edge: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Client {
    let mut client = Client::open_at(edge, query, headers).await.unwrap();
    client.welcome = client.expect("welcome").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_credential_found_counts() {
    let stage = Stage::plan().start().await;
    let ws = stage.edge(0).ws;
    let (ana, bob, cleo) = (token("ana"), token("bob"), token("cleo"));
    let header = format!("Bearer {ana}");
    let lower = format!("bearer {ana}");
    let protocols = format!("realtime.v1, bearer.{bob}");
    let query = format!("x=1&token={cleo}");
    let basic = "Basic YW5hOnNlY3JldA==";
    for (user, query, headers) in [
        ("ana", &*query, &[("authorization", &*header), ("sec-websocket-protocol", &*protocols)][..]),
        ("ana", "", &[("authorization", &header)]),
        ("ana", "", &[("authorization", &lower)]),
        ("bob", &query, &[("sec-websocket-protocol", &protocols)]),
        ("cleo", &query, &[]),
        ("cleo", &query, &[("sec-websocket-protocol", "realtime.v1")]),
        // Another scheme counts as no header.
        ("bob", &query, &[("authorization", basic), ("sec-websocket-protocol", &protocols)]),
        ("cleo", &query, &[("authorization", basic)]),
    ] {
        assert_eq!(let_in(ws, query, headers).await.welcome["user"], user, "{query} {headers:?}");
    }
    // The first, and not the first that is good.
    let opening = Opening::at(ws).with("authorization", "Bearer nonsense").query(&query);
    assert_eq!(opening.refused().await, (401, "token_invalid".to_owned()));
    assert_eq!(Opening::at(ws).with("authorization", basic).refused().await, (401, "token_missing".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subprotocol_is_selected_and_a_bearer_never_echoed() {
    let stage = Stage::plan().start().await;
    let good = Opening::at(stage.edge(0).ws);
    let (ana, bob) = (token("ana"), token("bob"));
    for list in [
        format!("realtime.v1, bearer.{ana}"),
        format!("bearer.{ana},realtime.v1"),
        format!("chat, realtime.v1, bearer.{ana}, other"),
    ] {
        let answered = good.clone().protocols(&list).send().await;
        assert_eq!(answered.status, 101, "{list}");
        assert_eq!(answered.headers["sec-websocket-protocol"], "realtime.v1", "{list}");
        assert!(!answered.head.contains("bearer") && !answered.head.contains(&ana), "{}", answered.head);
    }
    let answered = good.clone().bearer(&ana).send().await;
    assert_eq!((answered.status, answered.headers.get("sec-websocket-protocol")), (101, None));
    assert_eq!(answered.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for list in ["chat".to_owned(), "realtime.v2".to_owned(), format!("bearer.{bob}"), format!("chat, bearer.{bob}")] {
        let opening = good.clone().protocols(&list).bearer(&ana);
        assert_eq!(opening.refused().await, (400, "bad_request".to_owned()), "{list}");
        assert!(!opening.send().await.head.contains(&bob));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upgrade_is_a_bad_request() {
    let stage = Stage::plan().start().await;
    let good = Opening::at(stage.edge(0).ws).bearer(&token("ana"));
    assert_eq!(good.send().await.status, 101);
    for (what, opening) in [
        ("connection", good.clone().with("connection", "keep-alive")),
        ("upgrade", good.clone().without("upgrade")),
        ("another protocol", good.clone().with("upgrade", "h2c")),
        ("key", good.clone().without("sec-websocket-key")),
        ("short key", good.clone().with("sec-websocket-key", "c2hvcnQ=")),
    ] {
        assert_eq!(opening.refused().await, (400, "bad_request".to_owned()), "{what}");
    }
    for version in ["8", "14", "13, 8"] {
        let opening = good.clone().with("sec-websocket-version", version);
        assert_eq!(opening.refused().await, (426, "bad_request".to_owned()), "{version}");
        assert_eq!(opening.send().await.headers["sec-websocket-version"], "13", "{version}");
    }
    assert_ne!(good.method("POST").send().await.status, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_status_and_code() {
    let plan = Stage::plan().with("MAX_CONNECTIONS_PER_USER", "2").with("MAX_CONNECTIONS", "3");
    let stage = plan.start().await;
    let good = Opening::at(stage.edge(0).ws);
    let refused = async |opening: &Opening| {
        let (status, code) = opening.refused().await;
        format!("{status} {code}")
    };
    let expired = Token::of("ana").with("exp", now_s() - 1).sign();
    assert_eq!(refused(&good).await, "401 token_missing");
    assert_eq!(refused(&good.clone().bearer("a.b.c")).await, "401 token_invalid");
    assert_eq!(refused(&good.clone().bearer(&expired)).await, "401 token_expired");
    assert_eq!(refused(&good.clone().with("origin", "https://evil.example")).await, "403 origin_not_allowed");

    let _one = stage.edge(0).connect("ana").await;
    let two = stage.edge(0).connect("ana").await;
    assert_eq!(refused(&good.clone().bearer(&token("ana"))).await, "429 too_many_connections");
    let _bob = stage.edge(0).connect("bob").await;
    assert_eq!(refused(&good.clone().bearer(&token("bob"))).await, "503 overloaded");
    // Who is refused leaves no trace, and who goes makes room.
    drop(two);
    eventually("room for one more", async || good.clone().bearer(&token("ana")).send().await.status == 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_says_so_and_its_listener_stays_open() {
    let stage = Stage::plan().with("DRAIN_WINDOW", "3s").start().await;
    let edge = stage.edge(0);
    // Told to go at the end of the window, and served until then.
    let mut ana = edge.connect("ana").await;
    edge.process.terminate();
    ana.next("reconnect").await;
    for opening in [Opening::at(edge.ws), Opening::at(edge.ws).with("origin", "https://evil.example")] {
        assert_eq!(opening.refused().await, (503, "draining".to_owned()), "before origin and token");
    }
    assert_eq!(Opening::at(edge.ws).without("upgrade").refused().await.0, 400);
    ana.ping().await;
    assert_eq!(ana.closed().await, "1012 restarting");
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_come_in_the_order_of_the_page() {
    let stage = Stage::plan().with("MAX_CONNECTIONS_PER_USER", "1").with("MAX_CONNECTIONS", "2").start().await;
    let lonely = Edge::start(&[([127, 0, 0, 1], free_port()).into()], &[]);
    let code = async |opening: &Opening| opening.refused().await.1;
    let foreign = |edge: SocketAddr| Opening::at(edge).with("origin", "https://evil.example");
    let broken = |edge: SocketAddr| foreign(edge).without("upgrade");
    let expired = Token::of("ana").with("exp", now_s() - 1).sign();

    assert_eq!(code(&broken(lonely.ws)).await, "bad_request", "before not_ready");
    assert_eq!(code(&foreign(lonely.ws)).await, "not_ready", "before the origin");
    let ws = stage.edge(0).ws;
    let _ana = stage.edge(0).connect("ana").await;
    assert_eq!(code(&foreign(ws).bearer(&expired)).await, "origin_not_allowed", "before the token");
    assert_eq!(code(&Opening::at(ws).bearer(&expired)).await, "token_expired", "before the user's limit");
    assert_eq!(code(&Opening::at(ws).bearer(&token("ana"))).await, "too_many_connections");
    let _bob = stage.edge(0).connect("bob").await;
    assert_eq!(code(&broken(ws)).await, "bad_request", "before overloaded");
    assert_eq!(code(&foreign(ws).bearer(&expired)).await, "overloaded", "before the origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_on_the_socket() {
    let stage = Stage::plan().with("MAX_CONNECTIONS_PER_USER", "1").start().await;
    let ws = stage.edge(0).ws;
    let _first = stage.edge(0).connect("ana").await;
    let expired = Token::of("bob").with("exp", now_s() - 1).sign();
    for (bearer, status, code, closed) in [
        (None, 401, "token_missing", "4002 token_invalid"),
        (Some("nonsense".to_owned()), 401, "token_invalid", "4002 token_invalid"),
        (Some(expired), 401, "token_expired", "4001 token_expired"),
        (Some(token("ana")), 429, "too_many_connections", "4013 too_many_connections"),
    ] {
        let offered = bearer.iter().fold("realtime.v1".to_owned(), |list, token| format!("{list}, bearer.{token}"));
        let mut browser = Client::open(ws, &[("sec-websocket-protocol", &offered)]).await.unwrap();
        let told = browser.next_of_all().await;
        assert_eq!((&told.json["type"], &told.json["payload"]["code"]), (&json!("error"), &json!(code)));
        assert_eq!(told.json["payload"]["retry_ms"], Value::Null, "it is final");
        assert_eq!(browser.closed().await, closed);
        assert_eq!(browser.unasked("welcome"), 0, "{code}");

        let opening = bearer.iter().fold(Opening::at(ws), |opening, token| opening.bearer(token));
        assert_eq!(opening.refused().await, (status, code.to_owned()), "who offered nothing sees a status");
    }
    // Its origin is no matter of its token: it is not upgraded.
    let foreign = Opening::at(ws).protocols("realtime.v1").with("origin", "https://evil.example");
    assert_eq!(foreign.refused().await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_match_exactly() {
    let list = "https://mi-app.example, https://*.apps.example,http://localhost:3000";
    let stage = Stage::plan().with("WS_ORIGINS", list).start().await;
    let opening = Opening::at(stage.edge(0).ws).bearer(&token("ana"));
    assert_eq!(opening.send().await.status, 101, "no browser");
    for good in [
        "https://mi-app.example",
        "https://MI-App.Example",
        "https://mi-app.example:443",
        "https://a.apps.example",
        "https://a.b.apps.example",
        "http://localhost:3000",
    ] {
        assert_eq!(opening.clone().with("origin", good).send().await.status, 101, "{good}");
    }
    for bad in [
        "https://mi-app.example.evil.example",
        "https://evilmi-app.example",
        "https://sub.mi-app.example",
        "https://mi-app.example:8443",
        "http://mi-app.example",
        "https://apps.example",
        "https://evilapps.example",
        "http://a.apps.example",
        "http://localhost",
        "http://localhost:30000",
        "null",
        "*",
        &format!("http://{}", stage.edge(0).ws),
    ] {
        let refused = opening.clone().with("origin", bad).refused().await;
        assert_eq!(refused, (403, "origin_not_allowed".to_owned()), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_only_the_same_origin_is_let_in_and_with_a_star_all() {
    let (same, any) = (Stage::plan().start().await, Stage::plan().with("WS_ORIGINS", "*").start().await);
    let status = async |edge: SocketAddr, host: &str, origin: &str| {
        let opening = Opening::at(edge).with("host", host).with("origin", origin).bearer(&token("ana"));
        opening.send().await.status
    };
    let ws = same.edge(0).ws;
    for (host, origin) in [
        ("edge.example", "https://edge.example"),
        ("Edge.example", "http://edge.example:80"),
        ("edge.example:8080", "https://edge.example:8080"),
    ] {
        assert_eq!(status(ws, host, origin).await, 101, "{origin} at {host}");
    }
    for (host, origin) in [
        ("edge.example", "https://edge.example:8443"),
        ("edge.example", "https://edge.example.evil.example"),
        ("edge.example:8080", "https://edge.example"),
        ("edge.example", "null"),
        ("null", "null"),
    ] {
        assert_eq!(status(ws, host, origin).await, 403, "{origin} at {host}");
    }
    for origin in ["https://anything.example", "null"] {
        assert_eq!(status(any.edge(0).ws, "edge.example", origin).await, 101, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_welcome_tells_what_a_client_must_know() {
    let stage = Stage::plan().with("DEDUP_WINDOW", "7s").with("MAX_MESSAGE_BYTES", "4KiB").start().await;
    let exp = now_s() + 1000;
    let token = Token::of("7").with("exp", exp).sign();
    let mut client = Client::open(stage.edge(0).ws, &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
    let first = client.next_of_all().await;
    assert_eq!(first.json["type"], "welcome", "it is first");
    let mut welcome = first.json["payload"].clone();
    let connection = welcome["connection"].take();
    assert!(connection.as_str().is_some_and(|id| !id.is_empty()), "{connection}");
    assert_eq!(
        welcome,
        json!({
            "connection": null, "user": "7", "expires": exp, "ping_ms": 25_000, "dedup_ms": 7_000, "reconnect_ms": 1_000,
            "max_message_bytes": 4096, "rooms": ["user:7"],
        })
    );
    let other = stage.edge(0).connect("7").await;
    assert_ne!(other.welcome["connection"], connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_rooms_are_joined_without_being_asked_for() {
    let backend = Backend::start();
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).with("MAX_ROOMS_PER_CONNECTION", "1").start().await;
    let token = Token::of("7").with("auto_join", json!(["news", " odd ", "user:8", "news"])).sign();
    let bearer = format!("Bearer {token}");
    let mut client = let_in(stage.edge(0).ws, "", &[("authorization", &bearer)]).await;
    assert_eq!(client.welcome["rooms"], json!(["user:7", "news"]));
    for (room, code) in [(" odd ", "bad_room"), ("user:8", "not_authorized")] {
        let error = client.next("error").await.json;
        assert_eq!((&error["payload"]["room"], &error["payload"]["code"]), (&json!(room), &json!(code)));
        assert_eq!(error["id"], Value::Null);
    }
    let mut joined = Vec::new();
    for _ in 0..2 {
        let message = client.next("joined").await.json;
        assert_eq!(message["id"], Value::Null);
        joined.push(message["payload"]["room"].as_str().unwrap().to_owned());
    }
    joined.sort();
    assert_eq!(joined, ["news", "user:7"]);
    stage.fanout(0).publish("news", "1").await.unwrap();
    assert_eq!(client.next_message().await.json["room"], "news");
    assert_eq!(backend.asked(), 0);
    client.join("order-7").await;
    assert_eq!(client.refused("join", json!({"room": "other-7"})).await["code"], "too_many_rooms", "they do not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_rooms_can_be_left_to_the_client() {
    let backend = Backend::start();
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).start().await;
    for room in ["user:7", "news"] {
        stage.fanout(0).publish(room, "1").await.unwrap();
    }
    let token = Token::of("7").with("auto_join", json!(["news"])).sign();
    let mut client = let_in(stage.edge(0).ws, &format!("auto_join=false&token={token}"), &[]).await;
    assert_eq!(client.welcome["rooms"], json!(["user:7", "news"]), "told in any case");
    for room in ["user:7", "news"] {
        let joined = client.ask("join", json!({"room": room, "since": {"last": 1}})).await;
        assert_eq!(joined.json["type"], "joined", "{}", joined.text);
        assert_eq!(client.next_message().await.json["room"], room);
    }
    assert_eq!(client.unasked("joined"), 0, "none came by itself");
    assert_eq!(backend.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_has_lost_all_links_takes_sockets_whose_joins_wait_for_a_node() {
    let link: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let edge = Edge::start(&[link], &[("PUBLISH_TIMEOUT".to_owned(), "3s".to_owned())]);
    let opening = Opening::at(edge.ws).bearer(&token("ana"));
    assert_eq!(opening.refused().await, (503, "not_ready".to_owned()), "before it ever had one");
    let start = || Fanout::start(&[("LINK_LISTEN".to_owned(), link.to_string())]);
    let fanout = start();
    eventually("the edge is ready", async || readyz(edge.ops).await.0 == 200).await;
    edge.connect("ana").await;
    fanout.process.ends_well().await;

    let mut ana = Client::connect_apart(edge.ws, &token("ana")).await;
    let error = ana.refused("join", json!({"room": "lobby"})).await;
    assert_eq!(error["code"], "unavailable");
    assert!(error["retry_ms"].is_u64(), "{error}");
    // One that waits when the node comes is joined. Asked again, as the node may take its time.
    let fanout = start();
    tokio::time::timeout(Duration::from_secs(20), async {
        while !ana.ask("join", json!({"room": "lobby"})).await.is("joined") {}
    })
    .await
    .expect("joined");
    fanout.publish("lobby", "1").await.unwrap();
    assert_eq!(ana.next_message().await.body(), "1");
}
