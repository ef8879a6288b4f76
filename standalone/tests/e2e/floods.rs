//! Floods: each has a limit, a code and a metric; others are served meanwhile, and memory stays below a bound.

mod bystanders;
mod storm;

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

use self::{
    bystanders::{Bystanders, Felt},
    storm::Storm,
};
use crate::harness::{
    Backend, Opening, Plan, RawClient, Reply, Stage, Token, closed, eventually, metric, readyz, refused, serial, tell,
};

const MIB: u64 = 1 << 20;

/// What bystanders may feel, on a machine that floods itself while it builds.
const DELIVERY: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(4);

/// From where floods come: bystanders have another address.
const FLOOD: [u8; 4] = [127, 0, 0, 66];

/// One flood, and how to know that its limit was met.
struct Flood {
    what: &'static str,
    attackers: usize,
    /// How much memory the edge may take for it.
    bound: u64,
}

impl Flood {
    /// Runs the flood; each attacker goes on until the end. `met` says how often the limit was.
    async fn run<A>(self, plan: Plan, attack: impl Fn(SocketAddr, usize) -> A, met: impl AsyncFn(&Stage) -> u64)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let _turn = serial().await;
        let stage = plan.start().await;
        let edge = stage.edge(0);
        let mut bystanders = Bystanders::of(&stage).await;
        let before = bystanders.watch(50).await;
        let memory = edge.process.memory();

        let mut attackers = JoinSet::new();
        for number in 0..self.attackers {
            attackers.spawn(attack(edge.ws, number));
        }
        eventually("the limit", async || met(&stage).await > 0).await;
        let during = bystanders.watch(100).await;
        let grown = edge.process.memory().saturating_sub(memory);
        let met = met(&stage).await;
        drop(attackers);

        let Felt { delivery, connect } = during;
        tell(format_args!(
            "flood of {}: limit met {met} times; p99 of delivery {:?} before, {delivery:?} during; of connecting {:?}, \
             {connect:?}; memory grown by {} MiB",
            self.what,
            before.delivery,
            before.connect,
            grown / MIB
        ));
        assert!(delivery < DELIVERY && connect < CONNECT, "{}: {during:?}", self.what);
        assert!(grown < self.bound, "{}: {} MiB", self.what, grown / MIB);
        // It has left nothing behind.
        bystanders.watch(10).await;
    }
}

async fn connect(edge: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((std::net::IpAddr::from(FLOOD), 0).into()).ok()?;
    socket.connect(edge).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_slow_handshakes() {
    let flood = Flood { what: "slow handshakes", attackers: 3000, bound: 96 * MIB };
    let attack = async |edge: SocketAddr| {
        let Some(mut stream) = connect(edge).await else { return };
        for byte in b"GET /ws HTTP/1.1\r\nX: ".chunks(1) {
            if stream.write_all(byte).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let again = move |edge, _| async move {
        loop {
            attack(edge).await;
            sleep(Duration::from_millis(500)).await;
        }
    };
    flood.run(Stage::plan(), again, async |stage| refused(stage.edge(0).ops, "crowded").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_heads_too_large() {
    let flood = Flood { what: "heads too large", attackers: 50, bound: 64 * MIB };
    let attack = |edge, _| async move {
        let head = format!("GET /ws HTTP/1.1\r\nX: {}", "y".repeat(64 << 10));
        loop {
            if let Some(mut stream) = connect(edge).await {
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    flood.run(Stage::plan(), attack, async |stage| refused(stage.edge(0).ops, "bad_head").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_new_sockets_from_one_address() {
    let flood = Flood { what: "new sockets from one address", attackers: 20, bound: 64 * MIB };
    let attack = |edge, number: usize| {
        let token = Token::of(&format!("attacker-{number}")).sign();
        async move {
            loop {
                Opening::at(edge).from(FLOOD).bearer(&token).send().await;
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let plan = Stage::plan().with("ADDRESS_RATE", "40/s");
    flood.run(plan, attack, async |stage| refused(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_frames_that_come_byte_by_byte() {
    let attackers = 1000;
    let flood = Flood { what: "slow frames", attackers, bound: 96 * MIB };
    let attack = |edge, number: usize| {
        let token = Token::of(&format!("attacker-{number}")).sign();
        async move {
            // As large as may be, masked with zeros.
            let mut client = RawClient::connect(edge, &token).await;
            client.send_bytes(&[0x81, 0xfe, 0x20, 0x00, 0, 0, 0, 0]).await;
            while client.send_bytes(b" ").await {
                sleep(Duration::from_secs(1)).await;
            }
        }
    };
    // Each has the one message under way that a client may have; what there is no more of are places.
    let plan = Stage::plan().with("MAX_CONNECTIONS", "1030");
    let full = async |stage: &Stage| {
        let open = metric(stage.edge(0).ops, "espigon_edge_connections").await;
        u64::from(open >= attackers as u64)
    };
    flood.run(plan, attack, full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_pings() {
    let flood = Flood { what: "pings", attackers: 20, bound: 64 * MIB };
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(1000);
    let attack = move |edge, number| attack_with(edge, number, pings.clone());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fragments_with_nothing_in_them() {
    let flood = Flood { what: "empty fragments", attackers: 6, bound: 64 * MIB };
    // One message that never ends.
    let mut fragments = vec![0x01, 0x80, 0, 0, 0, 0];
    fragments.extend([0x00, 0x80, 0, 0, 0, 0].repeat(20_000));
    let attack = move |edge, number| attack_with(edge, number, fragments.clone());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "message_too_large").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sockets_of_one_user() {
    let flood = Flood { what: "sockets of one user", attackers: 60, bound: 64 * MIB };
    let token = Token::of("attacker").sign();
    let attack = move |edge, _| {
        let token = token.clone();
        async move {
            loop {
                let open = RawClient::connect_to(edge, "/ws", &token).await;
                sleep(Duration::from_millis(if open.is_ok() { 500 } else { 50 })).await;
            }
        }
    };
    flood.run(Stage::plan(), attack, async |stage| refused(stage.edge(0).ops, "too_many_connections").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_broadcasts() {
    let flood = Flood { what: "broadcasts", attackers: 20, bound: 64 * MIB };
    let mut frames = text(r#"{"type":"join","payload":{"room":"flood"}}"#);
    frames.extend(text(r#"{"type":"broadcast","payload":{"room":"flood","body":1}}"#).repeat(1000));
    let attack = move |edge, number| attack_with(edge, number, frames.clone());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rooms() {
    let flood = Flood { what: "rooms", attackers: 20, bound: 64 * MIB };
    let join = |number: usize, room| text(&format!(r#"{{"type":"join","payload":{{"room":"{number}-{room}"}}}}"#));
    let attack = move |edge, number| attack_with(edge, number, (0..1000).flat_map(|room| join(number, room)).collect());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_joins_that_the_backend_does_not_answer() {
    let flood = Flood { what: "joins that the backend does not answer", attackers: 50, bound: 64 * MIB };
    let backend = Backend::answering(|question| if question.room == "square" { Reply::Yes } else { Reply::Never });
    let join = |number: usize, room| text(&format!(r#"{{"type":"join","payload":{{"room":"{number}-{room}"}}}}"#));
    let attack = move |edge, number| attack_with(edge, number, (0..50).flat_map(|room| join(number, room)).collect());
    let plan = Stage::plan().with("BACKEND_URL", format!("http://{}", backend.address)).with("BACKEND_QUEUE", "256");
    let full = async |stage: &Stage| metric(stage.edge(0).ops, "espigon_edge_backend_queue_full_total").await;
    flood.run(plan, attack, full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_clients_that_come_back_all_at_once() {
    let clients = 1000;
    let flood = Flood { what: "clients that come back all at once", attackers: clients, bound: 96 * MIB };
    let storm = Storm::of(clients);
    let attack = |edge, number| storm.clone().client(edge, number);
    // No limit is in their way: each is let in, and gets what it missed.
    flood.run(Stage::plan(), attack, async |_| storm.times()).await;
}

/// A text message, masked with zeros.
fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short message");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// Sends these frames, again and again over new connections, and reads nothing until they are sent.
async fn attack_with(edge: SocketAddr, number: usize, frames: Vec<u8>) {
    let token = Token::of(&format!("attacker-{number}")).sign();
    loop {
        if let Ok(mut client) = RawClient::connect_to(edge, "/ws", &token).await {
            client.send_bytes(&frames).await;
            client.read_to_end().await;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_no_sockets_are_taken_and_those_there_stay() {
    let _turn = serial().await;
    // What an edge takes by itself, to know what is above it.
    let used = Stage::plan().start().await.edge(0).process.memory() / MIB;
    let limit = format!("{}MiB", used + 48);
    let plan = Stage::plan().with("MEMORY_LIMIT", limit).with("WS_CONFORMANCE_PATH", "/conformance");
    let stage = plan.start().await;
    let edge = stage.edge(0);
    let mut ana = edge.connect("ana").await;
    ana.join("lobby").await;

    // Messages of 16 MiB, of which 12 have come.
    let mut large = Vec::new();
    for _ in 0..8 {
        large.push(RawClient::connect_to(edge.ws, "/conformance", "").await.unwrap());
    }
    for client in &mut large {
        client.send_bytes(&[0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).await;
        client.send_bytes(&vec![1; 12 << 20]).await;
    }
    eventually("unready", async || readyz(edge.ops).await.1.contains("MEMORY_LIMIT")).await;
    let opening = Opening::at(edge.ws).bearer(&Token::of("bob").sign());
    assert_eq!(opening.refused().await, (503, "overloaded".to_owned()));
    assert!(refused(edge.ops, "overloaded").await > 0);
    // Who is there is served.
    stage.fanout(0).publish("lobby", "1").await.unwrap();
    assert_eq!(ana.next_message().await.body(), "1");
    ana.ping().await;

    drop(large);
    eventually("room for more", async || opening.send().await.status == 101).await;
    assert!(edge.process.output().contains("over MEMORY_LIMIT"));
}
