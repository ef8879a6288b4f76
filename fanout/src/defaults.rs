//! Constants that are no settings, each with unit, reason and cost.

use std::time::Duration;

/// Longest time from a link's open to its hello, and longest silence after it. Three missed beats.
pub(crate) const LINK_SILENCE: Duration = Duration::from_secs(3);

/// A link's own beat. The edge calls a link dead after [`LINK_SILENCE`].
pub(crate) const LINK_BEAT: Duration = Duration::from_secs(1);

/// Publications of one link without a receipt yet; more are answered busy. With `MAX_PUBLISH_BYTES` of 64 KiB the
/// broker's own limit in bytes binds long before this one does.
pub(crate) const LINK_PUBLISHES: usize = 4096;

/// Reads of one link without an answer sent; each may hold a page of 1 MiB.
pub(crate) const LINK_READS: usize = 16;

/// Publications that an attachment's queue holds: 16,384, at about 60 bytes each beside what they share.
pub(crate) const LINK_QUEUE_ITEMS: usize = 16 << 10;

/// Bytes of entries that an attachment's queue holds, so that a slow edge costs at most this and hyper's windows.
pub(crate) const LINK_QUEUE_BYTES: usize = 8 << 20;

/// Messages beside publications (states, receipts, read results) that wait in an attachment's queue. They cannot be
/// dropped, so an edge that lets more pile up while it asks on is cut off.
pub(crate) const LINK_QUEUE_CONTROLS: usize = 64 << 10;

/// Bytes of entries in one message of a link: large enough to spare calls, small enough that a beat never waits long.
pub(crate) const LINK_MESSAGE_BYTES: usize = 256 << 10;

/// Interest messages that wait for one shard; then the link's reading waits.
pub(crate) const SHARD_INTERESTS: usize = 256;

/// Announcements that wait for one shard. Beyond it only each room's newest position is kept, and the room read again.
pub(crate) const SHARD_ANNOUNCEMENTS: usize = 16 << 10;

/// Bytes of the entries among them.
pub(crate) const SHARD_ANNOUNCEMENT_BYTES: usize = 16 << 20;

/// Most shards of the dispatcher; a shard is one task.
pub(crate) const MAX_SHARDS: usize = 8;

/// A room nobody wants any more stays subscribed for this long.
pub(crate) const UNWANTED_LINGER: Duration = Duration::from_secs(10);

/// Rooms whose positions are asked for in one go.
pub(crate) const POSITIONS_BATCH: usize = 512;

/// Rooms a second whose positions a node's sweep asks for, at most: a few per cent of what Redis can answer.
pub(crate) const SWEEP_RATE: usize = 5000;

/// How often the store is told that a room is live, so that it keeps its position: a fraction of the 24 h that it would
/// keep it without.
pub(crate) const RENEWAL: Duration = Duration::from_hours(1);

/// Pages that one attachment reads at once while it is behind, in one shard.
pub(crate) const CATCH_UP_READS: usize = 8;

/// Most publications of one page of a room's history read for catching up.
pub(crate) const PAGE_ITEMS: usize = 1000;

/// Publications held back in a room while a gap before them is read.
pub(crate) const HELD_ITEMS: usize = 1024;

/// Bytes of the entries among them.
pub(crate) const HELD_BYTES: usize = 1 << 20;

/// First and last delay between the tries of what the store did not answer.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a draining node waits for the next room to be moved away, and for links to end once it has ended them. Longer
/// than an edge needs to join a room elsewhere, less than a stop without other nodes should cost.
pub(crate) const LINK_DRAIN: Duration = Duration::from_secs(2);

/// How long it waits in all, while rooms are moved: at 2,000 a second, 40,000 rooms of each edge. With what follows it
/// stays below the default of `SHUTDOWN_TIMEOUT`.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(20);

/// What an edge sent before it knew of the drain comes in for so long.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How long a call of the publish API waits for the store; past it, not yet sent, it is certainly not stored.
pub(crate) const API_DEADLINE: Duration = Duration::from_secs(10);

/// Publications that wait for Redis, or for its answer.
pub(crate) const STORE_ITEMS: usize = 16 << 10;

/// Bytes of their entries.
pub(crate) const STORE_BYTES: usize = 64 << 20;

/// Those among them by one API key: half, eight times what is ever under way to Redis, so that it costs no throughput.
pub(crate) const KEY_ITEMS: usize = STORE_ITEMS / 2;

/// Bytes of their bodies.
pub(crate) const KEY_BYTES: usize = STORE_BYTES / 2;

/// Publications of one `PublishStream` without a result yet; then the stream is not read.
pub(crate) const STREAM_PUBLISHES: usize = 1024;

/// Bytes of the bodies among them.
pub(crate) const STREAM_PUBLISH_BYTES: usize = 4 << 20;

/// First and longest pause before a publication that found no place is offered again.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(2);
pub(crate) const BUSY_PAUSE_MAX: Duration = Duration::from_millis(32);

/// Longest time for which an edge asks at once that publishers of a room be held back: it asks again while it is so.
pub(crate) const HOLD_LEASE: Duration = Duration::from_secs(1);

/// After so long of it, what waits is let through for a moment, longer than publishers pause: no edge silences a room.
pub(crate) const HOLD_ASKED: Duration = Duration::from_secs(30);
pub(crate) const HOLD_BREAK: Duration = Duration::from_millis(50);

/// Rooms taken from one message that asks for it, as many as an edge of ours sends.
pub(crate) const HOLD_CHUNK: usize = 512;

/// Rooms of one shard for which edges may ask that at a time.
pub(crate) const HELD_BACK_ROOMS: usize = 4096;

/// How long a call of the publish API is held back for want of place before it is refused: longer than one edge that is
/// behind can hold a room's publishers back, less than one that asks for it can.
pub(crate) const HOLD: Duration = Duration::from_secs(4);

/// When a refused publisher should come back.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// An edge's own key outlives the deadline of its publication by this, for a repeat that is under way.
pub(crate) const EDGE_KEY_GRACE: Duration = Duration::from_secs(10);

/// Streams of the status open at a time: more consoles than look at one node.
pub(crate) const STATUS_STREAMS: usize = 64;

/// Rooms in each list of the status, and in each of an edge's report.
pub(crate) const TOP_ROOMS: usize = 100;

/// Rooms of one `PublishMany`.
pub(crate) const MAX_ROOMS: usize = 1000;
