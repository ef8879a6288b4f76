//! Logs tell no secrets, however much they tell.

use crate::harness::{Client, LINK_TOKEN, SECRET, Stage, Token};

#[tokio::test(flavor = "multi_thread")]
async fn no_log_has_a_token_a_secret_or_a_body() {
    let api_key = "the-api-key-of-the-tests";
    let plan = Stage::plan().with("LOG_LEVEL", "info,edge=trace,fanout=trace,service=trace");
    let stage = plan.with("API_KEYS", format!("shop:{api_key}")).start().await;
    let (edge, fanout) = (stage.edge(0), stage.fanout(0));
    let tokens: Vec<_> = ["ana", "bob", "cleo"].iter().map(|user| Token::of(user).sign()).collect();
    let bearer = format!("Bearer {}", tokens[0]);
    let mut clients = vec![
        Client::open(edge.ws, &[("authorization", &bearer)]).await.unwrap(),
        Client::connect(edge.ws, &tokens[1]).await,
        Client::open_url(&format!("ws://{}/ws?token={}", edge.ws, tokens[2])).await,
    ];
    for client in &mut clients {
        client.join("lobby").await;
        client.broadcast("lobby", r#""the body of a broadcast""#).await;
    }
    let forged = format!("{}forged", tokens[0]);
    let refused = Client::open(edge.ws, &[("authorization", &format!("Bearer {forged}"))]).await;
    assert!(refused.is_err());
    assert_eq!(fanout.publish("lobby", "1").await.unwrap_err().code(), tonic::Code::Unauthenticated);
    drop(clients);
    edge.process.ends_well().await;
    fanout.process.ends_well().await;

    for process in stage.processes() {
        let output = process.output();
        assert!(output.contains("shut down"));
        let secrets = tokens.iter().map(String::as_str).chain([SECRET, LINK_TOKEN, api_key, "the body of a broadcast"]);
        for secret in secrets {
            assert!(!output.contains(secret), "found {secret}");
        }
        // Nor the telling part of one.
        for token in &tokens {
            let signature = token.rsplit('.').next().unwrap();
            assert!(!output.contains(signature));
        }
    }
}
