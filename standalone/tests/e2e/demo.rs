//! The demo page: what is served, and to whom.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::harness::{Client, Process, free_environment, run, workspace_binary};

struct Demo {
    process: Process,
    at: SocketAddr,
    ws: SocketAddr,
}

impl Demo {
    fn start() -> Self {
        let process = Process::start(&workspace_binary("standalone"), &[], &free_environment());
        let address = |start: &'static str| {
            process.wait_for(start, move |line| {
                let (at, _) = line.trim().strip_prefix(start)?.split_once('/')?;
                at.parse().ok()
            })
        };
        let (at, ws) = (address("http://"), address("ws://"));
        Self { process, at, ws }
    }

    async fn get(&self, path: &str, host: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let mut request = client.get(format!("http://{}{path}", self.at));
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.headers().clone(), response.text().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_all_it_needs_are_in_the_binary() {
    let demo = Demo::start();
    for (path, kind, part) in [
        ("/", "text/html", "<main"),
        ("/look.css", "text/css", "color-scheme"),
        ("/demo.css", "text/css", ".pane"),
        ("/demo.js", "text/javascript", "./espigon.js"),
        ("/espigon.js", "text/javascript", "realtime.v1"),
    ] {
        let (status, headers, text) = demo.get(path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with(kind), "{path}");
        assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("default-src 'none'"), "{path}");
        assert!(text.contains(part), "{path}");
    }
    let (_, _, settings) = demo.get("/settings", None).await;
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["ws"], format!("ws://{}/ws", demo.ws));
    assert!(settings["publish"].as_str().unwrap().contains("/v1/rooms/{room}/publications"));
    demo.process.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_tokens_open_the_edge_to_pages_of_its_own_only() {
    let demo = Demo::start();
    let (status, headers, token) = demo.get("/token?user=Ana", None).await;
    assert_eq!((status, &headers[header::CACHE_CONTROL]), (StatusCode::OK, &"no-store".parse().unwrap()));
    assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    let mut client = Client::open_url(&format!("ws://{}/ws?token={token}", demo.ws)).await;
    assert_eq!(client.expect("welcome").await["user"], "Ana");

    let port = demo.at.port();
    for host in ["evil.example", &format!("evil.example:{port}"), "127.0.0.1", "127.0.0.1:1"] {
        for path in ["/", "/token?user=Ana"] {
            let (status, _, text) = demo.get(path, Some(host)).await;
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host}{path}");
            assert!(!text.contains("eyJ"), "{host}{path}");
        }
    }
    assert_eq!(demo.get("/", Some(&format!("localhost:{port}"))).await.0, StatusCode::OK);
    for user in ["", "@all", "a%20b", &"a".repeat(33)] {
        assert_eq!(demo.get(&format!("/token?user={user}"), None).await.0, StatusCode::BAD_REQUEST, "{user}");
    }
    assert_eq!(demo.get("/token", None).await.0, StatusCode::BAD_REQUEST);
}

#[test]
fn it_is_served_on_loopback_only() {
    let mut command = std::process::Command::new(workspace_binary("standalone"));
    command.env("DEMO_LISTEN", "0.0.0.0:0");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("DEMO_LISTEN"));
}

#[test]
fn an_edge_knows_nothing_of_it() {
    let mut help = std::process::Command::new(workspace_binary("edge"));
    help.arg("--help");
    assert!(!run(help).contains("DEMO"));
}
