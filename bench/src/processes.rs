//! The servers that are measured, as processes of their own on a core of their own.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::cpu::{self, GENERATOR, SERVERS};

/// Signs the tokens of the load.
pub(crate) const JWT_SECRET: &str = "the secret of the benchmarks, 32 bytes and more";

/// A process that ends with its value.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    child: Child,
    /// What it said of where it listens.
    pub(crate) at: Value,
}

impl Server {
    pub(crate) fn start(name: &'static str, settings: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut command = pinned(&beside_us(name)?, SERVERS);
        command.env_clear().envs(settings.iter().map(|(name, value)| (name, value))).env("LOG_FORMAT", "json");
        Self::spawn(name, command)
    }

    /// This program as the floor of this kind.
    pub(crate) fn floor(kind: &str, arguments: &[String]) -> anyhow::Result<Self> {
        let mut command = pinned(&std::env::current_exe()?, SERVERS);
        command.arg(kind).args(arguments);
        Self::spawn("floor", command)
    }

    fn spawn(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("start {name}"))?;
        let log = child.stderr.take().context("its log")?;
        let mut lines = BufReader::new(log).lines();
        for line in lines.by_ref() {
            let line: Value = serde_json::from_str(&line?).unwrap_or_default();
            if line["message"] == "listening" {
                // Read on, so that it is never held up by its log.
                thread::spawn(move || lines.map_while(Result::ok).for_each(|line| warn(&line)));
                return Ok(Self { name, child, at: line });
            }
        }
        bail!("{name} ended before it listened: {}", child.wait()?)
    }

    pub(crate) fn address(&self, of: &str) -> anyhow::Result<SocketAddr> {
        self.at[of].as_str().with_context(|| format!("no address of {of}"))?.parse().context("an address")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu::time_of(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whatever a server complains about may spoil a figure.
fn warn(line: &str) {
    if ["WARN", "ERROR", "Error", "panicked"].iter().any(|word| line.contains(word)) {
        eprintln!("{line}");
    }
}

/// A Redis that keeps nothing on disk.
pub(crate) fn redis(directory: &TempDir, core: usize) -> anyhow::Result<(Server, SocketAddr)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = pinned(Path::new("redis-server"), core);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(directory.path()).stdout(Stdio::null());
    let child = command.spawn().context("start redis-server")?;
    let server = Server { name: "redis", child, at: Value::Null };
    for _ in 0..500 {
        if TcpStream::connect(address).is_ok() {
            return Ok((server, address));
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("redis-server does not answer")
}

/// A fanout node and an edge, with or without Redis.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Each needs only those before it.
    pub(crate) servers: Vec<Server>,
    pub(crate) edges: Vec<SocketAddr>,
    /// The edges' ops listeners.
    pub(crate) ops: Vec<SocketAddr>,
    /// The fanout node's.
    pub(crate) fanout_ops: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) link: SocketAddr,
    _directory: TempDir,
}

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) edges: usize,
    pub(crate) redis: bool,
    /// It runs on the generator's core rather than the servers'.
    pub(crate) redis_apart: bool,
}

impl Cluster {
    pub(crate) fn start(shape: Shape) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let mut servers = Vec::new();
        let any = |name| (name, "127.0.0.1:0".to_owned());
        let mut settings = vec![any("LINK_LISTEN"), any("API_LISTEN"), any("OPS_LISTEN")];
        if shape.redis {
            let (server, address) = redis(&directory, if shape.redis_apart { GENERATOR } else { SERVERS })?;
            settings.push(("REDIS_ADDR", address.to_string()));
            servers.push(server);
        }
        let fanout = Server::start("fanout", &settings)?;
        let (link, api) = (fanout.address("link")?, fanout.address("api")?);
        let fanout_ops = fanout.address("ops")?;
        wait_until_ready(fanout_ops)?;
        servers.push(fanout);
        let (mut edges, mut ops) = (Vec::new(), Vec::new());
        for _ in 0..shape.edges {
            let settings = [
                any("LISTEN"),
                any("OPS_LISTEN"),
                ("FANOUT_ADDR", format!("http://{link}")),
                ("JWT_SECRET", JWT_SECRET.to_owned()),
            ];
            let edge = Server::start("edge", &settings)?;
            ops.push(edge.address("ops")?);
            wait_until_ready(edge.address("ops")?)?;
            edges.push(edge.address("ws")?);
            servers.push(edge);
        }
        Ok(Self { servers, edges, ops, fanout_ops, api, link, _directory: directory })
    }

    /// CPU time of each process so far, by name; those of one name together.
    pub(crate) fn cpu(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        let mut times: Vec<(&'static str, Duration)> = Vec::new();
        for server in &self.servers {
            match times.iter_mut().find(|(name, _)| *name == server.name) {
                Some((_, time)) => *time += server.cpu()?,
                None => times.push((server.name, server.cpu()?)),
            }
        }
        Ok(times)
    }
}

impl Drop for Cluster {
    /// Nobody is left to complain that others are gone.
    fn drop(&mut self) {
        while self.servers.pop().is_some() {}
    }
}

fn wait_until_ready(ops: SocketAddr) -> anyhow::Result<()> {
    use std::io::{Read as _, Write as _};
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(ops)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("a server did not get ready")
}

/// Runs on one core, so that wake-ups and caches of the other are the generator's.
fn pinned(program: &Path, core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A binary of the workspace, built with the same profile as this one.
pub(crate) fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let us = std::env::current_exe()?;
    let program = us.with_file_name(name);
    if !program.exists() {
        bail!("{} is not built: use `make bench`", program.display());
    }
    Ok(program)
}
