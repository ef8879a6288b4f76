//! Section 5 of the contract: which tokens are good, and for how long.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{
    Backend, Client, Edge, Issuer, Opening, SECRET, SigningKey, Stage, Token, eventually, now_s, soon,
};

/// The user that a token stands for at this edge, or why it does not.
async fn who(edge: &Edge, token: &str) -> Result<String, String> {
    let bearer = format!("Bearer {token}");
    match Client::open(edge.ws, &[("authorization", &bearer)]).await {
        Ok(mut client) => Ok(client.expect("welcome").await["user"].as_str().unwrap().to_owned()),
        Err((_, body)) => Err(body["payload"]["code"].as_str().unwrap().to_owned()),
    }
}

fn invalid() -> Result<String, String> {
    Err("token_invalid".to_owned())
}

/// `{"typ":"JWT","alg":"none"}`
const ALG_NONE: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0";

/// `{"typ":"JWT","alg":"RS256"}`
const ALG_RS256: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9";

/// `{"typ":"JWT","alg":"HS256","x":1}`
const ANOTHER_HEADER: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsIngiOjF9";

/// A good token's claims under this header, with this signature.
fn headed(header: &str, signature: &str) -> String {
    let signed = Token::of("ana").sign();
    format!("{header}.{}.{signature}", signed.split('.').nth(1).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_of_the_page_is_made() {
    let stage = Stage::plan().start().await;
    let edge = stage.edge(0);
    let ana = || Token::of("ana");
    let no_sub = || ana().without("sub");
    let good = ana().sign();
    let signature = good.rsplit('.').next().unwrap();
    let is = |user: &str| Ok(user.to_owned());
    for (what, token, expected) in [
        ("HS384", ana().sign_with(Algorithm::HS384, SECRET), is("ana")),
        ("HS512", ana().sign_with(Algorithm::HS512, SECRET), is("ana")),
        ("another secret", ana().sign_with(Algorithm::HS256, "another secret, as long as the first one"), invalid()),
        ("alg none", headed(ALG_NONE, ""), invalid()),
        ("alg none, signed", headed(ALG_NONE, signature), invalid()),
        ("another family", headed(ALG_RS256, signature), invalid()),
        ("another header", headed(ANOTHER_HEADER, signature), invalid()),
        ("not compact", format!("{good}.x"), invalid()),
        ("no exp", ana().without("exp").sign(), invalid()),
        ("exp of text", ana().with("exp", "soon").sign(), invalid()),
        ("exp now", ana().with("exp", now_s()).sign(), Err("token_expired".to_owned())),
        ("exp past", ana().with("exp", now_s() - 1).sign(), Err("token_expired".to_owned())),
        ("nbf, clocks apart", ana().with("nbf", now_s() + 5).sign(), is("ana")),
        ("nbf", ana().with("nbf", now_s() + 60).sign(), invalid()),
        ("no sub", no_sub().sign(), invalid()),
        ("sub before user_id", ana().with("user_id", "bob").sign(), is("ana")),
        ("user_id", no_sub().with("user_id", "bob").sign(), is("bob")),
        ("user_id, a number", no_sub().with("user_id", 42).sign(), is("42")),
        ("user_id before id", no_sub().with("user_id", 42).with("id", 43).sign(), is("42")),
        ("id, a number", no_sub().with("id", 43).sign(), is("43")),
        ("id, the token's own", no_sub().with("id", "43").sign(), invalid()),
        ("sub, a number", ana().with("sub", 42).sign(), invalid()),
        ("a publisher", Token::of("@shop").sign(), invalid()),
        ("a publisher as user_id", no_sub().with("user_id", "@shop").sign(), invalid()),
        ("too long for a room", Token::of(&"a".repeat(196)).sign(), invalid()),
        ("just short enough", Token::of(&"a".repeat(195)).sign(), is(&"a".repeat(195))),
        ("empty", Token::of("").sign(), invalid()),
        ("control characters", Token::of("a\nb").sign(), invalid()),
        ("white space", Token::of(" a").sign(), invalid()),
        ("issuer and audience, unset here", ana().with("iss", "x").with("aud", "y").sign(), is("ana")),
    ] {
        assert_eq!(who(edge, &token).await, expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_and_audience_must_be_there_and_match_when_set() {
    let stage = Stage::plan().with("JWT_ISSUER", "https://id.example").with("JWT_AUDIENCE", "espigon").start().await;
    let with = |iss: Value, aud: Value| Token::of("ana").with("iss", iss).with("aud", aud);
    let good = with(json!("https://id.example"), json!("espigon"));
    for (token, may) in [
        (good.clone(), true),
        (good.clone().with("aud", json!(["other", "espigon"])), true),
        (good.clone().with("iss", "https://id.example/"), false),
        (good.clone().with("aud", "other"), false),
        (good.clone().without("iss"), false),
        (good.clone().without("aud"), false),
    ] {
        assert_eq!(who(stage.edge(0), &token.sign()).await.is_ok(), may, "{token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_secrets_verify() {
    let old = "the secret before this one, of 32 bytes or more";
    let stage = Stage::plan().with("JWT_SECRET", format!("{SECRET}\n\n  {old}\n")).start().await;
    for secret in [SECRET, old] {
        assert_eq!(
            who(stage.edge(0), &Token::of("ana").sign_with(Algorithm::HS256, secret)).await,
            Ok("ana".to_owned())
        );
    }
    for secret in ["", "a third one", &format!("{SECRET}\n\n  {old}\n")] {
        assert_eq!(who(stage.edge(0), &Token::of("ana").sign_with(Algorithm::HS256, secret)).await, invalid());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_secret_is_warned_about_and_not_told() {
    let secret = "only 31 bytes, which are too few";
    let short = &secret[..31];
    let stage = Stage::plan().with("JWT_SECRET", short).start().await;
    let output = stage.edge(0).process.output();
    assert!(output.contains("WARN") && output.contains("JWT_SECRET"), "{output}");
    assert!(!output.contains(short));
    let stage = Stage::plan().with("JWT_SECRET", secret).start().await;
    assert!(!stage.edge(0).process.output().contains("JWT_SECRET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuers_keys_verify_and_change() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let issuer = Issuer::start();
    issuer.publish(&[&old]);
    let stage = Stage::plan().with("JWKS_URL", issuer.url()).start().await;
    let (edge, ana) = (stage.edge(0), Token::of("ana"));
    assert_eq!(who(edge, &ana.sign()).await, invalid(), "a secret is none of the issuer's keys");
    let mut client = Client::connect(edge.ws, &ana.sign_by(&old)).await;
    assert_eq!(client.join("lobby").await["grant"], Value::Null);
    assert!(edge.process.output().contains("GRANT_SECRET"), "grants are off, and it is said");

    issuer.publish(&[&new]);
    // As the keys were fetched just before, it cannot be said that there is no such key.
    assert_eq!(who(edge, &ana.sign_by(&new)).await, Err("not_ready".to_owned()));
    let error = client.refused("auth", json!({"token": ana.sign_by(&new)})).await;
    assert_eq!(code(&error), "authorization_unavailable");
    assert!(error["retry_ms"].is_u64());
    eventually("new keys", async || who(edge, &ana.sign_by(&new)).await.is_ok()).await;
    assert!(client.ask("auth", json!({"token": ana.sign_by(&new)})).await.is("authenticated"));

    issuer.stop();
    assert!(who(edge, &ana.sign_by(&new)).await.is_ok());
    assert_eq!(who(edge, &ana.sign_by(&old)).await, Err("not_ready".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_socket_ends_with_its_token_unless_a_newer_one_came() {
    let stage = Stage::plan().start().await;
    let ends = now_s() + 3;
    let short = Token::of("ana").with("exp", ends);
    let (mut ends_with_it, mut goes_on) =
        (stage.edge(0).connect_with(&short).await, stage.edge(0).connect_with(&short).await);
    assert_eq!(goes_on.welcome["expires"], ends);
    let newer = Token::of("ana").with("exp", ends + 1000).sign();
    let answer = goes_on.ask("auth", json!({"token": newer})).await;
    assert_eq!(answer.json["payload"], json!({"expires": ends + 1000}));
    assert_eq!(ends_with_it.closed().await, "4001 token_expired");
    assert!(now_s() >= ends, "not before its time");
    goes_on.ping().await;

    // A newer one may also end earlier.
    let start = Instant::now();
    let sooner = Token::of("ana").with("exp", now_s() + 1).sign();
    assert!(goes_on.ask("auth", json!({"token": sooner})).await.is("authenticated"));
    assert_eq!(goes_on.closed().await, "4001 token_expired");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_token_must_be_good_and_the_same_users() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    for (token, code) in [
        (Token::of("bob").sign(), "token_invalid"),
        (Token::of("ana").with("exp", now_s() - 1).sign(), "token_expired"),
        (Token::of("bob").with("exp", now_s() - 1).sign(), "token_expired"),
        (format!("{}x", Token::of("ana").sign()), "token_invalid"),
        (String::new(), "token_invalid"),
    ] {
        let error = ana.refused("auth", json!({"token": token})).await;
        assert_eq!((&error["code"], &error["retry_ms"]), (&json!(code), &Value::Null));
    }
    ana.join("lobby").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_a_newer_token_no_longer_covers_are_left_where_claims_decide() {
    let before = Token::of("ana").with("rooms", json!(["order-*", "lobby"])).with("auto_join", json!(["news"]));
    let after = Token::of("ana").with("rooms", json!(["lobby", "new"]));
    let stage = Stage::plan().start().await;
    let bearer = format!("Bearer {}", before.sign());
    let mut ana = Client::open(stage.edge(0).ws, &[("authorization", &bearer)]).await.unwrap();
    for _ in 0..2 {
        ana.next("joined").await;
    }
    for room in ["order-1", "order-2", "lobby"] {
        ana.join(room).await;
    }
    assert_eq!(code(&ana.refused("join", json!({"room": "new"})).await), "not_authorized");
    assert!(ana.ask("auth", json!({"token": after.sign()})).await.is("authenticated"));
    let mut left = Vec::new();
    for _ in 0..3 {
        let message = ana.next("left").await.json;
        assert_eq!((&message["payload"]["reason"], message.get("id")), (&json!("not_authorized"), None));
        left.push(message["payload"]["room"].as_str().unwrap().to_owned());
    }
    left.sort();
    assert_eq!(left, ["news", "order-1", "order-2"], "news was joined because the older token named it");
    assert_eq!(code(&ana.refused("broadcast", json!({"room": "order-1", "body": 1})).await), "not_joined");
    for room in ["order-1", "order-2", "news", "user:ana", "lobby"] {
        stage.fanout(0).publish(room, "1").await.unwrap();
    }
    let mut got = Vec::new();
    for message in ana.next_messages(2).await {
        got.push(message.json["room"].as_str().unwrap().to_owned());
    }
    got.sort();
    assert_eq!(got, ["lobby", "user:ana"], "a user's own room stays");
    ana.join("new").await;

    // Where the backend decides, claims end nothing.
    let backend = Backend::answering(|_| crate::harness::Reply::Yes);
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).start().await;
    let mut ana = stage.edge(0).connect_with(&before.without("auto_join")).await;
    ana.join("order-1").await;
    assert!(ana.ask("auth", json!({"token": after.sign()})).await.is("authenticated"));
    ana.broadcast("order-1", "1").await;
    assert_eq!(ana.unasked("left"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_file_change_without_a_restart() {
    let file = std::env::temp_dir().join(format!("espigon-jwt-{}", std::process::id()));
    std::fs::write(&file, "the-first-of-all-secrets-in-this-test\n").unwrap();
    let stage = Stage::plan().with("JWT_SECRET", "").with("JWT_SECRET_FILE", file.to_str().unwrap()).start().await;
    let signed = |secret: &str| Token::of("ana").sign_with(Algorithm::HS256, secret);
    let (old, new) =
        (signed("the-first-of-all-secrets-in-this-test"), signed("another-secret-that-is-as-long-as-that"));
    assert_eq!(who(stage.edge(0), &old).await, Ok("ana".to_owned()));
    assert_eq!(who(stage.edge(0), &new).await, invalid());
    // Both lines verify, as during a rotation.
    std::fs::write(&file, "another-secret-that-is-as-long-as-that\nthe-first-of-all-secrets-in-this-test\n").unwrap();
    eventually("the new secret", async || who(stage.edge(0), &new).await.is_ok()).await;
    assert_eq!(who(stage.edge(0), &old).await, Ok("ana".to_owned()));
    std::fs::write(&file, "another-secret-that-is-as-long-as-that\n").unwrap();
    eventually("the old secret's end", async || who(stage.edge(0), &old).await.is_err()).await;
    std::fs::remove_file(file).unwrap();
}

fn code(error: &Value) -> &str {
    error["code"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_schemes_count_as_no_header() {
    let stage = Stage::plan().start().await;
    let good = Token::of("ana").sign();
    for header in [format!("Basic {good}"), format!("Token {good}"), good.clone(), "Bearer".to_owned()] {
        let opening = Opening::at(stage.edge(0).ws).with("authorization", header.clone());
        assert_eq!(soon("an answer", opening.refused()).await, (401, "token_missing".to_owned()), "{header}");
        assert_eq!(opening.query(&format!("token={good}")).send().await.status, 101, "{header}");
    }
}
