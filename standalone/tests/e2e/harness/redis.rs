use std::path::Path;

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{Process, eventually, free_port};

/// A `redis-server` of the test's own that keeps nothing on disk: stopped and started, it is empty.
#[derive(Debug)]
pub(crate) struct RedisServer {
    port: u16,
    directory: TempDir,
    process: Option<Process>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        // Somebody else may get the port before the server does.
        for _ in 0..5 {
            let mut server = Self { port: free_port(), directory: TempDir::new().unwrap(), process: None };
            if server.try_start().await {
                return server;
            }
        }
        panic!("no port stays free for redis-server");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.ends_well().await;
        }
    }

    pub(crate) async fn start_again(&mut self) {
        assert!(self.try_start().await, "redis-server ended");
    }

    /// False if it ended, as its port was taken.
    async fn try_start(&mut self) -> bool {
        let (port, directory) = (self.port.to_string(), self.directory.path().to_str().unwrap());
        let options = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory];
        let process = Process::start(Path::new("redis-server"), &options, &[]);
        let ended = || process.try_ended().is_some();
        eventually("redis-server answers", async || {
            ended() || self.command("PING").await.is_ok_and(|answer| answer.starts_with("+PONG"))
        })
        .await;
        let runs = !ended();
        self.process = runs.then_some(process);
        runs
    }

    /// From now on, also a user of this name and password.
    pub(crate) async fn knows(&self, user: &str, password: &str) {
        let answer = self.command(&format!("ACL SETUSER {user} on >{password} ~* &* +@all")).await.unwrap();
        assert!(answer.starts_with("+OK"), "{answer}");
    }

    /// Whether it has place for what is to be written: without, it refuses that.
    pub(crate) async fn has_place(&self, has: bool) {
        let answer = self.command(&format!("CONFIG SET maxmemory {}", u8::from(!has))).await.unwrap();
        assert!(answer.starts_with("+OK"), "{answer}");
    }

    /// Connections that subscribe.
    pub(crate) async fn subscribers(&self) -> usize {
        self.command("CLIENT LIST TYPE pubsub").await.unwrap().matches("id=").count()
    }

    /// Ends the connections that subscribe, as a network may. Returns how many there were.
    pub(crate) async fn kill_subscribers(&self) -> usize {
        let answer = self.command("CLIENT KILL TYPE pubsub").await.unwrap();
        answer.trim().strip_prefix(':').and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
    }

    /// How often a history was looked into.
    pub(crate) async fn histories_read(&self) -> u64 {
        let stats = self.command("INFO commandstats").await.unwrap();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xrange:calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// The process, for what may happen to one.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("a server that was not stopped")
    }

    async fn command(&self, command: &str) -> std::io::Result<String> {
        let mut stream = BufReader::new(TcpStream::connect(self.address()).await?);
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        let Some(length) = answer.strip_prefix('$').and_then(|length| length.trim().parse().ok()) else {
            return Ok(answer);
        };
        let mut bulk = vec![0; length];
        stream.read_exact(&mut bulk).await?;
        Ok(String::from_utf8(bulk).unwrap())
    }
}
