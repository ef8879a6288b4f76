//! The binary: settings, the line that says where it listens, signals, exit codes.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::{eventually, http, soon};

fn command(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanout"));
    command.env_clear().envs(settings.iter().copied()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn start(settings: &[(&str, &str)]) -> (Child, Lines<BufReader<ChildStderr>>, Value) {
    let free = [("OPS_LISTEN", "127.0.0.1:0"), ("LINK_LISTEN", ":0"), ("API_LISTEN", ":0")];
    let mut child = command(&[&free, settings].concat()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let listening = soon("the line", async {
        loop {
            let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            if line["message"] == "listening" {
                return line;
            }
        }
    })
    .await;
    (child, lines, listening)
}

async fn refusal(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = soon("the end", command(settings).output()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn bad_settings_end_the_start_with_one_line_and_64() {
    for (settings, named) in [
        (vec![("LINK_LISTEN", "0.0.0.0:0")], "LINK_TOKEN"),
        (vec![("LINK_LISTEN", "0.0.0.0:0"), ("LINK_TOKEN", "s3cret")], "ALLOW_PLAINTEXT"),
        (vec![("API_LISTEN", "[::]:0")], "API_KEYS"),
        (vec![("API_KEYS", "shop:s3cret:all")], "API_KEYS"),
        (vec![("HISTORY_SIZE", "none")], "history-size"),
        (vec![("REDIS_ADDR", "redis://u:s3cret@a:1")], "redis-addr"),
        (vec![("MAX_PUBLISH_BYTES", "2MiB")], "MAX_PUBLISH_BYTES"),
    ] {
        let (code, text) = refusal(&settings).await;
        assert_eq!(code, Some(64), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.to_lowercase().contains(&named.to_lowercase()), "{named}: {text}");
    }
}

#[tokio::test]
async fn it_says_where_it_listens_and_ends_well_on_sigterm() {
    let (mut child, mut lines, listening) = start(&[("API_KEYS", "shop:s3cret"), ("LOG_LEVEL", "debug")]).await;
    let ops = listening["ops"].as_str().unwrap().parse().unwrap();
    let api = listening["api"].as_str().unwrap().parse().unwrap();
    assert!(listening["link"].as_str().unwrap().starts_with("127.0.0.1:"));
    eventually("readiness", async || http(ops, "GET /readyz", b"").await.0 == 200).await;
    let head = "POST /v1/rooms/a/publications\r\nauthorization: Bearer s3cret";
    assert_eq!(http(api, head, b"{\"body\":1}").await.0, 200);
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = soon("the end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        assert!(!line.contains("s3cret"), "{line}");
        last = line;
    }
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["message"], &last["tasks"]), (&"shut down".into(), &0.into()));
}

#[tokio::test]
async fn a_port_taken_is_an_error_and_no_refusal() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let (code, text) = refusal(&[("API_LISTEN", &at), ("LINK_LISTEN", ":0"), ("OPS_LISTEN", "127.0.0.1:0")]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("API_LISTEN"), "{text}");
}
