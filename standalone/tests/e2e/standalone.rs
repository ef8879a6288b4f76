//! `cargo run`: both tiers in one process.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Client, Process, free_environment, get, run, workspace_binary};

/// What it printed, ready to paste.
struct Printed {
    url: String,
    token: String,
    curl: String,
}

fn start() -> (Process, Printed) {
    let process = Process::start(&workspace_binary("standalone"), &[], &free_environment());
    let printed = Printed {
        url: process.wait_for("a URL", |line| line.trim().starts_with("ws://").then(|| line.trim().to_owned())),
        token: process.wait_for("a token", |line| line.trim().starts_with("eyJ").then(|| line.trim().to_owned())),
        curl: process.wait_for("a curl line", |line| line.trim().starts_with("curl ").then(|| line.trim().to_owned())),
    };
    (process, printed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_works_when_pasted() {
    let (process, printed) = start();
    assert!(printed.url.ends_with(&format!("?token={}", printed.token)));
    let mut client = Client::open_url(&printed.url).await;
    assert_eq!(client.expect("welcome").await["user"], "demo");
    client.join("lobby").await;
    let mut curl = Command::new("sh");
    curl.args(["-c", &printed.curl.replace("curl ", "curl --silent --show-error ")]);
    let answer: Value = serde_json::from_str(&run(curl)).unwrap();
    assert_eq!((&answer["room"], &answer["seq"]), (&"lobby".into(), &1.into()));
    let message = client.next_message().await;
    assert_eq!((message.seq(), message.body()), (1, r#"{"text":"hello"}"#));

    process.terminate();
    client.expect_close(1012).await;
    assert!(process.ended().await.success());
    assert!(!process.output().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_start_has_a_secret_of_its_own() {
    let ((_first, one), (_second, other)) = (start(), start());
    assert_ne!(one.token, other.token);
    let (address, _) = other.url.trim_start_matches("ws://").split_once('/').unwrap();
    let bearer = format!("Bearer {}", one.token);
    assert!(Client::open(address.parse().unwrap(), &[("authorization", &bearer)]).await.is_err());
    let (status, _) = get(&format!("http://{address}/elsewhere")).await;
    assert_eq!(status, 404);
}
