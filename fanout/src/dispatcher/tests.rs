//! Shards on the memory broker, with edges that read when they like.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use proptest::prelude::*;
use proto::wire::fanout_message::Kind;
use service::Clock;
use tokio::time::timeout;

use super::*;
use crate::{
    attachments::{Attachments, Guard, Message},
    broker::{Keep, NewPublication, PageLimit, ReadFrom, memory::Memory},
};

/// So large that a few fill a room's share of a link's queue.
const BODY: usize = 700 << 10;

fn name(room: usize) -> Room {
    Room::try_new(&format!("room-{room}")).unwrap()
}

/// A dispatcher with its broker.
struct World {
    lifecycle: Lifecycle,
    end: CancellationToken,
    dispatcher: Dispatcher,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    attachments: Attachments,
}

impl World {
    fn new(history_size: u64) -> Self {
        let (lifecycle, end, metrics) = (Lifecycle::new(), CancellationToken::new(), Arc::new(Metrics::default()));
        let (dispatcher, shards) = Dispatcher::new(&metrics);
        let minute = Duration::from_mins(1);
        let keep = Keep { history_size, history_ttl: minute, dedup_window: minute };
        let broker: Arc<dyn Broker> = Arc::new(Memory::new(keep, Clock::system(), Arc::new(dispatcher.clone())));
        let (clock, traces) = (Clock::system(), Traces::default());
        let instruments = Instruments { clock, metrics: Arc::clone(&metrics), traces: traces.clone() };
        shards.spawn(&broker, Duration::from_secs(15), &instruments, &lifecycle, &end);
        let attachments = Attachments::new(dispatcher.clone(), Arc::clone(&metrics), traces);
        Self { lifecycle, end, dispatcher, broker, metrics, attachments }
    }

    /// Unless the publisher is held back.
    fn publish(&self, room: usize, body: &Bytes) -> Option<Position> {
        let publication = NewPublication {
            room: name(room),
            sender: "7".into(),
            key: None,
            key_ttl: None,
            unless: Vec::new(),
            entry: body.clone(),
            deadline: Instant::now(),
            part: None,
        };
        let pending = self.broker.publish(publication).ok()?;
        Some(pending.now_or_never().unwrap().unwrap().position)
    }

    async fn position(&self, room: usize) -> Position {
        let limit = PageLimit { items: 1, bytes: 0 };
        self.broker.read(name(room), ReadFrom::Last(0), limit).await.unwrap().position
    }

    async fn finish(self) {
        self.end.cancel();
        assert!(self.lifecycle.finish(Duration::from_secs(1)).await);
    }
}

/// An edge, and what it knows.
struct Edge {
    guard: Guard,
    /// Where it is in each room it was told the state of.
    at: HashMap<String, Position>,
    wanted: HashSet<usize>,
    lost: usize,
}

impl Edge {
    fn new(world: &World) -> Self {
        Self { guard: world.attachments.attach(), at: HashMap::new(), wanted: HashSet::new(), lost: 0 }
    }

    async fn wish(&mut self, world: &World, room: usize, wanted: bool, position: Option<Position>) {
        if wanted {
            self.wanted.insert(room)
        } else {
            self.wanted.remove(&room)
        };
        let wish = Wish { room: name(room), wanted, position };
        world.dispatcher.interest(&self.guard.attachment, vec![wish]).await;
    }

    /// Reads one batch; false if none came.
    async fn read(&mut self, world: &World) -> bool {
        let mut batch = VecDeque::new();
        let pop = self.guard.attachment.queue.pop(&mut batch);
        let Ok(Ok(wake)) = timeout(Duration::from_millis(1), pop).await else { return false };
        world.dispatcher.wake(self.guard.attachment.id, wake);
        for message in batch {
            self.see(message);
        }
        true
    }

    fn see(&mut self, message: Message) {
        match message {
            Message::Publications(room, run) => {
                let at = self.at.get_mut(room.as_str()).expect("a state comes first");
                let first_ever = *at == Position::default();
                assert!(run.epoch == at.epoch || first_ever, "a new epoch without a loss");
                assert_eq!(run.first_seq, at.seq + 1, "{room}: consecutive");
                *at = Position { epoch: run.epoch.clone(), seq: run.last_seq() };
            }
            Message::Control(control) => match control.kind {
                Kind::State(state) => {
                    self.at.insert(state.room, state.position.unwrap().into());
                }
                Kind::Lost(lost) => {
                    let to: Position = lost.position.unwrap().into();
                    let at = self.at.get_mut(&lost.room).expect("a state comes first");
                    assert!(to.epoch != at.epoch || to.seq > at.seq, "{at} lost to {to}");
                    *at = to;
                    self.lost += 1;
                }
                other => panic!("{other:?}"),
            },
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    Want { edge: usize, room: usize, back: Option<u64> },
    Unwant { edge: usize, room: usize },
    Read(usize),
    Replace(usize),
    Yield,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize).prop_map(Step::Publish),
        3 => (0..3usize, 0..3usize, prop::option::of(0..20u64))
            .prop_map(|(edge, room, back)| Step::Want { edge, room, back }),
        1 => (0..3usize, 0..3usize).prop_map(|(edge, room)| Step::Unwant { edge, room }),
        4 => (0..3usize).prop_map(Step::Read),
        1 => (0..3usize).prop_map(Step::Replace),
        3 => Just(Step::Yield),
    ]
}

async fn run(steps: Vec<Step>) {
    let world = World::new(12);
    let mut edges: Vec<Edge> = (0..3).map(|_| Edge::new(&world)).collect();
    let body = Bytes::from(vec![b'x'; BODY]);
    for step in steps {
        match step {
            Step::Publish(room) => {
                let _held_back = world.publish(room, &body);
            }
            Step::Want { edge, room, back } => {
                let at = world.position(room).await;
                let position = back.map(|back| Position { seq: at.seq.saturating_sub(back), ..at });
                edges[edge].wish(&world, room, true, position).await;
            }
            Step::Unwant { edge, room } => edges[edge].wish(&world, room, false, None).await,
            Step::Read(edge) => {
                edges[edge].read(&world).await;
            }
            Step::Replace(edge) => edges[edge] = Edge::new(&world),
            Step::Yield => {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    // In the end everyone reads all there is, and is where the store is.
    let mut quiet = 0;
    while quiet < 3 {
        let mut any = false;
        for edge in &mut edges {
            while edge.read(&world).await {
                any = true;
            }
        }
        quiet = if any { 0 } else { quiet + 1 };
    }
    for edge in &edges {
        for room in &edge.wanted {
            assert_eq!(edge.at.get(name(*room).as_str()), Some(&world.position(*room).await), "{}", name(*room));
        }
        assert_eq!(edge.guard.attachment.rooms(), edge.wanted.len() as u64);
    }
    drop(edges);
    assert!(world.attachments.is_empty());
    world.finish().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// However slowly edges read, whatever they want again and again, and whoever goes: what each is handed is
    /// consecutive from the state it was told, and complete in the end.
    #[test]
    fn every_edge_gets_everything_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unwanted_room_stays_subscribed_for_a_while() {
    let world = World::new(12);
    let mut edge = Edge::new(&world);
    edge.wish(&world, 0, true, None).await;
    assert!(edge.read(&world).await);
    assert_eq!(world.metrics.rooms.get(), 1);
    edge.wish(&world, 0, false, None).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    edge.wish(&world, 0, true, None).await;
    assert!(edge.read(&world).await);
    edge.wish(&world, 0, false, None).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(world.metrics.rooms.get(), 1, "ten seconds from the last one that left");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.metrics.rooms.get(), 0);
    drop(edge);
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_shard_could_not_take_is_read_again() {
    let world = World::new(100_000);
    let mut edge = Edge::new(&world);
    edge.wish(&world, 0, true, None).await;
    assert!(edge.read(&world).await);
    let body = Bytes::from_static(b"x");
    let first = world.publish(0, &body).unwrap();
    // All at once, so that the shard's task does not run in between.
    let count = crate::defaults::SHARD_ANNOUNCEMENTS as u64 + 500;
    for seq in 2..=count {
        let position = Position { epoch: first.epoch.clone(), seq };
        world.dispatcher.announced(Announcement { room: name(0), position, entry: None });
    }
    assert_eq!(world.metrics.shard_full.get(), 500);
    while edge.read(&world).await {}
    // It was asked, and has none of them: once for the first, once for what came meanwhile, and no more.
    assert_eq!((edge.at["room-0"].seq, world.metrics.repairs.get()), (1, 2));
    drop(edge);
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_is_held_back_and_nothing_is_lost() {
    let world = World::new(1000);
    let (mut fast, mut slow) = (Edge::new(&world), Edge::new(&world));
    for edge in [&mut fast, &mut slow] {
        edge.wish(&world, 0, true, None).await;
        assert!(edge.read(&world).await);
    }
    let body = Bytes::from_static(b"x");
    let (mut stored, mut refused, mut behind) = (0u64, 0u64, 0);
    while stored < 20_000 {
        if world.publish(0, &body).is_some() {
            stored += 1;
            continue;
        }
        refused += 1;
        behind = behind.max(world.metrics.behind.get());
        fast.read(&world).await;
        if refused.is_multiple_of(40) {
            slow.read(&world).await;
        }
    }
    for edge in [&mut fast, &mut slow] {
        while edge.read(&world).await {}
        assert_eq!((edge.at["room-0"].seq, edge.lost), (20_000, 0));
    }
    assert!(world.metrics.link_room_full.get() > 0 && world.metrics.replays.get() > 0);
    assert_eq!(world.metrics.behind.get(), 0);
    assert!((1..=2).contains(&behind), "{behind} of the room's two links");
    drop((fast, slow));
    world.finish().await;
}
