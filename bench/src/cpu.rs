//! What processes cost: CPU time, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of all server processes, and that of the generator.
pub(crate) const SERVERS: usize = 0;
pub(crate) const GENERATOR: usize = 1;

/// Keeps this process on one core.
pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).context("two cores are needed: one for the servers, one for the generator")
}

/// User and system time of all threads of a process so far, to the nanosecond.
pub(crate) fn time_of(pid: u32) -> anyhow::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        total += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}
