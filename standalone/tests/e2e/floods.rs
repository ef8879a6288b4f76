//! Floods: each has a limit, a code and a metric; others are served meanwhile, and memory stays below a bound.

mod bystanders;
mod doors;
mod messages;
mod storm;

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

use self::bystanders::{Bystanders, Felt};
use crate::harness::{Plan, RawClient, Stage, Token, eventually, serial, tell};

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
    /// Whether there is room for more sockets meanwhile.
    newcomers: bool,
}

impl Flood {
    fn of(what: &'static str, attackers: usize, bound: u64) -> Self {
        Self { what, attackers, bound, newcomers: true }
    }

    /// Runs the flood; each attacker goes on until the end. `met` says how often the limit was.
    async fn run<A>(self, plan: Plan, attack: impl Fn(SocketAddr, usize) -> A, met: impl AsyncFn(&Stage) -> u64)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let _turn = serial().await;
        let stage = plan.start().await;
        let edge = stage.edge(0);
        let mut bystanders = Bystanders::of(&stage).await;
        let before = bystanders.watch(50, true).await;
        let memory = edge.process.memory();

        let mut attackers = JoinSet::new();
        for number in 0..self.attackers {
            attackers.spawn(attack(edge.ws, number));
        }
        eventually("the limit", async || met(&stage).await > 0).await;
        let during = bystanders.watch(100, self.newcomers).await;
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
        bystanders.watch(10, self.newcomers).await;
    }
}

async fn connect(edge: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((std::net::IpAddr::from(FLOOD), 0).into()).ok()?;
    socket.connect(edge).await.ok()
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
