//! Figure: memory of idle connections, each in its personal room. They are held by processes of their own, as each
//! process may open only so many files.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    memory,
    processes::{Cluster, Shape},
    report::{Figure, spread},
    swarm::{Opening, Swarm},
};

/// Sockets of one process.
pub(crate) const MOST_PER_PROCESS: usize = 18_000;

/// For what handshakes leave behind, and interest under way.
const SETTLING: Duration = Duration::from_secs(3);

/// Holds connections until its input ends; says `ready` when all are in their personal rooms.
pub(crate) async fn hold(to: &[SocketAddr], first_user: usize, count: usize) -> anyhow::Result<()> {
    let mut swarm = Swarm::connect_users(to, vec![Opening::Personal; count], 1, first_user).await?;
    println!("ready");
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        let result = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(result);
    });
    end.await??;
    swarm.check()
}

/// A process that holds connections, and ends with its value.
struct Holder(Child);

impl Holder {
    fn start(to: SocketAddr, first_user: usize, count: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hold", "--to", &to.to_string(), "--first-user", &first_user.to_string()]);
        command.args(["--count", &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self(command.spawn().context("start a holder of connections")?);
        let output = holder.0.stdout.take().context("its output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() == "ready" { Ok(holder) } else { bail!("connections could not be held") }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn figure(connections: usize, redis: bool, repeats: usize) -> anyhow::Result<Figure> {
    let edges = connections.div_ceil(MOST_PER_PROCESS);
    let mut samples = Vec::new();
    for _ in 0..repeats {
        let cluster = Cluster::start(Shape { edges, redis, redis_apart: false })?;
        sleep(SETTLING).await;
        let before = memory::of(&cluster)?;
        let mut holders = Vec::new();
        for (number, edge) in cluster.edges.iter().enumerate() {
            let count = connections / edges + usize::from(number < connections % edges);
            holders.push(Holder::start(*edge, number * MOST_PER_PROCESS, count)?);
        }
        sleep(SETTLING).await;
        let after = memory::of(&cluster)?;
        drop(holders);
        samples.push((before, after));
    }
    let mut figure = Figure::new("idle", &format!("idle-{connections}"));
    figure.parameter("connections", connections as f64);
    figure.parameter("edges", edges as f64);
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    for (index, (process, _)) in samples[0].0.iter().enumerate() {
        let per = samples
            .iter()
            .map(|(before, after)| kib(after[index].1.saturating_sub(before[index].1)) / connections as f64);
        figure.push("ours", &format!("{process}_kib_per_connection"), spread(per));
        let whole = samples.iter().map(|(_, after)| kib(after[index].1) / 1024.0);
        figure.push("ours", &format!("{process}_rss_mib"), spread(whole));
    }
    let all = samples.iter().map(|(before, after)| {
        let sum = |of: &memory::Rss| of.iter().map(|(_, bytes)| bytes).sum::<u64>();
        kib(sum(after).saturating_sub(sum(before))) / connections as f64
    });
    figure.push("ours", "kib_per_connection", spread(all));
    Ok(figure)
}
