//! Section 2 of the contract, and what answers: requests, their ids, their order; where a join begins.

use serde_json::{Value, json};

use crate::harness::{Backend, Client, Message, Question, Reply, Stage, Token, publish_body};

fn position(joined: &Value) -> Value {
    json!({"epoch": joined["epoch"], "seq": joined["seq"]})
}

/// Broadcasts, and reads all of it: then the room stands there on this edge, too.
async fn broadcast_all(client: &mut Client, room: &str, bodies: std::ops::RangeInclusive<u64>) {
    for body in bodies {
        client.broadcast(room, &body.to_string()).await;
        assert_eq!(client.next_message().await.body(), body.to_string());
    }
}

/// The bodies of the next messages, with each one's `seq`.
async fn next(client: &mut Client, count: usize) -> Vec<(u64, u64)> {
    let messages = client.next_messages(count).await;
    messages.iter().map(|message| (message.seq(), message.body().parse().unwrap())).collect()
}

/// Members of a room that joined elsewhere, on an edge whose tail starts empty, see the same.
async fn join_since(stage: &Stage, edge: usize, room: &str, since: &Value) -> (Client, Value) {
    let mut client = Client::connect_apart(stage.edge(edge).ws, &Token::of("late").sign()).await;
    let joined = client.ask("join", json!({"room": room, "since": since})).await;
    assert!(joined.is("joined"), "{}", joined.text);
    (client, joined.json["payload"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_echoed_in_the_answer() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let token = Token::of("ana").sign();
    let longest = "i".repeat(64);
    for (id, kind, payload, answer) in [
        ("1", "join", json!({"room": "r"}), "joined"),
        (&*longest, "broadcast", json!({"room": "r", "body": 1}), "ack"),
        ("é\"", "auth", json!({"token": token}), "authenticated"),
        ("", "leave", json!({"room": "r"}), "left"),
        ("5", "ping", json!(null), "pong"),
        ("6", "broadcast", json!({"room": "r", "body": 1}), "error"),
        ("7", "dance", json!({}), "error"),
    ] {
        ana.send(&json!({"type": kind, "id": id, "payload": payload}).to_string()).await;
        let message = ana.next(answer).await;
        assert_eq!(message.json["id"], id, "{}", message.text);
    }

    // Without an id: answered without, and a broadcast not at all.
    ana.send(r#"{"type":"join","payload":{"room":"r"}}"#).await;
    assert_eq!(ana.next("joined").await.json.get("id"), None);
    ana.send(r#"{"type":"broadcast","payload":{"room":"r","body":"without"}}"#).await;
    let ack = ana.broadcast("r", r#""with""#).await;
    assert_eq!(ack["seq"], 3);
    assert_eq!(ana.unasked("ack"), 0);
    ana.send(r#"{"type":"ping"}"#).await;
    assert_eq!(ana.next("pong").await.json.get("id"), None);
    ana.send(r#"{"type":"leave","payload":{"room":"r"}}"#).await;
    assert_eq!(ana.next("left").await.text, r#"{"type":"left","payload":{"room":"r"}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_not_known_are_ignored() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    ana.send(r#"{"v":2,"type":"join","payload":{"room":"r","color":"red","since":{"last":1,"x":null}},"id":"1"}"#)
        .await;
    assert_eq!(ana.answer("1").await.json["type"], "joined");
    ana.send(r#"{"type":"broadcast","id":"2","payload":{"x":[],"room":"r","body":1,"to":"bob"}}"#).await;
    assert_eq!(ana.answer("2").await.json["type"], "ack");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_gets_its_own_message_and_an_ack() {
    let stage = Stage::plan().start().await;
    let (mut ana, mut bob) = (stage.edge(0).connect("ana").await, stage.edge(0).connect("bob").await);
    let joined = ana.join("lobby").await;
    assert_eq!((&joined["epoch"], &joined["seq"]), (&json!(""), &json!(0)), "never published to");
    bob.join("lobby").await;
    let ack = ana.ask("broadcast", json!({"room": "lobby", "body": {"n": 1}, "key": "k-1"})).await.json;
    let epoch = ack["payload"]["epoch"].as_str().unwrap().to_owned();
    assert!(!epoch.is_empty());
    assert_eq!(ack["payload"], json!({"room": "lobby", "epoch": epoch, "seq": 1, "duplicate": false}));
    ana.broadcast("lobby", "2").await;
    let (own, others) = (ana.next_messages(2).await, bob.next_messages(2).await);
    for (own, other) in own.iter().zip(&others) {
        assert_eq!(own.text, other.text);
    }
    let mut first = own[0].json.clone();
    let ts = first["ts"].take();
    assert_eq!(
        first,
        json!({
            "type": "message", "room": "lobby", "seq": 1, "from": "ana", "ts": null, "key": "k-1", "epoch": epoch,
            "body": {"n": 1},
        })
    );
    let form: String = ts.as_str().unwrap().chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{ts}");
    assert_eq!(
        (own[1].json.get("key"), own[1].json.get("epoch")),
        (None, None),
        "only where there is something to say"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_room_keep_their_order_and_rooms_do_not_wait_for_each_other() {
    let backend = Backend::answering(|question| if question.room == "slow" { Reply::Held } else { Reply::Yes });
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let slow = ana.request("join", json!({"room": "slow"})).await;
    let sent = ana.request("broadcast", json!({"room": "slow", "body": 1})).await;
    let again = ana.request("broadcast", json!({"room": "slow", "body": 2})).await;
    ana.join("fast").await;
    ana.broadcast("fast", "1").await;
    ana.ping().await;
    assert_eq!((ana.unasked("ack"), ana.unasked("error")), (0, 0), "the slow room waits");
    backend.release();
    let joined = ana.next("joined").await;
    assert_eq!((&joined.json["id"], &joined.json["payload"]["seq"]), (&json!(slow), &json!(0)));
    for (id, seq) in [(sent, 1), (again, 2)] {
        assert_eq!(ana.answer(&id).await.json["payload"]["seq"], seq);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_cancels_a_join_that_waits() {
    let backend = Backend::answering(|question| if question.room == "slow" { Reply::Held } else { Reply::Yes });
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let join = ana.request("join", json!({"room": "slow"})).await;
    backend.until_under_way(1).await;
    let leave = ana.request("leave", json!({"room": "slow"})).await;
    let cancelled = ana.next_of_all().await;
    assert_eq!((&cancelled.json["id"], &cancelled.json["payload"]["code"]), (&json!(join), &json!("cancelled")));
    assert_eq!(cancelled.json["payload"].get("retry_ms"), None);
    assert_eq!(ana.next_of_all().await.json, json!({"type": "left", "id": leave, "payload": {"room": "slow"}}));
    backend.release();
    backend.until_under_way(0).await;
    assert_eq!(ana.refused("broadcast", json!({"room": "slow", "body": 1})).await["code"], "not_joined");
    assert_eq!(ana.unasked("joined"), 0, "the answer came too late");
    ana.join("slow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_ends_a_membership_and_of_a_room_not_joined_is_answered() {
    let stage = Stage::plan().start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    for _ in 0..2 {
        let left = ana.ask("leave", json!({"room": "lobby"})).await;
        assert_eq!((&left.json["type"], &left.json["payload"]), (&json!("left"), &json!({"room": "lobby"})));
    }
    ana.join("lobby").await;
    assert!(ana.ask("leave", json!({"room": "lobby"})).await.is("left"));
    stage.fanout(0).publish("lobby", "1").await.unwrap();
    ana.join("other").await;
    ana.broadcast("other", "2").await;
    assert_eq!(ana.next_message().await.json["room"], "other", "nothing more of the other one");
    assert_eq!(ana.refused("broadcast", json!({"room": "lobby", "body": 1})).await["code"], "not_joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_asks_again_and_a_no_ends_the_membership() {
    let banned = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let choose = {
        let banned = banned.clone();
        move |_: &Question| if banned.load(std::sync::atomic::Ordering::SeqCst) { Reply::No } else { Reply::Yes }
    };
    let backend = Backend::answering(choose);
    let stage = Stage::plan().with("BACKEND_URL", backend.url()).with("BACKEND_CACHE_TTL", "0s").start().await;
    let mut ana = stage.edge(0).connect("ana").await;
    let grant = ana.join("lobby").await["grant"].clone();
    broadcast_all(&mut ana, "lobby", 1..=1).await;
    assert_eq!(ana.join("lobby").await["seq"], 1, "where the room stands now");
    assert_eq!(backend.asked(), 2);
    broadcast_all(&mut ana, "lobby", 2..=2).await;

    banned.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(ana.ask("join", json!({"room": "lobby", "grant": grant})).await.is("joined"), "a grant still stands");
    assert_eq!(backend.asked(), 2);
    let error = ana.refused("join", json!({"room": "lobby"})).await;
    assert_eq!((&error["code"], &error["room"]), (&json!("not_authorized"), &json!("lobby")));
    let left = ana.next("left").await;
    assert_eq!(left.text, r#"{"type":"left","payload":{"room":"lobby","reason":"not_authorized"}}"#);
    stage.fanout(0).publish("lobby", "3").await.unwrap();
    stage.fanout(0).publish("user:ana", "4").await.unwrap();
    assert_eq!(ana.next_message().await.json["room"], "user:ana");
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_of_one_connection_to_one_room_are_stored_in_the_order_sent() {
    const COUNT: u64 = 500;
    for plan in [Stage::plan(), Stage::plan().redis()] {
        let stage = plan.with("CLIENT_BURST", "1000").with("SEND_QUEUE", "2048").start().await;
        let mut ana = stage.edge(0).connect("ana").await;
        ana.join("lobby").await;
        for number in 1..=COUNT {
            ana.request("broadcast", json!({"room": "lobby", "body": number})).await;
        }
        let got = next(&mut ana, usize::try_from(COUNT).unwrap()).await;
        assert!(got.iter().copied().eq((1..=COUNT).map(|number| (number, number))), "{got:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_may_begin_with_the_latest_messages() {
    for plan in [Stage::plan(), Stage::plan().redis()] {
        let stage = plan.edges(2).start().await;
        let mut ana = stage.edge(0).connect("ana").await;
        ana.join("lobby").await;
        broadcast_all(&mut ana, "lobby", 1..=5).await;
        for edge in 0..2 {
            for (last, seq) in [(3, 2), (5, 0), (20, 0), (0, 5)] {
                let (mut late, joined) = join_since(&stage, edge, "lobby", &json!({"last": last})).await;
                assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(false), &json!(seq)), "last {last}");
                let expected: Vec<_> = (seq + 1..=5).map(|number| (number, number)).collect();
                assert_eq!(next(&mut late, expected.len()).await, expected, "last {last}");
            }
        }
        let (_, joined) = join_since(&stage, 0, "nobody was here", &json!({"last": 3})).await;
        assert_eq!((&joined["recovered"], &joined["epoch"], &joined["seq"]), (&json!(false), &json!(""), &json!(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_with_a_position_gets_what_was_missed_on_any_edge() {
    for plan in [Stage::plan(), Stage::plan().redis()] {
        let stage = plan.edges(2).start().await;
        let mut ana = stage.edge(0).connect("ana").await;
        let empty = position(&ana.join("lobby").await);
        broadcast_all(&mut ana, "lobby", 1..=3).await;
        let here = position(&ana.join("lobby").await);
        broadcast_all(&mut ana, "lobby", 4..=6).await;
        for edge in 0..2 {
            let (mut late, joined) = join_since(&stage, edge, "lobby", &here).await;
            assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &json!(3)));
            assert_eq!(next(&mut late, 3).await, [(4, 4), (5, 5), (6, 6)]);

            // A room never published to is at "", 0: recovered, as the history reaches back to 1.
            let (mut late, joined) = join_since(&stage, edge, "lobby", &empty).await;
            assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &json!(0)));
            assert_eq!(next(&mut late, 6).await, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);

            for since in [json!({"epoch": "another", "seq": 3}), json!({"epoch": here["epoch"], "seq": 99})] {
                let (_, joined) = join_since(&stage, edge, "lobby", &since).await;
                assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(false), &json!(6)), "{since}");
            }
        }
        // Of a room already joined: from there, once more; and then what is new.
        let again = ana.ask("join", json!({"room": "lobby", "since": here})).await;
        assert_eq!(again.json["payload"]["recovered"], true);
        assert_eq!(next(&mut ana, 3).await, [(4, 4), (5, 5), (6, 6)]);
        broadcast_all(&mut ana, "lobby", 7..=7).await;
        let (_, joined) = join_since(&stage, 0, "empty", &empty).await;
        assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &json!(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_history_no_longer_has_is_not_recovered() {
    for plan in [Stage::plan(), Stage::plan().redis()] {
        let stage = plan.with("HISTORY_SIZE", "5").edges(2).start().await;
        let mut ana = stage.edge(0).connect("ana").await;
        let empty = position(&ana.join("lobby").await);
        broadcast_all(&mut ana, "lobby", 1..=1).await;
        let old = position(&ana.join("lobby").await);
        broadcast_all(&mut ana, "lobby", 2..=12).await;
        for since in [&empty, &old] {
            let (mut late, joined) = join_since(&stage, 1, "lobby", since).await;
            assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(false), &json!(12)), "{since}");
            stage.fanout(0).publish("user:late", "0").await.unwrap();
            late.ping().await;
            assert_eq!(late.unasked("message"), 0, "delivery goes on from the position told");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missed_comes_before_anything_newer() {
    let stage = Stage::plan().with("SEND_QUEUE", "64").start().await;
    let mut publisher = stage.fanout(0).grpc().await;
    for number in 1..=300 {
        publisher.publish(publish_body("lobby", &number.to_string())).await.unwrap();
    }
    let mut late = Client::connect_apart(stage.edge(0).ws, &Token::of("late").sign()).await;
    let id = late.request("join", json!({"room": "lobby", "since": {"last": 300}})).await;
    for number in 301..=400 {
        publisher.publish(publish_body("lobby", &number.to_string())).await.unwrap();
    }
    let joined = late.next_of_all().await;
    assert_eq!(joined.json["id"], id);
    let start = joined.json["payload"]["seq"].as_u64().unwrap();
    let got = late.next_messages(usize::try_from(400 - start).unwrap()).await;
    assert!(got.iter().map(Message::seq).eq(start + 1..=400));
    stage.fanout(0).publish("lobby", "401").await.unwrap();
    assert_eq!(late.next_message().await.seq(), 401, "and it goes on");
}
