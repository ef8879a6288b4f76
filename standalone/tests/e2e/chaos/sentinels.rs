//! Two Redis servers, one the other's replica, and three Sentinels, which know the servers by the proxies before them.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::harness::{Process, Proxy, eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) proxy: Proxy,
    pub(super) process: Process,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) servers: Vec<Server>,
    pub(super) sentinels: Vec<(u16, Process)>,
    files: TempDir,
}

impl Store {
    pub(super) async fn start() -> Self {
        let files = TempDir::new().unwrap();
        let ports = [free_port(), free_port()];
        let proxies = ports.map(|port| Proxy::to(Some(([127, 0, 0, 1], port).into())));
        let primary = proxies[0].address.port();
        let servers = ports.into_iter().zip(proxies).enumerate().map(|(number, (port, proxy))| {
            let of = (number > 0).then_some(primary);
            let process = start(port, &proxy, of, &files);
            Server { port, proxy, process }
        });
        let servers: Vec<_> = servers.collect();
        for server in &servers {
            eventually("Redis", async || ask(server.port, "PING").await.contains("PONG")).await;
        }
        let mut store = Self { servers, sentinels: Vec::new(), files };
        store.replicates().await;
        for number in 0..3 {
            let port = free_port();
            let file = store.files.path().join(format!("sentinel-{number}.conf"));
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n"
            );
            std::fs::write(&file, settings).unwrap();
            let process = Process::start(Path::new("redis-server"), &[file.to_str().unwrap(), "--sentinel"], &[]);
            store.sentinels.push((port, process));
        }
        for (port, _) in &store.sentinels {
            eventually("the Sentinels know all", async || {
                let info = ask(*port, "INFO sentinel").await;
                info.contains("slaves=1,sentinels=3") && info.contains("status=ok")
            })
            .await;
        }
        store
    }

    pub(super) fn address(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    /// Waits until one follows the other, without a lag.
    pub(super) async fn replicates(&self) {
        eventually("replication", async || {
            let mut well = 0;
            for server in &self.servers {
                let info = ask(server.port, "INFO replication").await;
                well += usize::from(info.contains("role:slave") && info.contains("master_link_status:up"));
            }
            well == 1
        })
        .await;
    }

    /// Which server the replication leads from.
    pub(super) async fn primary(&self) -> usize {
        usize::from(!ask(self.servers[0].port, "INFO replication").await.contains("role:master"))
    }

    /// The replica hears nothing more, the primary goes on for so long and dies; the replica is promoted, and the other
    /// comes back as its replica.
    pub(super) async fn promote_a_lagging_replica(&mut self, lag: Duration) {
        let old = self.primary().await;
        let new = 1 - old;
        self.servers[old].proxy.lag();
        sleep(lag).await;
        self.servers[old].process.kill();
        self.servers[old].process.ended().await;
        let port = self.servers[new].port;
        eventually("a promotion", async || ask(port, "INFO replication").await.contains("role:master")).await;
        self.servers[old].proxy.heal();
        let of = self.servers[new].proxy.address.port();
        let server = &mut self.servers[old];
        server.process = start(server.port, &server.proxy, Some(of), &self.files);
        self.replicates().await;
    }

    /// The replica dies and comes back.
    pub(super) async fn restart_the_replica(&mut self) {
        let primary = self.primary().await;
        let of = self.servers[primary].proxy.address.port();
        let server = &mut self.servers[1 - primary];
        server.process.kill();
        server.process.ended().await;
        server.process = start(server.port, &server.proxy, Some(of), &self.files);
        self.replicates().await;
    }
}

fn start(port: u16, proxy: &Proxy, of: Option<u16>, files: &TempDir) -> Process {
    let (port, announced) = (port.to_string(), proxy.address.port().to_string());
    let mut options = vec!["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    options.extend(["--dir", files.path().to_str().unwrap(), "--dbfilename", &announced]);
    options.extend(["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &announced]);
    options.extend(["--repl-backlog-ttl", "0", "--repl-diskless-sync-delay", "0"]);
    let of = of.map(|of| of.to_string());
    if let Some(of) = &of {
        options.extend(["--replicaof", "127.0.0.1", of]);
    }
    Process::start(Path::new("redis-server"), &options, &[])
}

/// Adds every replication ID that any of these servers has as a primary, as long as it runs.
pub(super) async fn watch_ids(ports: Vec<u16>, ids: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        for port in &ports {
            let info = ask(*port, "INFO replication").await;
            let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
            if let Some(id) = id.filter(|_| info.contains("role:master")) {
                ids.lock().unwrap().insert(id.to_owned());
            }
        }
        sleep(LOOK).await;
    }
}

/// What it answers; nothing if it does not.
async fn ask(port: u16, command: &str) -> String {
    let asking = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        if let Some(length) = answer.strip_prefix('$').and_then(|length| length.trim().parse().ok()) {
            let mut bulk = vec![0; length];
            stream.read_exact(&mut bulk).await?;
            answer = String::from_utf8_lossy(&bulk).into_owned();
        }
        std::io::Result::Ok(answer)
    };
    timeout(PATIENCE, asking).await.ok().and_then(Result::ok).unwrap_or_default()
}
