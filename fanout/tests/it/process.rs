//! The binary: settings, the line that says where it listens, signals, exit codes.

use std::{net::SocketAddr, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::{Edge, eventually, http, soon};

/// Where a node of a test listens.
const FREE: [(&str, &str); 3] = [("OPS_LISTEN", "127.0.0.1:0"), ("LINK_LISTEN", ":0"), ("API_LISTEN", ":0")];

fn command(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanout"));
    set(&mut command, settings);
    command
}

fn set<'a>(command: &'a mut Command, settings: &[(&str, &str)]) -> &'a mut Command {
    command.env_clear().envs(settings.iter().copied()).stderr(Stdio::piped()).kill_on_drop(true)
}

/// A node as a process, and what it says.
pub(crate) fn spawn(settings: &[(&str, &str)]) -> (Child, Lines<BufReader<ChildStderr>>) {
    piped(Command::new(env!("CARGO_BIN_EXE_fanout")), &[&FREE, settings].concat())
}

fn piped(mut command: Command, settings: &[(&str, &str)]) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut child = set(&mut command, settings).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    (child, lines)
}

async fn start(settings: &[(&str, &str)]) -> (Child, Lines<BufReader<ChildStderr>>, Value) {
    listening(spawn(settings)).await
}

/// A node that may open so many files.
pub(crate) async fn start_with_files(
    files: u64,
    settings: &[(&str, &str)],
) -> (Child, Lines<BufReader<ChildStderr>>, Value) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit -n {files} && exec \"$0\""), env!("CARGO_BIN_EXE_fanout")]);
    listening(piped(command, &[&FREE, settings].concat())).await
}

async fn listening(
    (child, mut lines): (Child, Lines<BufReader<ChildStderr>>),
) -> (Child, Lines<BufReader<ChildStderr>>, Value) {
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
    assert_eq!(status.code(), Some(0), "{status}");
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

#[tokio::test]
async fn secrets_in_files_are_watched() {
    let file = |name: &str, text: &str| {
        let path = std::env::temp_dir().join(format!("espigon-fanout-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (keys, token) = (file("keys", "shop:first\n"), file("token", "t0ken-1"));
    let settings = [("API_KEYS_FILE", &*keys), ("LINK_TOKEN_FILE", &*token)];
    let (_child, mut lines, listening) = start(&settings).await;
    let address = |name: &str| listening[name].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (api, attach_to) = (address("api"), address("link"));
    let status = async |key: &str| http(api, &format!("GET /v1/status\r\nauthorization: Bearer {key}"), b"").await.0;
    assert_eq!((status("first").await, status("second-s3cret").await), (200, 401));
    Edge::attach_with(attach_to, 1, Some("t0ken-1")).await.detach();
    // A bad one changes nothing, and is not shown.
    file("keys", "shop:second-s3cret:all");
    file("token", "t0ken-2");
    let mut bad = Value::Null;
    let mut changed = Value::Null;
    while bad.is_null() || changed.is_null() {
        let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
        assert!(!line.contains("s3cret") && !line.contains("t0ken"), "{line}");
        let line: Value = serde_json::from_str(&line).unwrap();
        match line["message"].as_str() {
            Some("a new secret is bad: keeping the old one") => bad = line["secret"].clone(),
            Some("a secret was changed") => changed = line["secret"].clone(),
            _ => {}
        }
    }
    assert_eq!((bad, changed), ("API_KEYS".into(), "LINK_TOKEN".into()));
    assert_eq!((status("first").await, status("second-s3cret").await), (200, 401));
    Edge::attach_with(attach_to, 1, Some("t0ken-2")).await.detach();
    file("keys", "shop:second-s3cret");
    eventually("the new key", async || status("second-s3cret").await == 200).await;
    assert_eq!(status("first").await, 401);
    for path in [keys, token] {
        std::fs::remove_file(path).unwrap();
    }
}
