//! Parts of a swarm in processes of their own, as one process has only so many open files. Such a process is this test
//! binary again. It is told what to do by lines on its standard input, one JSON each, and answers each with one.

use std::{io::stdin, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{CHECK, Plan, Report, Swarm};
use crate::harness::Process;

/// Before each answer, as the test runner prints lines too.
const MARK: &str = "worker: ";

/// For what an order takes besides its own limit.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Start { plan: Plan, edges: Vec<SocketAddr>, apis: Vec<SocketAddr> },
    Publish,
    SetEdges(Vec<SocketAddr>),
    SetApis(Vec<SocketAddr>),
    CaughtUp(Duration),
    Finish(Duration),
}

/// What comes back, with the number of the order, from 1.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    order: usize,
    /// At the end.
    report: Option<Report>,
}

/// A swarm in several processes, each with clients and rooms of its own.
#[derive(Debug)]
pub(crate) struct Workers {
    processes: Vec<Process>,
    orders: usize,
}

impl Workers {
    /// Starts each of these plans in a process of its own.
    pub(crate) async fn start(plans: Vec<Plan>, edges: &[SocketAddr], apis: &[SocketAddr]) -> Self {
        let this = std::env::current_exe().unwrap();
        let args = ["--exact", "swarm::worker::process", "--ignored", "--nocapture"];
        let processes = plans.iter().map(|_| Process::start(&this, &args, &[])).collect();
        let mut workers = Self { processes, orders: 0 };
        let (edges, apis) = (edges.to_vec(), apis.to_vec());
        let orders = plans.into_iter().map(|plan| Order::Start { plan, edges: edges.clone(), apis: apis.clone() });
        workers.order(orders.collect(), Duration::ZERO).await;
        workers
    }

    pub(crate) async fn publish(&mut self) {
        self.order_all(Order::Publish, Duration::ZERO).await;
    }

    /// As [`Swarm::set_edges`].
    pub(crate) async fn set_edges(&mut self, edges: Vec<SocketAddr>) {
        self.order_all(Order::SetEdges(edges), Duration::ZERO).await;
    }

    /// As [`Swarm::set_apis`].
    pub(crate) async fn set_apis(&mut self, apis: Vec<SocketAddr>) {
        self.order_all(Order::SetApis(apis), Duration::ZERO).await;
    }

    /// As [`Swarm::caught_up`].
    pub(crate) async fn caught_up(&mut self, limit: Duration) {
        self.order_all(Order::CaughtUp(limit), limit).await;
    }

    /// As [`Swarm::finish`].
    pub(crate) async fn finish(mut self, limit: Duration) -> Report {
        let mut sum = Report::default();
        for report in self.order_all(Order::Finish(limit), limit * 2).await {
            sum.add(report.expect("a report at the end"));
        }
        for process in &self.processes {
            assert!(process.ended().await.success(), "{}", process.output());
        }
        sum
    }

    async fn order_all(&mut self, order: Order, limit: Duration) -> Vec<Option<Report>> {
        self.order(vec![order; self.processes.len()], limit).await
    }

    /// Gives one to each, and waits for all answers.
    async fn order(&mut self, orders: Vec<Order>, limit: Duration) -> Vec<Option<Report>> {
        self.orders += 1;
        for (process, order) in self.processes.iter().zip(orders) {
            process.type_line(&serde_json::to_string(&order).unwrap());
        }
        let mut reports = Vec::new();
        for process in &self.processes {
            let answer = timeout(limit + PATIENCE, self.answer(process)).await;
            reports.push(answer.unwrap_or_else(|_| panic!("no answer to {}", self.orders)));
        }
        reports
    }

    async fn answer(&self, process: &Process) -> Option<Report> {
        loop {
            let answers = |line: &str| serde_json::from_str(line.strip_prefix(MARK)?).ok();
            let found = process.find(|line| answers(line).filter(|answer: &Answer| answer.order == self.orders));
            if let Some(Answer { report, .. }) = found {
                return report;
            }
            assert!(process.try_ended().is_none(), "a worker ended:\n{}", process.output());
            sleep(CHECK).await;
        }
    }
}

/// No test of its own: started by [`Workers`], and done at once where nobody gives orders.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by tests that need several processes"]
async fn process() {
    let (mut swarm, mut order) = (None, 0);
    while let Some(line) = spawn_blocking(|| stdin().lines().next()).await.unwrap() {
        order += 1;
        let mut report = None;
        match (serde_json::from_str(&line.unwrap()).unwrap(), &mut swarm) {
            (Order::Start { plan, edges, apis }, _) => swarm = Some(Swarm::start(&plan, edges, &apis)),
            (Order::Publish, Some(swarm)) => swarm.publish(),
            (Order::SetEdges(edges), Some(swarm)) => swarm.set_edges(edges),
            (Order::SetApis(apis), Some(swarm)) => swarm.set_apis(&apis),
            (Order::CaughtUp(limit), Some(swarm)) => swarm.caught_up(limit).await,
            (Order::Finish(limit), _) => report = Some(swarm.take().unwrap().finish(limit).await),
            (order, None) => panic!("{order:?} before the start"),
        }
        // On a line of its own: the runner does not end its first one.
        println!("\n{MARK}{}", serde_json::to_string(&Answer { order, report }).unwrap());
        if swarm.is_none() {
            return;
        }
    }
}
