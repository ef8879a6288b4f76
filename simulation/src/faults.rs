//! What goes wrong, when: one thing after another, as the seed has it.

use std::{sync::Arc, time::Duration};

use rand::{Rng as _, seq::IteratorRandom as _};
use tokio::time::{Instant, sleep};

use crate::{
    edge_process::{EdgeProcess, NodeProcess},
    network::slowness,
    plan::Kind,
    record::Mark,
    store::Store,
    world::{World, lock, one_in, up_to},
};

/// The processes, and what happens to them.
pub(crate) struct Faults {
    world: Arc<World>,
    nodes: Vec<Option<Arc<NodeProcess>>>,
    /// What a replica has, and when it got it.
    replica: (Store, Mark),
    replicated: Instant,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Faults {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let truth = world.truth();
        let replica = (truth.store.clone(), truth.record.mark());
        drop(truth);
        let nodes = (0..world.plan.nodes).map(|_| None).collect();
        Self { world: world.clone(), nodes, replica, replicated: Instant::now() }
    }

    /// Starts everything.
    pub(crate) fn begin(&mut self) {
        for number in 0..self.world.plan.nodes {
            self.start_node(number);
        }
        for number in 0..self.world.plan.edges {
            self.start_edge(number);
        }
    }

    /// One thing after another goes wrong, for as long as the plan has it.
    pub(crate) async fn run(&mut self) {
        let end = Instant::now() + self.world.plan.trouble;
        while Instant::now() < end {
            sleep(up_to(self.world.plan.fault_every * 2)).await;
            if self.replicated.elapsed() > up_to(ms(1500)) {
                let truth = self.world.truth();
                self.replica = (truth.store.clone(), truth.record.mark());
                self.replicated = Instant::now();
            }
            match self.world.plan.kind {
                Kind::Calm => {}
                Kind::Planned => self.planned().await,
                Kind::Storm if one_in(3) => self.store(),
                Kind::Links | Kind::Storm => self.links().await,
            }
            self.check();
        }
    }

    /// Everything that is down comes up; nothing is wrong any more.
    pub(crate) fn heal(&mut self) {
        self.happens("all is well from now on");
        self.world.network.heal();
        for number in 0..self.nodes.len() {
            if self.nodes[number].is_none() {
                self.start_node(number);
            }
        }
        for number in 0..self.world.plan.edges {
            if lock(&self.world.edges)[number].is_none() {
                self.start_edge(number);
            }
        }
    }

    fn happens(&self, what: &str) {
        self.world.count(&format!("fault: {what}"));
        self.world.say(|| format!("FAULT {what}"));
    }

    /// No queue is ever larger than it may be.
    pub(crate) fn check(&self) {
        let edges: Vec<_> = lock(&self.world.edges).iter().flatten().cloned().collect();
        let checks = edges.iter().map(|edge| edge.check());
        for failed in checks.chain(self.nodes.iter().flatten().map(|node| node.check())).filter_map(Result::err) {
            self.world.fail(&failed);
        }
    }

    /// Counts what every process has counted.
    pub(crate) fn count(&self) {
        lock(&self.world.edges).iter().flatten().for_each(|edge| edge.count(&self.world));
        self.nodes.iter().flatten().for_each(|node| node.count(&self.world));
    }

    /// Processes end, and let go of each other.
    pub(crate) async fn end(&mut self) {
        let edges = std::mem::take(&mut *lock(&self.world.edges));
        for edge in edges.into_iter().flatten() {
            edge.kill().await;
        }
        for (number, node) in std::mem::take(&mut self.nodes).into_iter().enumerate() {
            self.world.network.connect_node(number, None);
            if let Some(node) = node {
                node.kill().await;
            }
        }
        lock(&self.world.brokers).clear();
    }

    fn start_node(&mut self, number: usize) {
        let node = Arc::new(NodeProcess::start(&self.world, number));
        lock(&self.world.brokers)[number] = Some(node.broker.clone());
        self.world.network.connect_node(number, Some(node.node.clone()));
        self.nodes[number] = Some(node);
    }

    fn start_edge(&self, number: usize) {
        let edge = Arc::new(EdgeProcess::start(&self.world, number));
        lock(&self.world.edges)[number] = Some(edge);
    }

    /// A node that is up and stays, by its number.
    fn any_node(&self) -> Option<(usize, Arc<NodeProcess>)> {
        let up = self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.clone()?)));
        up.filter(|(_, node)| !node.is_draining()).choose(&mut service::rng())
    }

    fn nodes_up(&self) -> usize {
        self.nodes.iter().flatten().filter(|node| !node.is_draining()).count()
    }

    fn any_edge(&self) -> Option<(usize, Arc<EdgeProcess>)> {
        let edges = lock(&self.world.edges);
        let up = edges.iter().enumerate().filter_map(|(number, edge)| Some((number, edge.clone()?)));
        up.filter(|(_, edge)| !edge.is_draining()).choose(&mut service::rng())
    }

    async fn planned(&mut self) {
        match service::rng().random_range(0..10) {
            0..=5 if self.nodes_up() > 1 => self.drain_node().await,
            6 if lock(&self.world.edges).iter().flatten().count() > 1 => self.drain_edge().await,
            _ => self.start_something(),
        }
    }

    async fn links(&mut self) {
        match service::rng().random_range(0..18) {
            0..=2 => {
                if let Some((edge, node)) = self.world.network.break_one() {
                    self.happens("a link breaks");
                    self.world.say(|| format!("edge {edge} node {node}"));
                }
            }
            3..=4 => {
                let long = up_to(ms(6000));
                if let Some((edge, node)) = self.world.network.stall_one(long) {
                    self.happens("a link is a black hole");
                    self.world.say(|| format!("edge {edge} node {node} {long:?}"));
                }
            }
            5..=7 => {
                let by = slowness();
                if let Some((edge, node)) = self.world.network.slow_one(by) {
                    self.happens("a link is slow");
                    self.world.say(|| format!("edge {edge} node {node} {by:?}"));
                }
            }
            8 => self.kill_node().await,
            9 => self.drain_node().await,
            10 => self.kill_edge().await,
            11 => self.drain_edge().await,
            12 => {
                if let Some((number, node)) = self.any_node() {
                    self.happens("a subscriber connection is lost");
                    self.world.say(|| format!("node {number}"));
                    node.broker.lose_subscriber(up_to(ms(1500)));
                }
            }
            13 => {
                if let Some((number, node)) = self.any_node() {
                    self.happens("a node is deaf");
                    self.world.say(|| format!("node {number}"));
                    node.broker.go_deaf(up_to(ms(6000)));
                }
            }
            14 => {
                if let Some((number, node)) = self.any_node() {
                    self.happens("a connection for commands is lost");
                    self.world.say(|| format!("node {number}"));
                    node.broker.lose_commands(up_to(ms(800)));
                }
            }
            _ => self.start_something(),
        }
    }

    /// What is wrong with the store is wrong for all.
    fn store(&mut self) {
        let world = self.world.clone();
        let mut truth = world.truth();
        let rooms: Vec<_> = (0..world.plan.rooms).map(World::room).collect();
        let truth = &mut *truth;
        let what = match service::rng().random_range(0..10) {
            0..=5 => {
                truth.store.fail_over(&self.replica.0);
                truth.record.went_back(&self.replica.1, &truth.store);
                "a replica takes over"
            }
            6..=8 => {
                let same = truth.store.clone();
                truth.store.fail_over(&same);
                "the store is restarted"
            }
            _ => {
                truth.store.wipe();
                truth.record.went_back(&Mark::new(), &truth.store);
                "the store is wiped"
            }
        };
        for room in &rooms {
            truth.observe(room);
        }
        self.replica = (truth.store.clone(), truth.record.mark());
        self.replicated = Instant::now();
        self.happens(what);
        let down = up_to(ms(800));
        for node in self.nodes.iter().flatten() {
            node.broker.lose_commands(down);
            node.broker.lose_subscriber(down + up_to(ms(500)));
        }
    }

    async fn kill_node(&mut self) {
        if let Some((number, node)) = self.any_node() {
            self.happens("a node is killed");
            self.world.say(|| format!("node {number}"));
            self.nodes[number] = None;
            lock(&self.world.brokers)[number] = None;
            self.world.network.connect_node(number, None);
            node.count(&self.world);
            node.kill().await;
        }
    }

    async fn drain_node(&mut self) {
        if let Some((number, node)) = self.any_node() {
            self.happens("a node drains");
            self.world.say(|| format!("node {number}"));
            if !node.drain().await {
                self.world.fail("a node did not end");
            }
            self.happens("a node has drained");
            node.count(&self.world);
            self.nodes[number] = None;
            lock(&self.world.brokers)[number] = None;
            self.world.network.connect_node(number, None);
        }
    }

    async fn kill_edge(&mut self) {
        if let Some((number, edge)) = self.any_edge() {
            self.happens("an edge is killed");
            self.world.say(|| format!("edge {number}"));
            lock(&self.world.edges)[number] = None;
            edge.count(&self.world);
            edge.kill().await;
        }
    }

    async fn drain_edge(&mut self) {
        if let Some((number, edge)) = self.any_edge() {
            self.happens("an edge drains");
            self.world.say(|| format!("edge {number}"));
            if !edge.drain().await {
                self.world.fail("an edge did not end");
            }
            edge.count(&self.world);
            lock(&self.world.edges)[number] = None;
        }
    }

    fn start_something(&mut self) {
        if let Some(number) = self.nodes.iter().position(Option::is_none) {
            self.happens("a node starts");
            self.world.say(|| format!("node {number}"));
            self.start_node(number);
            return;
        }
        let number = lock(&self.world.edges).iter().position(Option::is_none);
        if let Some(number) = number {
            self.happens("an edge starts");
            self.world.say(|| format!("edge {number}"));
            self.start_edge(number);
        }
    }
}
