//! `/readyz` tells the truth.

use http::StatusCode;

use crate::harness::{Client, Edge, Fanout, Stage, Token, eventually, free_port, get, readyz};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_ready_once_it_has_met_a_fanout_node() {
    let port = free_port();
    let link = format!("127.0.0.1:{port}");
    let edge = Edge::start(&[link.parse().unwrap()], &[]);
    assert_eq!(readyz(edge.ops).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&format!("http://{}/livez", edge.ops)).await.0, StatusCode::OK);
    let token = format!("Bearer {}", Token::of("ana").sign());
    let (status, body) = Client::open(edge.ws, &[("authorization", &token)]).await.unwrap_err();
    assert_eq!((status, &body["payload"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"not_ready".into()));

    let fanout = Fanout::start(&[("LINK_LISTEN".to_owned(), link)]);
    eventually("the edge is ready", async || readyz(edge.ops).await.0 == StatusCode::OK).await;
    let mut ana = edge.connect("ana").await;

    fanout.process.ends_well().await;
    assert_eq!(readyz(edge.ops).await.0, StatusCode::OK, "once ready, it keeps its sockets");
    ana.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_is_not_ready_and_takes_no_sockets() {
    let stage = Stage::plan().with("WRITE_WAIT", "20s").start().await;
    let edge = stage.edge(0);
    // Never answers the close, so that there is something to wait for.
    let mut stubborn = edge.connect_raw("ana").await;
    stubborn.read_until("welcome").await;
    edge.process.terminate();
    eventually("not ready", async || readyz(edge.ops).await == (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into()))
        .await;
    let (status, body) = Client::open(edge.ws, &[]).await.unwrap_err();
    assert_eq!((status, &body["payload"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"draining".into()));
    assert_eq!(stubborn.read_to_close().await, 1012);
    drop(stubborn);
    assert!(edge.process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_and_name_nobody() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana-of-the-metrics").await;
    ana.join("room-of-the-metrics").await;
    ana.broadcast("room-of-the-metrics", "1").await;
    for ops in [stage.edge(0).ops, stage.fanout(0).ops] {
        let (status, text) = get(&format!("http://{ops}/metrics")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.ends_with("# EOF\n") && text.lines().count() > 20, "{text}");
        assert!(!text.contains("of-the-metrics"), "{text}");
    }
}
