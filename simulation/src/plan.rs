//! What a seed decides: how large everything is, how slow, and what goes wrong.

use std::time::Duration;

use fanout::broker::Keep;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

/// How bad the day is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing goes wrong: nobody may lose anything, or be called slow.
    Calm,
    /// Nodes and edges come and go as planned, with more published meanwhile than histories hold: nobody may lose anything.
    Planned,
    /// Links and nodes fail, the store does not.
    Links,
    /// Everything fails, the store too.
    Storm,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kind: Kind,
    pub edges: usize,
    pub nodes: usize,
    pub rooms: usize,
    pub clients: usize,
    pub publishers: usize,
    /// Shards of each hub, and of each dispatcher.
    pub shards: usize,
    pub shrink: usize,
    pub shake: u32,
    pub keep: Keep,
    /// Between two publications of one publisher, on average.
    pub pace: Duration,
    /// Longest bodies.
    pub body: usize,
    /// How long things go wrong.
    pub trouble: Duration,
    /// Between two faults, on average.
    pub fault_every: Duration,
    /// One in so many announcements is dropped, doubled or late; 0: none.
    pub announcements: u32,
    /// One in so many answers of the store is an error; 0: none.
    pub errors: u32,
    /// A receipt is an announcement for the node that got it.
    pub say_receipts: bool,
    /// Longest way to the store, from it to its subscribers, and over a link.
    pub store_latency: Duration,
    pub hear_latency: Duration,
    /// How long it takes until the store announces a room, at least.
    pub subscribe_latency: Duration,
    pub link_latency: Duration,
    pub tail_bytes: usize,
    pub send_queue: usize,
    pub sweep: Duration,
    pub linger: Duration,
    pub publish_timeout: Duration,
    /// Something is published once all is well again.
    pub last_words: bool,
}

fn pick<T: Copy, const N: usize>(rng: &mut SmallRng, from: &[T; N]) -> T {
    const { assert!(N > 0) };
    *from.choose(rng).unwrap_or(&from[0])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x0070_6c61_6e00);
        let kind = match rng.random_range(0..20) {
            0 => Kind::Calm,
            1..=4 => Kind::Planned,
            5..=10 => Kind::Links,
            _ => Kind::Storm,
        };
        Self::of_kind(kind, &mut rng)
    }

    /// A day without trouble.
    pub fn calm() -> Self {
        Self::of_kind(Kind::Calm, &mut SmallRng::seed_from_u64(0))
    }

    fn of_kind(kind: Kind, rng: &mut SmallRng) -> Self {
        let bad = matches!(kind, Kind::Links | Kind::Storm);
        let history_size = match kind {
            Kind::Calm => 1000,
            Kind::Planned => 45,
            _ => pick(rng, &[4, 10, 30, 200, 1000]),
        };
        let keep = Keep {
            history_size,
            history_ttl: if bad && rng.random_ratio(1, 10) { ms(1500) } else { Duration::from_mins(5) },
            dedup_window: Duration::from_mins(5),
        };
        let store_latency = match kind {
            Kind::Planned => ms(400),
            _ => ms(pick(rng, &[1, 5, 5, 100])),
        };
        // Without faults that nobody is told of there is no need of it.
        let sweeps = kind == Kind::Planned || kind == Kind::Calm || !rng.random_ratio(1, 4);
        Self {
            kind,
            edges: if kind == Kind::Planned { rng.random_range(1..=2) } else { rng.random_range(1..=3) },
            nodes: if kind == Kind::Planned { rng.random_range(2..=3) } else { rng.random_range(1..=3) },
            rooms: if kind == Kind::Planned { 1 } else { rng.random_range(1..=4) },
            clients: rng.random_range(2..=6),
            publishers: if kind == Kind::Planned { 12 } else { rng.random_range(1..=3) },
            shards: rng.random_range(1..=2),
            shrink: if bad { pick(rng, &[1, 16, 64, 256, 1024]) } else { 1 },
            shake: if bad { pick(rng, &[0, 8, 30]) } else { 0 },
            keep,
            pace: match kind {
                Kind::Planned => ms(rng.random_range(12..20)),
                _ => ms(pick(rng, &[10, 40, 150, 600])),
            },
            body: pick(rng, &[4, 40, 40, 600]),
            trouble: ms(rng.random_range(4_000..12_000)),
            fault_every: ms(if kind == Kind::Planned { 2500 } else { pick(rng, &[300, 1000, 3000]) }),
            announcements: if bad && sweeps { pick(rng, &[0, 5, 30]) } else { 0 },
            errors: if bad { pick(rng, &[0, 10, 60]) } else { 0 },
            say_receipts: kind != Kind::Planned && rng.random(),
            store_latency,
            // Slow enough for more to be published meanwhile than histories hold. With a look at the position and a page, it is
            // within the 2 s that a node which drains waits for a room.
            subscribe_latency: if kind == Kind::Planned { ms(1000) } else { Duration::ZERO },
            hear_latency: if kind == Kind::Planned { ms(50) } else { store_latency / 2 },
            link_latency: ms(if bad { pick(rng, &[1, 5, 100]) } else { 5 }),
            tail_bytes: pick(rng, &[0, 2_000, 1 << 20]),
            send_queue: if bad { pick(rng, &[8, 32, 256]) } else { 256 },
            sweep: if sweeps { ms(rng.random_range(1_000..4_000)) } else { Duration::from_mins(10) },
            linger: ms(pick(rng, &[100, 1_000, 5_000])),
            last_words: rng.random(),
            publish_timeout: ms(pick(rng, &[1_500, 5_000])),
        }
    }

    /// How long everything may take to be well again: backoffs, settling, a sweep of every room, and then some.
    pub fn settling(&self) -> Duration {
        Duration::from_secs(20) + self.sweep.min(Duration::from_secs(4)) * 3
    }
}
