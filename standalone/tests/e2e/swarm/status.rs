use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

/// What a client tells of itself while it runs.
#[derive(Debug)]
pub(crate) struct Status {
    edge: Mutex<Option<SocketAddr>>,
    connections: AtomicU32,
    seats: Vec<Seat>,
}

/// A room that it wants to be in.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) room: usize,
    seq: AtomicU64,
    joined: AtomicBool,
}

impl Status {
    pub(super) fn new(rooms: impl Iterator<Item = usize>) -> Self {
        let seat = |room| Seat { room, seq: AtomicU64::new(0), joined: AtomicBool::new(false) };
        Self { edge: Mutex::new(None), connections: AtomicU32::new(0), seats: rooms.map(seat).collect() }
    }

    pub(super) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub(super) fn connected(&self, edge: SocketAddr) {
        *self.edge.lock().unwrap() = Some(edge);
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn disconnected(&self) {
        *self.edge.lock().unwrap() = None;
        for seat in &self.seats {
            seat.joined.store(false, Ordering::Relaxed);
        }
    }

    /// Where it is connected now.
    pub(crate) fn edge(&self) -> Option<SocketAddr> {
        *self.edge.lock().unwrap()
    }

    /// How often it has connected.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.seats.iter().map(|seat| seat.seq.load(Ordering::Relaxed)).sum()
    }

    /// Whether it is in all its rooms, and has all up to there.
    pub(super) fn has(&self, lasts: &[u64]) -> bool {
        self.seats.iter().all(|seat| seat.has(lasts))
    }

    /// Where it is late.
    pub(super) fn tell(&self, lasts: &[u64]) -> String {
        let late = self.seats.iter().filter(|seat| !seat.has(lasts)).map(|seat| {
            let (seq, joined) = (seat.seq.load(Ordering::Relaxed), seat.joined.load(Ordering::Relaxed));
            format!("room {}: {seq} of {}, joined: {joined}", seat.room, lasts[seat.room])
        });
        format!("on {:?}, {}", self.edge(), late.collect::<Vec<_>>().join("; "))
    }
}

impl Seat {
    pub(super) fn joined(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    pub(super) fn reached(&self, seq: u64) {
        self.seq.store(seq, Ordering::Relaxed);
    }

    fn has(&self, lasts: &[u64]) -> bool {
        self.joined.load(Ordering::Relaxed) && self.seq.load(Ordering::Relaxed) >= lasts[self.room]
    }
}
