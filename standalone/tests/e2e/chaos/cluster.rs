//! A Redis Cluster of three primaries with a replica each. Servers speak to each other on their bus without a proxy, but
//! replicate through it.

use rand::{rngs::StdRng, seq::IndexedRandom as _};
use tempfile::TempDir;

use super::store::{Server, ask};
use crate::harness::{eventually, free_port};

const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;

pub(super) async fn start(files: &TempDir) -> Vec<Server> {
    let (mut servers, mut ids, mut buses) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..2 * PRIMARIES {
        let (port, bus) = (free_port(), free_port().to_string());
        let file = format!("nodes-{port}.conf");
        let mut options = vec!["--cluster-enabled", "yes", "--cluster-config-file", &file, "--cluster-port", &bus];
        options.extend(["--cluster-announce-bus-port", &bus, "--cluster-node-timeout", "1000"]);
        options.extend(["--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"]);
        let server = Server::start(port, files, None, &options);
        eventually("Redis", async || ask(port, "PING").await.contains("PONG")).await;
        command(&server, &format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1)).await;
        ids.push(ask(port, "CLUSTER MYID").await.lines().nth(1).unwrap().to_owned());
        servers.push(server);
        buses.push(bus);
    }
    for (number, server) in servers.iter().take(PRIMARIES).enumerate() {
        let (first, last) = (number * SLOTS / PRIMARIES, (number + 1) * SLOTS / PRIMARIES - 1);
        command(server, &format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
    }
    for (server, bus) in servers.iter().zip(&buses).skip(1) {
        command(&servers[0], &format!("CLUSTER MEET 127.0.0.1 {} {bus}", server.port)).await;
    }
    for (server, primary) in servers[PRIMARIES..].iter().zip(&ids) {
        eventually("acquaintance", async || ask(server.port, "CLUSTER NODES").await.contains(primary)).await;
        command(server, &format!("CLUSTER REPLICATE {primary}")).await;
    }
    servers
}

/// Whether all servers agree that all is well.
pub(super) async fn is_well(servers: &[Server]) -> bool {
    for server in servers {
        let nodes = ask(server.port, "CLUSTER NODES").await;
        let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
        let well = ask(server.port, "CLUSTER INFO").await.contains("cluster_state:ok")
            && replicas == PRIMARIES
            && !nodes.contains("fail")
            && !nodes.contains("handshake");
        if !well {
            return false;
        }
    }
    true
}

/// The slot that a room's keys are in.
pub(super) async fn slot(servers: &[Server], room: &str) -> usize {
    let answer = ask(servers[0].port, &format!("CLUSTER KEYSLOT rt:{{{room}}}:meta")).await;
    answer.lines().next().and_then(|line| line.strip_prefix(':')?.parse().ok()).unwrap()
}

/// Which shard, a primary with its replica, has a slot.
pub(super) fn shard_at_first(slot: usize) -> usize {
    (0..PRIMARIES).rfind(|number| number * SLOTS / PRIMARIES <= slot).unwrap_or_default()
}

/// Moves a slot to another primary with all that is in it, as `redis-cli --cluster reshard` does; to which shard.
pub(super) async fn move_slot(servers: &[Server], slot: usize, random: &mut StdRng) -> usize {
    let primaries = primaries(servers).await;
    let (from, others): (Vec<_>, Vec<_>) = primaries.iter().partition(|primary| primary.has(slot));
    let (from, to) = (from[0], *others.choose(random).unwrap());
    let (source, target) = (&servers[from.number], &servers[to.number]);
    command(target, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", from.id)).await;
    command(source, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", to.id)).await;
    loop {
        let keys = ask(source.port, &format!("CLUSTER GETKEYSINSLOT {slot} 100")).await;
        let keys: Vec<_> = keys.lines().filter(|line| line.starts_with("rt:")).collect();
        if keys.is_empty() {
            break;
        }
        command(source, &format!("MIGRATE 127.0.0.1 {} \"\" 0 5000 KEYS {}", target.port, keys.join(" "))).await;
    }
    for server in [target, source] {
        command(server, &format!("CLUSTER SETSLOT {slot} NODE {}", to.id)).await;
    }
    to.number % PRIMARIES
}

struct Primary {
    /// Which of the servers.
    number: usize,
    id: String,
    slots: Vec<(usize, usize)>,
}

impl Primary {
    fn has(&self, slot: usize) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// What each says of itself: `id address myself,master - ping pong epoch state first-last first-last ...`
async fn primaries(servers: &[Server]) -> Vec<Primary> {
    let mut primaries = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        let nodes = ask(server.port, "CLUSTER NODES").await;
        let Some(line) = nodes.lines().find(|line| line.contains("myself,master")) else { continue };
        let mut fields = line.split(' ');
        let id = fields.next().unwrap().to_owned();
        let slots = fields.skip(7).filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        primaries.push(Primary { number, id, slots: slots.collect() });
    }
    primaries
}

/// What must go well.
async fn command(server: &Server, command: &str) {
    let answer = ask(server.port, command).await;
    assert!(answer.starts_with("+OK") || answer.starts_with("+NOKEY"), "{command}: {answer}");
}
