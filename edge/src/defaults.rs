//! Limits that are no settings, each with its unit and reason.

use std::time::Duration;

use queues::Limits;

/// How often a client should send `ping`, told in `welcome`: below the idle time-outs of common proxies (nginx: 60 s).
pub(crate) const CLIENT_PING: Duration = Duration::from_secs(25);

/// Sockets open at a time only to say why they are refused; beyond it, browsers are refused like others.
pub(crate) const MAX_FAREWELLS: usize = 256;

/// How long such a socket waits for the other side to close.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// Sockets of the conformance echo open at a time: with what each may hold, about 1 GiB.
pub(crate) const MAX_ECHOES: usize = 16;

/// Largest message that the echo takes: that of the largest published conformance case.
pub(crate) const ECHO_MESSAGE_BYTES: usize = 16 << 20;

/// What waits for a client of the echo. It is not read from while an eighth of it does, so that this is never reached.
pub(crate) const ECHO_OUTBOX: Limits = Limits { frames: 1024, bytes: 64 << 20 };

/// What tungstenite reads at a time, and keeps for each connection: most messages of clients are smaller, and 100,000
/// connections cost 100 MiB.
pub(crate) const READ_BUFFER_BYTES: usize = 1024;

/// What is read from one connection in a turn, then others are: some 700 of the smallest frames or 75 small messages, an
/// eighth of a millisecond. What is on its way to others waits for the turns of all who always have more, at each step.
pub(crate) const READ_TURN_BYTES: usize = 4 << 10;

/// Descriptors kept free of sockets: listeners, links, Redis, logs, the ops listener's connections.
pub(crate) const RESERVED_FILES: u64 = 512;

/// Frames written in one system call; a queue seldom holds more, and the kernel takes at most 1024 (`IOV_MAX`).
pub(crate) const MAX_WRITE_FRAMES: usize = 64;

/// Delays between attempts to make a link.
pub(crate) const LINK_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A link's beats, and how long it may be silent.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// How often a `dns://` name is looked up, before jitter.
pub(crate) const DNS_INTERVAL: Duration = Duration::from_secs(5);

/// Broadcasts that wait to be sent on one link.
pub(crate) const LINK_QUEUE: usize = 1024;

/// Broadcasts sent on one link whose receipts are awaited.
pub(crate) const LINK_INFLIGHT: usize = 4096;

/// Pages of history asked for on one link and not yet answered: what a node answers at a time.
pub(crate) const LINK_READS: usize = 16;

/// Rooms in one interest message: about 100 KiB with the longest names.
pub(crate) const INTEREST_CHUNK: usize = 512;

/// How often each link is told how many connections, rooms and members there are, and which rooms are largest.
pub(crate) const STATS_INTERVAL: Duration = Duration::from_secs(5);
pub(crate) const STATS_TOP: usize = 100;
