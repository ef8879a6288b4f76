//! A Redis Cluster of the test's own: three primaries with a replica each. It ends with the test.

use fanout::broker::Keep;

use crate::{
    redis_server::{RedisServer, TRIES, free_port},
    subject::Subject,
    support::eventually,
};

const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;

pub(crate) struct RedisCluster {
    /// The first three were made primaries, the others their replicas in that order.
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) ids: Vec<String>,
}

impl RedisCluster {
    pub(crate) async fn start() -> Self {
        let (mut servers, mut ids, mut buses) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..2 * PRIMARIES {
            let (server, bus) = start_server().await;
            ids.push(server.ask::<String>(&["CLUSTER", "MYID"]).await);
            server.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            buses.push(bus);
            servers.push(server);
        }
        for (number, server) in servers.iter().take(PRIMARIES).enumerate() {
            let (first, last) = (number * SLOTS / PRIMARIES, (number + 1) * SLOTS / PRIMARIES - 1);
            server.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
        }
        for (server, bus) in servers.iter().zip(&buses).skip(1) {
            servers[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &server.port.to_string(), bus]).await;
        }
        let cluster = Self { servers, ids };
        for (server, primary) in cluster.servers[PRIMARIES..].iter().zip(&cluster.ids) {
            eventually("acquaintance", async || server.ask::<String>(&["CLUSTER", "NODES"]).await.contains(primary))
                .await;
            server.ask::<()>(&["CLUSTER", "REPLICATE", primary]).await;
        }
        cluster.well().await;
        cluster
    }

    /// Waits until all servers agree that all is well.
    pub(crate) async fn well(&self) {
        for (number, server) in self.servers.iter().enumerate() {
            eventually("the Cluster", async || {
                let info: String = server.ask(&["CLUSTER", "INFO"]).await;
                let nodes: String = server.ask(&["CLUSTER", "NODES"]).await;
                let replication: String = server.ask(&["INFO", "replication"]).await;
                info.contains("cluster_state:ok")
                    && nodes.matches(" slave ").count() + nodes.matches(",slave ").count() == PRIMARIES
                    && !nodes.contains("handshake")
                    && (number < PRIMARIES || replication.contains("master_link_status:up"))
            })
            .await;
        }
    }

    pub(crate) fn address(&self) -> String {
        self.servers[0].address()
    }

    /// A broker on it whose keys and channels begin so.
    pub(crate) async fn subject(&self, prefix: &str, keep: Keep) -> Subject {
        Subject::cluster(&self.address(), prefix, keep).await
    }

    pub(crate) async fn slot(&self, room: &str) -> usize {
        self.servers[0].ask(&["CLUSTER", "KEYSLOT", &format!("rt:{{{room}}}:meta")]).await
    }

    /// Which of the servers has the slot.
    pub(crate) async fn owner(&self, slot: usize) -> usize {
        type Range = (usize, usize, (String, u16, String));
        let port = {
            // The view of one that is surely there.
            let ranges: Vec<redis::Value> = self.servers[1].ask(&["CLUSTER", "SLOTS"]).await;
            let ranges = ranges.into_iter().map(|range| {
                let redis::Value::Array(mut range) = range else { panic!("{range:?}") };
                range.truncate(3);
                let redis::Value::Array(primary) = range.pop().unwrap() else { panic!("no server") };
                let bounds: (usize, usize) = redis::from_redis_value(redis::Value::Array(range)).unwrap();
                let port: u16 = redis::from_redis_value(primary[1].clone()).unwrap();
                (bounds.0, bounds.1, (String::new(), port, String::new()))
            });
            let ranges: Vec<Range> = ranges.collect();
            ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).unwrap().2.1
        };
        self.servers.iter().position(|server| server.port == port).unwrap()
    }

    /// Moves a slot with all that is in it, as `redis-cli --cluster reshard` does.
    pub(crate) async fn move_slot(&self, slot: usize, to: usize) {
        let from = self.owner(slot).await;
        let (source, target) = (&self.servers[from], &self.servers[to]);
        let name = slot.to_string();
        target.ask::<()>(&["CLUSTER", "SETSLOT", &name, "IMPORTING", &self.ids[from]]).await;
        source.ask::<()>(&["CLUSTER", "SETSLOT", &name, "MIGRATING", &self.ids[to]]).await;
        loop {
            let keys: Vec<String> = source.ask(&["CLUSTER", "GETKEYSINSLOT", &name, "100"]).await;
            if keys.is_empty() {
                break;
            }
            let port = target.port.to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            source.ask::<redis::Value>(&migrate).await;
        }
        for server in [target, source] {
            server.ask::<()>(&["CLUSTER", "SETSLOT", &name, "NODE", &self.ids[to]]).await;
        }
    }
}

/// With the port of its bus.
async fn start_server() -> (RedisServer, String) {
    for _ in 0..TRIES {
        let bus = free_port().to_string();
        let mut options =
            vec!["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", &bus];
        options.extend(["--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"]);
        if let Some(server) = RedisServer::try_start(&options).await {
            return (server, bus);
        }
    }
    panic!("no server of a Cluster starts");
}
