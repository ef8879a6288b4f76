//! Three Sentinels, which know the servers by the proxies before them, and have proxies of their own.

use std::path::{Path, PathBuf};

use rand::{Rng as _, rngs::StdRng};
use tempfile::TempDir;

use super::store::ask;
use crate::harness::{Process, Proxy, eventually, free_port};

const COUNT: usize = 3;

#[derive(Debug)]
pub(super) struct Sentinels(Vec<Sentinel>);

#[derive(Debug)]
pub(super) struct Sentinel {
    port: u16,
    /// Its settings, where it also writes down what it learns.
    file: PathBuf,
    pub(super) proxy: Proxy,
    pub(super) process: Process,
}

impl Sentinels {
    pub(super) fn start(primary: u16, files: &TempDir) -> Self {
        let sentinels = (0..COUNT).map(|number| {
            let (port, file) = (free_port(), files.path().join(format!("sentinel-{number}.conf")));
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n"
            );
            std::fs::write(&file, settings).unwrap();
            let proxy = Proxy::to(Some(([127, 0, 0, 1], port).into()));
            Sentinel { port, proxy, process: run(&file), file }
        });
        Self(sentinels.collect())
    }

    pub(super) fn address(&self) -> String {
        let hosts: Vec<_> = self.0.iter().map(|sentinel| sentinel.proxy.address.to_string()).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    pub(super) fn any(&self, random: &mut StdRng) -> &Sentinel {
        &self.0[random.random_range(0..COUNT)]
    }

    /// One dies and comes back with what it knew.
    pub(super) async fn restart(&mut self, random: &mut StdRng) {
        let sentinel = &mut self.0[random.random_range(0..COUNT)];
        sentinel.process.kill();
        sentinel.process.ended().await;
        sentinel.process = run(&sentinel.file);
        eventually("the Sentinel", async || ask(sentinel.port, "PING").await.contains("PONG")).await;
    }

    /// Whether each knows the others, this primary, and a replica that it would promote. Without it a failover may be
    /// given up for want of a replica, and is not tried again for twice its time-out.
    pub(super) async fn are_well(&self, primary: u16) -> bool {
        for Sentinel { port, .. } in &self.0 {
            let main = ask(*port, "SENTINEL MASTER main").await;
            let replicas = ask(*port, "SENTINEL REPLICAS main").await;
            let well = is(&main, "port", &primary.to_string())
                && is(&main, "flags", "master")
                && is(&main, "num-other-sentinels", "2")
                && is(&replicas, "flags", "slave")
                && is(&replicas, "master-link-status", "ok");
            if !well {
                return false;
            }
        }
        true
    }
}

/// Whether an answer has a field of this value.
fn is(answer: &str, field: &str, value: &str) -> bool {
    answer.contains(&format!("\r\n{field}\r\n${}\r\n{value}\r\n", value.len()))
}

fn run(file: &Path) -> Process {
    Process::start(Path::new("redis-server"), &[file.to_str().unwrap(), "--sentinel"], &[])
}
