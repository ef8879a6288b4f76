//! What processes take: resident memory, from `/proc`.

use std::fs;

use anyhow::Context as _;

use crate::processes::Cluster;

/// Bytes of each kind of process, those of one kind together.
pub(crate) type Rss = Vec<(&'static str, u64)>;

pub(crate) fn of(cluster: &Cluster) -> anyhow::Result<Rss> {
    let mut all = Rss::new();
    for server in &cluster.servers {
        let bytes = of_process(server.pid())?;
        match all.iter_mut().find(|(name, _)| *name == server.name) {
            Some((_, sum)) => *sum += bytes,
            None => all.push((server.name, bytes)),
        }
    }
    Ok(all)
}

fn of_process(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
