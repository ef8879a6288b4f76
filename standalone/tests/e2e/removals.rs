//! A backend removes a user: from a room, or altogether, on every edge, those that start later too.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Backend, Client, Edge, Fanout, Reply, Stage, closed, eventually, links, metric, readyz};

/// A backend that lets everybody in, but ana into the vault only until told otherwise.
fn backend() -> (Backend, Arc<AtomicBool>) {
    let lets_in = Arc::new(AtomicBool::new(true));
    let asked = lets_in.clone();
    let backend = Backend::answering(move |question| {
        let out = question.room == "vault" && question.user == "ana" && !asked.load(Ordering::SeqCst);
        if out { Reply::No } else { Reply::Yes }
    });
    (backend, lets_in)
}

async fn remove(node: &Fanout, who: Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("http://{}/v1/remove", node.api)).header("content-type", "application/json");
    let response = request.body(who.to_string()).send().await.unwrap();
    assert_eq!((response.status(), response.text().await.unwrap()), (StatusCode::OK, "{}".to_owned()));
}

async fn knows(edge: &Edge, removals: u64) {
    eventually("word of it", async || metric(edge.ops, "espigon_edge_removals").await == removals).await;
}

/// Joins with a grant. The answer: `joined`, or an error's code.
async fn join_with(client: &mut Client, room: &str, grant: &Value) -> String {
    let answer = client.ask("join", json!({"room": room, "grant": grant})).await;
    answer.json["payload"]["code"].as_str().unwrap_or("joined").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_room_on_every_edge_and_on_those_that_start_later() {
    let (backend, lets_in) = backend();
    let plan = Stage::plan().redis().fanouts(2).edges(2).with("BACKEND_URL", backend.url());
    let mut stage = plan.with("BACKEND_CACHE_TTL", "1h").start().await;
    let (mut anas, mut bobs, mut grant, mut bobs_grant) = (Vec::new(), Vec::new(), Value::Null, Value::Null);
    for edge in [stage.edge(0), stage.edge(1)] {
        eventually("both links", async || links(edge.ops).await == 2).await;
        let (mut ana, mut bob) = (edge.connect("ana").await, edge.connect("bob").await);
        for room in ["vault", "lobby"] {
            let joined = ana.join(room).await;
            let bobs = bob.join(room).await;
            if room == "vault" {
                (grant, bobs_grant) = (joined["grant"].clone(), bobs["grant"].clone());
            }
        }
        anas.push(ana);
        bobs.push(bob);
    }
    assert_eq!(join_with(&mut anas[0], "vault", &grant).await, "joined");
    let asked = backend.asked();

    lets_in.store(false, Ordering::SeqCst);
    remove(stage.fanout(1), json!({"user": "ana", "room": "vault"})).await;
    for ana in &mut anas {
        assert_eq!(ana.expect("left").await, json!({"room": "vault", "reason": "removed"}));
        let refused = ana.refused("broadcast", json!({"room": "vault", "body": 1})).await;
        assert_eq!(refused["code"], "not_joined");
    }
    // What ana was given before is void, the answers that edges kept as well.
    for ana in &mut anas {
        assert_eq!(join_with(ana, "vault", &grant).await, "not_authorized");
    }
    assert!(backend.asked() > asked, "it was asked again");
    stage.fanout(0).publish("vault", "1").await.unwrap();
    stage.fanout(0).publish("lobby", "2").await.unwrap();
    for ana in &mut anas {
        assert_eq!(ana.next_message().await.body(), "2", "in the other room she stays");
    }
    for bob in &mut bobs {
        bob.next_messages(2).await;
    }

    // Another node and another edge, which have seen nothing of it; those that have are gone.
    let redis = stage.redis.take().unwrap();
    drop((anas, stage));
    let settings = [("REDIS_ADDR".to_owned(), redis.address()), ("BACKEND_URL".to_owned(), backend.url())];
    let fanout = Fanout::start(&settings[..1]);
    let edge = Edge::start(&[fanout.link], &settings[1..]);
    for ops in [fanout.ops, edge.ops] {
        eventually("ready", async || readyz(ops).await.0 == StatusCode::OK).await;
    }
    let (mut ana, mut bob) = (edge.connect("ana").await, edge.connect("bob").await);
    knows(&edge, 1).await;
    let asked = backend.asked();
    assert_eq!(join_with(&mut bob, "vault", &bobs_grant).await, "joined");
    assert_eq!(backend.asked(), asked, "others' grants stand");
    assert_eq!(join_with(&mut ana, "vault", &grant).await, "not_authorized");
    // No ban.
    lets_in.store(true, Ordering::SeqCst);
    eventually("the answer is asked for anew", async || ana_joins(&edge).await).await;
}

async fn ana_joins(edge: &Edge) -> bool {
    let mut ana = edge.connect("ana").await;
    ana.ask("join", json!({"room": "vault"})).await.is("joined")
}

#[tokio::test(flavor = "multi_thread")]
async fn altogether_on_every_edge() {
    let (backend, lets_in) = backend();
    let stage = Stage::plan().edges(2).with("BACKEND_URL", backend.url()).start().await;
    let (mut anas, mut bobs, mut grant) = (Vec::new(), Vec::new(), Value::Null);
    for edge in [stage.edge(0), stage.edge(1), stage.edge(1)] {
        let mut ana = edge.connect("ana").await;
        grant = ana.join("vault").await["grant"].clone();
        anas.push(ana);
        bobs.push(edge.connect("bob").await);
    }
    lets_in.store(false, Ordering::SeqCst);
    remove(stage.fanout(0), json!({"user": "ana"})).await;
    for ana in &mut anas {
        assert_eq!(ana.closed().await, "4003 removed");
    }
    for bob in &mut bobs {
        bob.ping().await;
    }
    assert_eq!((closed(stage.edge(0).ops, "removed").await, closed(stage.edge(1).ops, "removed").await), (1, 2));
    // Her token is good: to let her in no more is for who signs it. Her grants are not.
    for index in 0..2 {
        let mut ana = stage.edge(index).connect("ana").await;
        assert_eq!(join_with(&mut ana, "vault", &grant).await, "not_authorized");
        assert_eq!(ana.join("lobby").await["room"], "lobby");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_she_joins() {
    let backend = Backend::answering(|question| if question.room == "vault" { Reply::Held } else { Reply::Yes });
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).start().await;
    let edge = stage.edge(0);
    let mut ana = edge.connect("ana").await;
    let id = ana.request("join", json!({"room": "vault"})).await;
    eventually("the question", async || backend.asked() == 1).await;
    remove(stage.fanout(0), json!({"user": "ana", "room": "vault"})).await;
    eventually("asked anew", async || backend.asked() == 2).await;
    ana.ping().await;
    backend.release();
    assert!(ana.answer(&id).await.is("joined"), "the second answer, which is a yes, counts");
    assert_eq!(ana.unasked("joined") + ana.unasked("left"), 0, "the first one does not");
}
