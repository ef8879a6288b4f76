//! Which link is told what about which room. A room's wish is a level: setting it again is harmless, and a link that is
//! made anew is told all of it.

use std::{fmt, sync::Arc, time::Duration};

use proto::{Position, Room};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// One attachment to a fanout node. A link made anew has a new id, so that nothing of the old one is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What is wanted of a room now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub wanted: bool,
    /// Everything after it, if we stand somewhere already.
    pub position: Option<Position>,
}

/// The rooms whose wish changed since the link last looked.
pub type Interest = queues::Interest<Room, Wish>;

/// A page of a room's history that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// What follows the position, oldest first.
    After(Position),
    /// The latest so many.
    Last(u32),
}

/// The rooms of which a page is wanted, at most one each, with the number that its answer is known by.
pub type Reads = queues::Interest<Room, (u64, ReadFrom)>;

/// The rooms of which it is to be said that their publishers wait, and for how long: zero, no longer.
pub type HeldBack = queues::Interest<Room, Duration>;

/// A link that is up.
#[derive(Clone)]
pub struct PlacedLink {
    pub id: LinkId,
    pub interest: Arc<Interest>,
    pub reads: Arc<Reads>,
    pub held_back: Arc<HeldBack>,
    seed: u64,
    /// Whether new rooms may be placed here; a draining node only keeps those it has until they have moved.
    eligible: bool,
}

impl PlacedLink {
    /// `address` is what all edges know the node by.
    pub fn new(
        id: LinkId,
        address: &str,
        interest: Arc<Interest>,
        reads: Arc<Reads>,
        held_back: Arc<HeldBack>,
        eligible: bool,
    ) -> Self {
        Self { id, interest, reads, held_back, seed: xxh3_64(address.as_bytes()), eligible }
    }
}

impl fmt::Debug for PlacedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlacedLink").field("id", &self.id).field("eligible", &self.eligible).finish_non_exhaustive()
    }
}

/// The links that are up, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    links: Vec<PlacedLink>,
    still: bool,
}

impl Placement {
    /// `still`: a room whose link is up stays there, whatever its weight.
    pub fn new(links: Vec<PlacedLink>, still: bool) -> Self {
        Self { links, still }
    }

    pub fn is_still(&self) -> bool {
        self.still
    }

    /// The link that serves the room: highest random weight over the eligible links, so that each node's coming or
    /// going moves only its own share (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998).
    pub fn place(&self, room: &str) -> Option<&PlacedLink> {
        self.links
            .iter()
            .filter(|link| link.eligible)
            .max_by_key(|link| (xxh3_64_with_seed(room.as_bytes(), link.seed), link.id))
    }

    pub fn links(&self) -> &[PlacedLink] {
        &self.links
    }

    /// The link, if it is still up.
    pub fn get(&self, id: LinkId) -> Option<&PlacedLink> {
        self.links.iter().find(|link| link.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(addresses: &[&str]) -> Placement {
        let link = |(index, address): (usize, &&str)| {
            PlacedLink::new(LinkId(index as u64), address, Arc::default(), Arc::default(), Arc::default(), true)
        };
        Placement::new(addresses.iter().enumerate().map(link).collect(), false)
    }

    fn shares(placement: &Placement, rooms: usize) -> Vec<LinkId> {
        (0..rooms).map(|room| placement.place(&format!("room-{room}")).unwrap().id).collect()
    }

    #[test]
    fn rooms_are_spread_and_only_the_share_of_a_new_node_moves() {
        let two = shares(&links(&["a:1", "b:1"]), 3000);
        let three = shares(&links(&["a:1", "b:1", "c:1"]), 3000);
        let on_a = two.iter().filter(|id| **id == LinkId(0)).count();
        assert!((1300..1700).contains(&on_a), "{on_a}");
        for (before, after) in two.iter().zip(&three) {
            assert!(before == after || *after == LinkId(2));
        }
        let moved = three.iter().filter(|id| **id == LinkId(2)).count();
        assert!((850..1150).contains(&moved), "{moved}");
    }

    #[test]
    fn the_order_of_discovery_does_not_matter() {
        let (one, other) = (links(&["a:1", "b:1"]), links(&["b:1", "a:1"]));
        for room in 0..100 {
            let room = format!("room-{room}");
            assert_ne!(one.place(&room).unwrap().id, other.place(&room).unwrap().id, "ids are swapped, so nodes agree");
        }
    }

    #[test]
    fn links_that_are_not_eligible_get_no_rooms() {
        let link = PlacedLink::new(LinkId(1), "a:1", Arc::default(), Arc::default(), Arc::default(), false);
        let placement = Placement::new(vec![link], false);
        assert!(placement.place("room").is_none());
        assert!(placement.get(LinkId(1)).is_some());
    }
}
