//! What is not let in, and what does not start.

use http::StatusCode;

use crate::harness::{Client, Process, Stage, Token, now_s, workspace_binary};

#[tokio::test(flavor = "multi_thread")]
async fn foreign_pages_are_refused() {
    let stage = Stage::plan().start().await;
    let ws = stage.edge(0).ws;
    let token = format!("Bearer {}", Token::of("ana").sign());
    let own = format!("http://{ws}");
    assert!(Client::open(ws, &[("authorization", &token), ("origin", &own)]).await.is_ok());
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1", &format!("{own}.evil.example")] {
        let (status, body) = Client::open(ws, &[("authorization", &token), ("origin", origin)]).await.unwrap_err();
        assert_eq!(status, StatusCode::FORBIDDEN, "{origin}");
        assert_eq!(body["payload"]["code"], "origin_not_allowed", "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked() {
    let stage = Stage::plan().start().await;
    let ws = stage.edge(0).ws;
    let expired = Token::of("ana").with("exp", now_s() - 1).sign();
    let forged = format!("{}x", Token::of("ana").sign());
    let publisher = Token::of("@shop").sign();
    for (token, code, close) in [
        (None, "token_missing", 4002),
        (Some(&expired), "token_expired", 4001),
        (Some(&forged), "token_invalid", 4002),
        (Some(&publisher), "token_invalid", 4002),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", &**bearer)).collect();
        let (status, body) = Client::open(ws, &headers).await.unwrap_err();
        assert_eq!((status, &body["payload"]["code"]), (StatusCode::UNAUTHORIZED, &code.into()));

        // A browser sees no status, so it is told on the socket.
        let protocols = token.map_or("realtime.v1".to_owned(), |token| format!("realtime.v1, bearer.{token}"));
        let mut browser = Client::open(ws, &[("sec-websocket-protocol", &protocols)]).await.unwrap();
        assert_eq!(browser.expect("error").await["code"], code);
        browser.expect_close(close).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_end_the_start_with_one_line() {
    let secret = ("JWT_SECRET", "not to be printed, whatever happens");
    for (binary, flags, environment, named) in [
        ("edge", &[][..], &[][..], "JWT_SECRET"),
        ("edge", &["--no-such-flag"], &[secret], "--no-such-flag"),
        ("edge", &["--ping-period=70s"], &[secret], "PING_PERIOD"),
        ("edge", &[], &[secret, ("WS_ORIGINS", "example.com")], "WS_ORIGINS"),
        ("edge", &[], &[secret, ("LISTEN", "nowhere")], "--listen"),
        ("edge", &[], &[secret, ("JWT_SECRET_FILE", "/nowhere")], "JWT_SECRET_FILE"),
        ("edge", &["--jwt-secret=x"], &[], "--jwt-secret"),
        ("fanout", &["--link-listen=0.0.0.0:0"], &[], "LINK_TOKEN"),
        ("fanout", &["--api-listen=0.0.0.0:0"], &[("API_KEYS", "shop:abc")], "ALLOW_PLAINTEXT"),
        ("fanout", &[], &[("API_KEYS", "no colon")], "API_KEYS"),
        ("fanout", &[], &[("HISTORY_SIZE", "0")], "--history-size"),
        ("standalone", &["--api-listen=0.0.0.0:0"], &[], "API_LISTEN"),
        ("standalone", &[], &[("SEND_QUEUE", "none")], "--send-queue"),
    ] {
        let environment: Vec<_> = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let process = Process::start(&workspace_binary(binary), flags, &environment);
        let status = process.ended().await;
        let line = process.wait_for("why", |line| Some(line.to_owned()));
        assert_eq!(status.code(), Some(64), "{binary} {flags:?} {environment:?}: {line}");
        assert_eq!(process.output(), line, "one line");
        assert!(line.starts_with("error: ") && line.contains(named), "{line}");
        assert!(!line.contains(secret.1), "{line}");
    }
}
