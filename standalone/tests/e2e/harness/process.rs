use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::{CHECK, PATIENCE, eventually};

/// A child process and all that it printed. Ends with its value.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Mutex<Child>,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Process {
    /// Starts a program with this environment and no other but the way to find programs.
    pub(crate) fn start(program: &Path, args: &[&str], environment: &[(String, String)]) -> Self {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        command.env("PATH", path());
        Self::spawn(command)
    }

    /// Starts a command, with all that it starts in turn in a group of their own, which ends as one.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        let output = Arc::new(Output::default());
        output.read(child.stdout.take().unwrap());
        output.read(child.stderr.take().unwrap());
        Self { name, child: Mutex::new(child), output }
    }

    /// Everything printed up to now.
    pub(crate) fn output(&self) -> String {
        self.output.lines.lock().unwrap().join("\n")
    }

    /// Looks for a line, the last ones first.
    pub(crate) fn find<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.output.lines.lock().unwrap().iter().rev().find_map(|line| find(line))
    }

    /// The first line of which `find` makes something.
    pub(crate) fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.wait_longer_for(PATIENCE, what, find)
    }

    pub(crate) fn wait_longer_for<T>(&self, limit: Duration, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut lines = self.output.lines.lock().unwrap();
        loop {
            if let Some(found) = lines.iter().find_map(|line| find(line)) {
                return found;
            }
            let (more, waited) = self.output.more.wait_timeout(lines, limit).unwrap();
            lines = more;
            assert!(!waited.timed_out(), "{} never printed {what}:\n{}", self.name, lines.join("\n"));
        }
    }

    /// The fields of the log line that tells where it listens.
    pub(crate) fn listening(&self) -> Value {
        self.wait_for("where it listens", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then_some(line)
        })
    }

    /// Types a line into it.
    pub(crate) fn type_line(&self, line: &str) {
        writeln!(self.child.lock().unwrap().stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Dies at once, without a word to anybody.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Stands still until [`Self::resume`]; its sockets stay open, and the kernel goes on taking what is sent to it.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Bytes in physical memory.
    pub(crate) fn memory(&self) -> u64 {
        let pid = Pid::from_child(&self.child.lock().unwrap());
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: u64| kib * 1024).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child.lock().unwrap());
        kill_process_group(pid, signal).unwrap();
    }

    /// Its status, once it has ended, which must be soon.
    pub(crate) async fn ended(&self) -> ExitStatus {
        eventually(&format!("the end of {}", self.name), async || self.try_ended().is_some()).await;
        self.try_ended().unwrap()
    }

    /// Ended by itself within this time, with success.
    pub(crate) async fn ends_within(&self, limit: Duration) {
        let status = self.ended_within(limit).await;
        assert!(status.success(), "{}: {status}\n{}", self.name, self.output());
    }

    /// Its status, once it has ended by itself within this time.
    pub(crate) async fn ended_within(&self, limit: Duration) -> ExitStatus {
        let ended = async {
            loop {
                match self.try_ended() {
                    Some(status) => return status,
                    None => tokio::time::sleep(CHECK).await,
                }
            }
        };
        tokio::time::timeout(limit, ended).await.unwrap_or_else(|_| panic!("{} runs on", self.name))
    }

    pub(crate) fn try_ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().unwrap()
    }

    /// Ended by SIGTERM, with success.
    pub(crate) async fn ends_well(&self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{}: {status}\n{}", self.name, self.output());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        // Fails only when all have ended already.
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        let _ = child.wait();
        if thread::panicking() {
            // What it said last is what a failing test is judged by; libtest shows it.
            let lines = self.output.lines.lock().unwrap();
            let tail = lines.len().saturating_sub(40);
            println!("--- {}: the last of {} lines\n{}", self.name, lines.len(), lines[tail..].join("\n"));
        }
    }
}

impl Output {
    fn read(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                output.lines.lock().unwrap().push(line);
                output.more.notify_all();
            }
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "children need it to find their own")]
fn path() -> String {
    std::env::var("PATH").unwrap()
}

/// A port that was free a moment ago, for what cannot be told to choose one.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs a command to its end, which must be success, and returns what it printed on standard output.
pub(crate) fn run(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}
