//! A Redis of the test's own, on a free port, without files; it ends with the test.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use redis::{AsyncConnectionConfig, FromRedisValue, aio::MultiplexedConnection};
use tempfile::TempDir;

use crate::support::{PATIENCE, eventually, soon};

/// For a port that was taken before the server had it.
pub(crate) const TRIES: usize = 5;

pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    options: Vec<String>,
    /// Replicas keep what they got from their primary in a file.
    _files: TempDir,
    /// What ends with it.
    pub(crate) company: Vec<Box<dyn Send + Sync>>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(options: &[&str]) -> Self {
        for _ in 0..TRIES {
            if let Some(server) = Self::try_start(options).await {
                return server;
            }
        }
        panic!("redis-server ends at once with {options:?}");
    }

    /// `None`: it ended, as when its port was taken meanwhile.
    pub(crate) async fn try_start(options: &[&str]) -> Option<Self> {
        let port = free_port();
        let files = tempfile::tempdir().unwrap();
        let own = ["--dir", files.path().to_str().unwrap()];
        let options: Vec<_> = own.iter().chain(options).map(|option| (*option).to_owned()).collect();
        let child = spawn(port, &options);
        let mut server = Self { child, port, options, _files: files, company: Vec::new() };
        server.ready().await.then_some(server)
    }

    /// A replica of the server that listens there, once it has what that one has.
    pub(crate) async fn start_replica(of: u16) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &of.to_string()]).await;
        eventually("the replica", async || {
            replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        replica
    }

    /// Kills it without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port, empty.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(self.port, &self.options);
        assert!(self.ready().await, "redis-server ended");
    }

    /// Stops or continues the process: a peer that is there but silent.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it answers; false if it ended instead.
    async fn ready(&mut self) -> bool {
        let port = self.port;
        soon("redis-server", async {
            loop {
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                if connect(port).await.is_some() {
                    return true;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Asks it something, over a connection for the purpose.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        Self::ask_at(self.port, command).await
    }

    pub(crate) async fn ask_at<T: FromRedisValue>(port: u16, command: &[&str]) -> T {
        let mut connection = connect(port).await.unwrap();
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
    }

    /// Whether anything that speaks Redis' protocol is there.
    pub(crate) async fn answers(port: u16) -> bool {
        connect(port).await.is_some()
    }

    /// Connections with subscriptions.
    pub(crate) async fn subscribers(&self) -> usize {
        self.ask::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.lines().count()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, options: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command
        .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need redis-server (apt-get install redis-server): {error}"))
}

async fn connect(port: u16) -> Option<MultiplexedConnection> {
    let client = redis::Client::open(("127.0.0.1", port)).unwrap();
    // The machine may be busy, and some of what is asked takes a while.
    let config =
        AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE)).set_connection_timeout(Some(PATIENCE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.ok()?;
    redis::cmd("PING").query_async::<String>(&mut connection).await.ok()?;
    Some(connection)
}
