//! Sentinels of the test's own; they end with the test.

use std::process::{Child, Command, Stdio};

use redis::FromRedisValue;
use tempfile::TempDir;

use crate::{
    redis_server::{RedisServer, free_port},
    support::eventually,
};

/// The name they know the primary by.
const NAME: &str = "main";

pub(crate) struct Sentinels {
    sentinels: Vec<(Child, u16)>,
    _files: TempDir,
}

impl Sentinels {
    /// So many, of whom more than half must agree, once they know each other and the replicas of the primary.
    pub(crate) async fn start(count: usize, primary: u16) -> Self {
        let files = tempfile::tempdir().unwrap();
        let quorum = count / 2 + 1;
        let start = |number: usize| {
            let (port, file) = (free_port(), files.path().join(format!("{number}.conf")));
            let settings = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary} {quorum}\n\
                 sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 1000\n",
                files.path().display()
            );
            std::fs::write(&file, settings).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
            (command.spawn().unwrap(), port)
        };
        let sentinels = (0..count).map(start).collect();
        let sentinels = Self { sentinels, _files: files };
        sentinels.know(count).await;
        sentinels
    }

    async fn know(&self, count: usize) {
        let primary = self.ask_for_primary().await;
        let others = format!("sentinels={count}");
        for (_, port) in &self.sentinels {
            eventually("the Sentinels to know each other", async || {
                // A replica that has just begun may not be online yet.
                let info: String = RedisServer::ask_at(primary, &["INFO", "replication"]).await;
                let replicas = format!("slaves={},", info.matches("state=online").count());
                let info: String = RedisServer::ask_at(*port, &["INFO", "sentinel"]).await;
                info.contains(&replicas) && info.contains(&others) && info.contains("status=ok")
            })
            .await;
        }
    }

    async fn ask_for_primary(&self) -> u16 {
        for (_, port) in &self.sentinels {
            eventually("a Sentinel", async || RedisServer::answers(*port).await).await;
        }
        self.ask::<(String, u16)>(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await.1
    }

    /// Asks the first of them.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        RedisServer::ask_at(self.sentinels[0].1, command).await
    }

    pub(crate) fn hosts(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        hosts.join(",")
    }

    pub(crate) fn address(&self) -> String {
        format!("redis+sentinel://{}/{NAME}", self.hosts())
    }

    /// Waits until they all name another primary than this; which.
    pub(crate) async fn another_primary(&self, than: u16) -> u16 {
        let mut named = than;
        eventually("another primary", async || {
            named = self.ask_for_primary().await;
            named != than
        })
        .await;
        named
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for (child, _) in &mut self.sentinels {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
