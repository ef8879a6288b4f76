//! The opening handshake (RFC 6455, section 4), byte by byte: what no WebSocket library would send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::harness::{Stage, Token, eventually, refused, soon};

/// How long a head may take, with time for a busy machine.
const HEAD_LIMIT: std::ops::Range<u64> = 4..15;

/// The lines of a good request, with this token.
fn lines(edge: SocketAddr, token: &str) -> Vec<String> {
    let lines = [
        "GET /ws HTTP/1.1".to_owned(),
        format!("Host: {edge}"),
        "Connection: keep-alive, Upgrade".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
        format!("Authorization: Bearer {token}"),
    ];
    lines.into()
}

fn head(lines: &[String]) -> Vec<u8> {
    let mut head = lines.join("\r\n").into_bytes();
    head.extend_from_slice(b"\r\n\r\n");
    head
}

async fn connect(edge: SocketAddr) -> TcpStream {
    TcpStream::connect(edge).await.unwrap()
}

/// What is answered, up to the end of the head; to the end of the connection if there is none.
async fn answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    soon("an answer", reading).await;
    String::from_utf8_lossy(&read).into_owned()
}

async fn answer_to(edge: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(edge).await;
    stream.write_all(request).await.unwrap();
    answer(&mut stream).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// Reads to the end of the connection, however it comes.
async fn end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_form_alone_is_let_in() {
    let stage = Stage::plan().start().await;
    let ws = stage.edge(0).ws;
    let good = lines(ws, &Token::of("ana").sign());
    let with = |change: &[(usize, &str)]| {
        let mut lines = good.clone();
        for (line, text) in change {
            lines[*line] = (*text).to_owned();
        }
        head(&lines)
    };
    for (what, request) in [
        ("as it is", with(&[])),
        ("any case", with(&[(2, "cOnNeCtIoN: uPgRaDe"), (3, "UPGRADE: WebSocket")])),
        ("white space", with(&[(2, "Connection:   keep-alive ,Upgrade  "), (3, "Upgrade:websocket")])),
        ("lists over lines", with(&[(2, "Connection: keep-alive\r\nConnection: Upgrade")])),
        ("another protocol as well", with(&[(3, "Upgrade: h2c, websocket")])),
        (
            "extensions that are not spoken",
            with(&[(3, "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate")]),
        ),
        ("a whole URI", with(&[(0, &format!("GET http://{ws}/ws HTTP/1.1"))])),
    ] {
        let answer = answer_to(ws, &request).await.to_lowercase();
        assert_eq!(status(&answer), 101, "{what}: {answer}");
        for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="]
        {
            assert!(answer.contains(line), "{what}: {answer}");
        }
        assert!(!answer.contains("extensions"), "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_is_refused_and_the_connection_ended() {
    let stage = Stage::plan().start().await;
    let ws = stage.edge(0).ws;
    let good = lines(ws, &Token::of("ana").sign());
    let with = |line: usize, text: &str| {
        let mut lines = good.clone();
        lines[line] = text.to_owned();
        head(&lines)
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (what, expected, request) in [
        ("POST", 405, with(0, "POST /ws HTTP/1.1")),
        ("HEAD", 400, with(0, "HEAD /ws HTTP/1.1")),
        ("HTTP/1.0", 400, with(0, "GET /ws HTTP/1.0")),
        ("HTTP/3.1", 400, with(0, "GET /ws HTTP/3.1")),
        ("another path", 404, with(0, "GET /wss HTTP/1.1")),
        ("no host", 400, with(1, "X: y")),
        ("two hosts", 400, with(1, "Host: a\r\nHost: b")),
        ("no connection", 400, with(2, "Connection: close")),
        ("a word that contains it", 400, with(2, "Connection: upgraded")),
        ("another protocol", 400, with(3, "Upgrade: websockets")),
        ("no version", 426, with(4, "X: y")),
        ("version 0", 426, with(4, "Sec-WebSocket-Version: 0")),
        ("two versions", 400, with(4, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8")),
        ("no key", 400, with(5, "X: y")),
        ("a short key", 400, with(5, "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==")),
        ("a long key", 400, with(5, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWQ=")),
        ("two keys", 400, with(5, &format!("{key}\r\n{key}"))),
        ("a body", 400, with(1, &format!("Host: {ws}\r\nContent-Length: 3"))),
        ("a body in chunks", 400, with(1, &format!("Host: {ws}\r\nTransfer-Encoding: chunked"))),
        ("a header without a colon", 400, with(1, "Host")),
        ("a zero in a header", 400, with(1, "Host: a\0b")),
        ("no HTTP", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        ("too many headers", 431, with(1, &format!("Host: {ws}{}", "\r\nX: y".repeat(200)))),
        ("a large header", 431, with(1, &format!("Host: {ws}\r\nX: {}", "y".repeat(20_000)))),
    ] {
        let mut stream = connect(ws).await;
        // The server may have heard enough before all of it is written.
        let _ = stream.write_all(&request).await;
        let answer = answer(&mut stream).await;
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        if expected == 426 {
            assert!(answer.to_lowercase().contains("sec-websocket-version: 13\r\n"), "{what}: {answer}");
        }
        end(&mut stream).await;
    }
    // What HTTP itself forbids is counted as well.
    assert!(refused(stage.edge(0).ops, "bad_head").await >= 5);
    assert!(refused(stage.edge(0).ops, "bad_request").await >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_come_byte_by_byte_and_the_first_frame_right_behind_it() {
    let stage = Stage::plan().start().await;
    let ws = stage.edge(0).ws;
    // A masked ping, with nothing in it.
    let mut request = head(&lines(ws, &Token::of("ana").sign()));
    request.extend_from_slice(&[0x89, 0x80, 1, 2, 3, 4]);
    for size in [1, request.len()] {
        let mut stream = connect(ws).await;
        stream.set_nodelay(true).unwrap();
        for part in request.chunks(size) {
            stream.write_all(part).await.unwrap();
        }
        let mut read = Vec::new();
        // The pong comes among the welcome and what else there is.
        soon("a pong", async {
            while !read.windows(2).any(|window| window == [0x8a, 0]) {
                assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "closed");
            }
        })
        .await;
        assert!(read.starts_with(b"HTTP/1.1 101 "), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_cut() {
    let stage = Stage::plan().start().await;
    let (ws, ops) = (stage.edge(0).ws, stage.edge(0).ops);
    let start = Instant::now();
    let mut silent = connect(ws).await;
    let mut dripping = connect(ws).await;
    let drip = async {
        let request = head(&lines(ws, &Token::of("ana").sign()));
        for byte in request.chunks(1).cycle() {
            if dripping.write_all(byte).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    soon("both are cut", async { tokio::join!(end(&mut silent), drip) }).await;
    assert!(HEAD_LIMIT.contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    eventually("both are counted", async || refused(ops, "slow_head").await >= 2).await;
    stage.edge(0).connect("ana").await.ping().await;
}
