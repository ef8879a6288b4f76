use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use service::accept;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

const BUFFER: usize = 16 * 1024;

/// By which a replica asks for what its primary writes.
const PSYNC: &[u8] = b"PSYNC";

/// A TCP proxy that can become a black hole: what is sent through it is taken and never arrives, and nothing closes. It
/// also delays, cuts and half closes. Ends with its value.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    swallows: watch::Sender<Swallows>,
    _tasks: JoinSet<()>,
}

/// Which ways are black holes.
#[derive(Debug, Clone, Copy, Default)]
struct Swallows {
    there: bool,
    back: bool,
    /// What a Redis sends to its replicas, and to nobody else.
    replication: bool,
    /// What every piece waits before it goes on.
    delay: Duration,
    /// How often all connections were cut, and how often half closed.
    cuts: u32,
    halves: u32,
}

impl Proxy {
    /// `None`: connections end at once, as if nobody listened, until there is a target.
    pub(crate) fn to(target: Option<SocketAddr>) -> Self {
        let listener = accept::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let swallows = watch::Sender::new(Swallows::default());
        let mut tasks = JoinSet::new();
        let (to, seen) = (target.clone(), swallows.subscribe());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let target = *to.lock().unwrap();
                let Some(target) = target else { continue };
                connections.spawn(carry(client, target, seen.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, target, swallows, _tasks: tasks }
    }

    /// Where connections go from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }

    /// Swallows what either side sends.
    pub(crate) fn swallow(&self) {
        self.swallows.send_modify(|now| (now.there, now.back) = (true, true));
    }

    /// Swallows what the target sends; what is sent to it arrives.
    pub(crate) fn swallow_answers(&self) {
        self.swallows.send_modify(|now| (now.there, now.back) = (false, true));
    }

    /// Swallows what is sent to the target; what it sends arrives.
    pub(crate) fn swallow_requests(&self) {
        self.swallows.send_modify(|now| (now.there, now.back) = (true, false));
    }

    /// Carries new connections again. Those that lost something stay as they are: no byte may be missing within one.
    pub(crate) fn heal(&self) {
        self.swallows.send_modify(|now| *now = Swallows { cuts: now.cuts, halves: now.halves, ..Swallows::default() });
    }

    /// Swallows what is sent to replicas, which go on as if there were nothing new.
    pub(crate) fn lag(&self) {
        self.swallows.send_modify(|now| now.replication = true);
    }

    /// Has every piece wait so long before it goes on, until healed.
    pub(crate) fn delay(&self, delay: Duration) {
        self.swallows.send_modify(|now| now.delay = delay);
    }

    /// Ends what is sent to the target on all connections there are now; the other way stays, and nobody tells the client.
    pub(crate) fn half_close(&self) {
        self.swallows.send_modify(|now| now.halves += 1);
    }

    /// Ends all connections there are now.
    pub(crate) fn cut(&self) {
        self.swallows.send_modify(|now| now.cuts += 1);
    }
}

async fn carry(client: TcpStream, target: SocketAddr, swallows: watch::Receiver<Swallows>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Beats are small and must not wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let replicates = AtomicBool::new(false);
    let Swallows { cuts, halves, .. } = *swallows.borrow();
    let mut cut = swallows.clone();
    let there = one_way(
        from_client,
        to_server,
        swallows.clone(),
        |swallows| swallows.there || swallows.halves != halves,
        |swallows| swallows.halves != halves,
        |bytes| {
            if bytes.windows(PSYNC.len()).any(|window| window == PSYNC) {
                replicates.store(true, Ordering::Relaxed);
            }
        },
    );
    let back = one_way(
        from_server,
        to_client,
        swallows,
        |swallows| swallows.back || swallows.replication && replicates.load(Ordering::Relaxed),
        |_| false,
        |_| {},
    );
    // Whichever side ends it, both halves go. A way that swallows tells nobody that it ended.
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = cut.wait_for(|now| now.cuts != cuts) => {}
    }
}

/// Ends when its source does; not at all once something was swallowed. `ends`: the target is told that there is no more.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut swallows: watch::Receiver<Swallows>,
    swallowed: impl Fn(Swallows) -> bool,
    ends: impl Fn(Swallows) -> bool,
    look: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            _ = swallows.wait_for(|now| swallowed(*now)) => break,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(length) if length > 0 => {
                look(&buffer[..length]);
                let delay = swallows.borrow().delay;
                // Not even a yield, else.
                if delay > Duration::ZERO {
                    sleep(delay).await;
                }
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
    if ends(*swallows.borrow()) {
        let _ = to.shutdown().await;
    }
    while matches!(from.read(&mut buffer).await, Ok(length) if length > 0) {}
    // Holds its half open, so that the other side learns nothing.
    std::future::pending::<()>().await;
}
