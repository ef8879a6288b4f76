//! Redis servers, half of them primaries with a replica each, behind proxies by which all others know them; and what
//! promotes a replica: Sentinels, or the Cluster itself.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{rngs::StdRng, seq::IndexedRandom as _};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{cluster, sentinels::Sentinels};
use crate::harness::{Process, Proxy, eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) proxy: Proxy,
    pub(super) process: Process,
    /// With which it is started, also the next time.
    options: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) servers: Vec<Server>,
    /// Every replication ID that a shard's primaries have had. A shard: a primary with its replica.
    pub(super) ids: Ids,
    /// `None`: a Cluster.
    sentinels: Option<Sentinels>,
    rooms: Vec<Home>,
    _files: TempDir,
}

pub(super) type Ids = Arc<Mutex<Vec<BTreeSet<String>>>>;

/// Where a room is.
#[derive(Debug)]
struct Home {
    /// Of a Cluster.
    slot: usize,
    /// All that it has been on, with repeats.
    shards: Vec<usize>,
}

impl Store {
    /// A primary, its replica, and three Sentinels.
    pub(super) async fn with_sentinels() -> Self {
        let files = TempDir::new().unwrap();
        let first = Server::start(free_port(), &files, None, &[]);
        let primary = first.proxy.address.port();
        let second = Server::start(free_port(), &files, Some(primary), &[]);
        let sentinels = Sentinels::start(primary, &files);
        Self::new(vec![first, second], Some(sentinels), files).await
    }

    /// Three primaries with a replica each.
    pub(super) async fn cluster() -> Self {
        let files = TempDir::new().unwrap();
        let servers = cluster::start(&files).await;
        Self::new(servers, None, files).await
    }

    async fn new(servers: Vec<Server>, sentinels: Option<Sentinels>, files: TempDir) -> Self {
        let ids = Arc::new(Mutex::new(vec![BTreeSet::new(); servers.len() / 2]));
        let store = Self { servers, ids, sentinels, rooms: Vec::new(), _files: files };
        store.well().await;
        store
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.sentinels.is_none()
    }

    pub(super) fn sentinels(&self) -> &Sentinels {
        self.sentinels.as_ref().expect("no faults of Sentinels on a Cluster")
    }

    pub(super) fn sentinels_mut(&mut self) -> &mut Sentinels {
        self.sentinels.as_mut().expect("no faults of Sentinels on a Cluster")
    }

    /// How fanout finds it.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let settings = match &self.sentinels {
            Some(sentinels) => vec![("REDIS_ADDR", sentinels.address())],
            None => vec![("REDIS_ADDR", self.servers[0].proxy.address.to_string()), ("REDIS_CLUSTER", "true".into())],
        };
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.port).collect()
    }

    /// Waits until every replica follows its primary without a lag, and all that could promote it know so.
    pub(super) async fn well(&self) {
        eventually("a store that is well", async || {
            let mut well = 0;
            for server in &self.servers {
                let info = ask(server.port, "INFO replication").await;
                well += usize::from(info.contains("role:slave") && info.contains("master_link_status:up"));
            }
            well == self.servers.len() / 2
                && match &self.sentinels {
                    // Asked anew each time: they may be about to call another the primary.
                    Some(sentinels) => match self.primaries().await[..] {
                        [primary] => sentinels.are_well(self.servers[primary].proxy.address.port()).await,
                        _ => false,
                    },
                    None => cluster::is_well(&self.servers).await,
                }
        })
        .await;
    }

    async fn primaries(&self) -> Vec<usize> {
        let mut primaries = Vec::new();
        for (number, server) in self.servers.iter().enumerate() {
            if ask(server.port, "INFO replication").await.contains("role:master") {
                primaries.push(number);
            }
        }
        primaries
    }

    /// Learns where rooms are, before any of them moves.
    pub(super) async fn find_rooms(&mut self, rooms: impl Iterator<Item = String>) {
        for room in rooms {
            let home = if self.is_cluster() {
                let slot = cluster::slot(&self.servers, &room).await;
                Home { slot, shards: vec![cluster::shard_at_first(slot)] }
            } else {
                Home { slot: 0, shards: vec![0] }
            };
            self.rooms.push(home);
        }
    }

    /// How often the ID that a room sees may have changed: with that of a shard it has been on, and by moving.
    pub(super) fn changes(&self, room: usize) -> usize {
        let shards = &self.rooms[room].shards;
        let counts = self.id_counts();
        let visited: BTreeSet<_> = shards.iter().collect();
        visited.into_iter().map(|shard| counts[*shard] - 1).sum::<usize>() + shards.len() - 1
    }

    pub(super) fn id_counts(&self) -> Vec<usize> {
        self.ids.lock().unwrap().iter().map(BTreeSet::len).collect()
    }

    /// A room goes to another primary of the Cluster, with all in the same slot.
    pub(super) async fn move_a_room(&mut self, random: &mut StdRng) {
        self.well().await;
        let slot = self.rooms.choose(random).expect("rooms, which were found").slot;
        let shard = cluster::move_slot(&self.servers, slot, random).await;
        for room in self.rooms.iter_mut().filter(|room| room.slot == slot) {
            room.shards.push(shard);
        }
    }

    /// Any primary.
    pub(super) async fn primary(&self, random: &mut StdRng) -> usize {
        *self.primaries().await.choose(random).expect("a primary, as all is well")
    }

    /// Any replica.
    pub(super) async fn replica(&self, random: &mut StdRng) -> usize {
        self.well().await;
        let primary = self.primary(random).await;
        self.replica_of(primary).await
    }

    /// The one that follows it.
    async fn replica_of(&self, primary: usize) -> usize {
        let of = format!("master_port:{}\r", self.servers[primary].proxy.address.port());
        for (number, server) in self.servers.iter().enumerate() {
            if ask(server.port, "INFO replication").await.contains(&of) {
                return number;
            }
        }
        panic!("no replica of {primary}, though all is well");
    }

    /// A primary dies, its replica is promoted, and the other comes back as its replica. With a lag the replica hears
    /// nothing more for so long before.
    pub(super) async fn promote(&mut self, lag: Option<Duration>, random: &mut StdRng) {
        self.well().await;
        let old = self.primary(random).await;
        let new = self.replica_of(old).await;
        if let Some(lag) = lag {
            self.servers[old].proxy.lag();
            sleep(lag).await;
        }
        self.kill(old).await;
        let port = self.servers[new].port;
        eventually("a promotion", async || ask(port, "INFO replication").await.contains("role:master")).await;
        self.servers[old].proxy.heal();
        self.follow(old, new);
        self.well().await;
    }

    /// A replica dies and comes back.
    pub(super) async fn restart_a_replica(&mut self, random: &mut StdRng) {
        self.well().await;
        let primary = self.primary(random).await;
        let replica = self.replica_of(primary).await;
        self.kill(replica).await;
        self.follow(replica, primary);
        self.well().await;
    }

    async fn kill(&self, number: usize) {
        self.servers[number].process.kill();
        self.servers[number].process.ended().await;
    }

    /// A server that died comes back, and follows this primary. In a Cluster it learns by itself whom to follow.
    fn follow(&mut self, number: usize, primary: usize) {
        let primary = self.servers[primary].proxy.address.port();
        self.servers[number].start_again(self.sentinels.is_some().then_some(primary));
    }
}

impl Server {
    pub(super) fn start(port: u16, files: &TempDir, primary: Option<u16>, more: &[&str]) -> Self {
        let proxy = Proxy::to(Some(([127, 0, 0, 1], port).into()));
        let announced = proxy.address.port().to_string();
        let (port_option, directory) = (port.to_string(), files.path().to_str().unwrap());
        let mut options = vec!["--port", &port_option, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        options.extend(["--dir", directory, "--dbfilename", &announced]);
        options.extend(["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &announced]);
        options.extend(["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &announced]);
        options.extend(["--repl-backlog-ttl", "0", "--repl-diskless-sync-delay", "0"]);
        options.extend(more);
        let options: Vec<_> = options.into_iter().map(str::to_owned).collect();
        let process = run(&options, primary);
        Self { port, proxy, process, options }
    }

    fn start_again(&mut self, primary: Option<u16>) {
        self.process = run(&self.options, primary);
    }
}

fn run(options: &[String], primary: Option<u16>) -> Process {
    let primary = primary.map(|port| port.to_string());
    let mut options: Vec<_> = options.iter().map(String::as_str).collect();
    if let Some(primary) = &primary {
        options.extend(["--replicaof", "127.0.0.1", primary]);
    }
    Process::start(Path::new("redis-server"), &options, &[])
}

/// Adds every replication ID that any of these servers has as a primary, as long as it runs. Each shard has a server in
/// the first half and one in the second.
pub(super) async fn watch_ids(ports: Vec<u16>, ids: Ids) {
    loop {
        for (number, port) in ports.iter().enumerate() {
            let info = ask(*port, "INFO replication").await;
            let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
            if let Some(id) = id.filter(|_| info.contains("role:master")) {
                ids.lock().unwrap()[number % (ports.len() / 2)].insert(id.to_owned());
            }
        }
        sleep(LOOK).await;
    }
}

/// What it answers, as it stands on the wire; nothing if it does not.
pub(super) async fn ask(port: u16, command: &str) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        // It answers, then ends as well.
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    timeout(PATIENCE, asking).await.ok().and_then(Result::ok).unwrap_or_default()
}
