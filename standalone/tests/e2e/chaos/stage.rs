//! Two edges, three fanout nodes, a store, and a proxy on every way between them.

use std::{net::SocketAddr, time::Duration};

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::sleep;

use super::{
    faults::{Fault, Part, Way},
    store::Store,
};
use crate::harness::{Edge, Fanout, Process, Proxy};

const EDGES: usize = 2;
const NODES: usize = 3;

pub(super) struct Stage {
    pub(super) store: Store,
    settings: Vec<(String, String)>,
    fanouts: Vec<Fanout>,
    edges: Vec<Edge>,
    /// By edge, then by node.
    links: Vec<Vec<Proxy>>,
    /// Between publishers and nodes.
    apis: Vec<Proxy>,
    /// Between clients and edges.
    sockets: Vec<Proxy>,
}

impl Stage {
    pub(super) fn start(store: Store) -> Self {
        let settings = store.settings();
        let fanouts: Vec<_> = (0..NODES).map(|_| Fanout::start(&settings)).collect();
        let links: Vec<Vec<_>> =
            (0..EDGES).map(|_| fanouts.iter().map(|fanout| Proxy::to(Some(fanout.link))).collect()).collect();
        let apis = fanouts.iter().map(|fanout| Proxy::to(Some(fanout.api))).collect();
        let edges: Vec<_> = links.iter().map(|links| start_edge(links)).collect();
        let sockets = edges.iter().map(|edge| Proxy::to(Some(edge.ws))).collect();
        Self { store, settings, fanouts, edges, links, apis, sockets }
    }

    pub(super) fn apis(&self) -> Vec<SocketAddr> {
        self.apis.iter().map(|api| api.address).collect()
    }

    pub(super) fn sockets(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|socket| socket.address).collect()
    }

    /// Nobody ends that was not killed, whatever happens to others.
    pub(super) fn assert_all_run(&self) {
        let edges = self.edges.iter().map(|edge| &edge.process);
        for process in self.fanouts.iter().map(|fanout| &fanout.process).chain(edges) {
            assert!(process.try_ended().is_none(), "ended by itself:\n{}", process.output());
        }
    }

    /// Ends with the fault, once what died is there again.
    pub(super) async fn strike(&mut self, fault: Fault, random: &mut StdRng) {
        let moment = Duration::from_millis(random.random_range(200..=1500));
        match fault {
            Fault::Kill(part) => self.kill(part, moment, random).await,
            Fault::Pause(part) => {
                // A primary: shorter than what gets it replaced.
                let moment = match part {
                    Part::Fanout | Part::Edge => moment * 3,
                    Part::Primary => moment / 2,
                    Part::Replica | Part::Sentinel => moment,
                };
                let process = self.process(part, random).await;
                process.pause();
                sleep(moment).await;
                process.resume();
            }
            Fault::Cut(way) => self.way(way, random).await.cut(),
            Fault::HalfClose(way) => self.way(way, random).await.half_close(),
            Fault::Delay(way) => {
                let each = if way == Way::Store { moment / 20 } else { moment / 5 };
                let proxy = self.way(way, random).await;
                proxy.delay(each);
                sleep(moment * 2).await;
                proxy.heal();
            }
            Fault::Swallow(way) => {
                let moment = if way == Way::Store { moment / 3 } else { moment * 3 };
                let swallow =
                    *[Proxy::swallow, Proxy::swallow_answers, Proxy::swallow_requests].choose(random).unwrap();
                let proxy = self.way(way, random).await;
                swallow(proxy);
                sleep(moment).await;
                // What was swallowed on a connection leaves it useless, so that it ends with the moment.
                proxy.heal();
                proxy.cut();
            }
            Fault::PromoteLaggingReplica => {
                self.store.promote(Some(Duration::from_millis(500) + moment), random).await;
            }
            Fault::MoveSlot => self.store.move_a_room(random).await,
        }
    }

    async fn kill(&mut self, part: Part, moment: Duration, random: &mut StdRng) {
        match part {
            Part::Fanout => {
                let node = random.random_range(0..NODES);
                self.fanouts[node].process.kill();
                sleep(moment).await;
                self.fanouts[node] = Fanout::start(&self.settings);
                for links in &self.links {
                    links[node].lead_to(self.fanouts[node].link);
                }
                self.apis[node].lead_to(self.fanouts[node].api);
            }
            Part::Edge => {
                let edge = random.random_range(0..EDGES);
                self.edges[edge].process.kill();
                sleep(moment).await;
                self.edges[edge] = start_edge(&self.links[edge]);
                self.sockets[edge].lead_to(self.edges[edge].ws);
            }
            Part::Primary => self.store.promote(None, random).await,
            Part::Replica => self.store.restart_a_replica(random).await,
            Part::Sentinel => self.store.sentinels_mut().restart(random).await,
        }
    }

    async fn process(&self, part: Part, random: &mut StdRng) -> &Process {
        match part {
            Part::Fanout => &self.fanouts[random.random_range(0..NODES)].process,
            Part::Edge => &self.edges[random.random_range(0..EDGES)].process,
            Part::Primary => &self.store.servers[self.store.primary(random).await].process,
            Part::Replica => &self.store.servers[self.store.replica(random).await].process,
            Part::Sentinel => &self.store.sentinels().any(random).process,
        }
    }

    async fn way(&self, way: Way, random: &mut StdRng) -> &Proxy {
        let (edge, node) = (random.random_range(0..EDGES), random.random_range(0..NODES));
        match way {
            Way::Edge => &self.sockets[edge],
            Way::Link => &self.links[edge][node],
            Way::Api => &self.apis[node],
            Way::Store => &self.store.servers[self.store.primary(random).await].proxy,
            Way::Sentinel => &self.store.sentinels().any(random).proxy,
        }
    }
}

fn start_edge(links: &[Proxy]) -> Edge {
    let links: Vec<_> = links.iter().map(|link| link.address).collect();
    Edge::start(&links, &[])
}
