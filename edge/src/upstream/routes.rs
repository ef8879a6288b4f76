use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::publishes::Broadcast;
use crate::{
    interest::{HeldBack, Interest, LinkId, PlacedLink, Placement, Reads},
    metrics::LinkState,
};

/// The links that are up, as of one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes {
    links: BTreeMap<LinkId, Route>,
    placement: Arc<Placement>,
}

/// One link that is up.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) address: String,
    pub(super) interest: Arc<Interest>,
    pub(super) reads: Arc<Reads>,
    pub(super) held_back: Arc<HeldBack>,
    pub(super) broadcasts: mpsc::Sender<Broadcast>,
    /// The node is about to stop: no new rooms for it.
    pub(super) draining: bool,
    /// The node hears what it publishes itself.
    pub(super) hears: bool,
    /// It has been up long enough, or for the first time.
    pub(super) settled: bool,
    /// Identity of the node's store; empty while it is not known.
    pub(super) store: String,
}

impl Route {
    fn state(&self) -> LinkState {
        match self.rank() {
            (false, ..) => LinkState::Draining,
            (_, false, _) => LinkState::Deaf,
            (.., false) => LinkState::Settling,
            _ => LinkState::Well,
        }
    }

    /// Of the links with the highest rank, each gets its share of the rooms.
    fn rank(&self) -> (bool, bool, bool) {
        (!self.draining, self.hears, self.settled)
    }
}

impl Routes {
    pub(super) fn placement(&self) -> Arc<Placement> {
        self.placement.clone()
    }

    /// How many links are in this state.
    pub(super) fn count(&self, state: LinkState) -> usize {
        self.links.values().filter(|route| route.state() == state).count()
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&Route> {
        self.links.get(&id)
    }

    /// How many different stores the nodes name.
    pub(super) fn stores(&self) -> usize {
        let known = self.links.values().map(|route| route.store.as_str()).filter(|store| !store.is_empty());
        known.collect::<BTreeSet<_>>().len()
    }

    /// The link that serves the room, and its queue.
    pub(super) fn broadcasts_of(&self, room: &str) -> Option<(LinkId, &mpsc::Sender<Broadcast>)> {
        let placed = self.placement.place(room)?;
        Some((placed.id, &self.links.get(&placed.id)?.broadcasts))
    }

    /// These routes with a change.
    pub(super) fn with(&self, change: impl FnOnce(&mut BTreeMap<LinkId, Route>)) -> Self {
        let mut links = self.links.clone();
        change(&mut links);
        // While none is better, rooms are better placed on those there are than nowhere.
        let best = links.values().map(Route::rank).max();
        let placed = links.iter().map(|(id, route)| {
            let eligible = Some(route.rank()) == best;
            let (interest, reads, held_back) = (route.interest.clone(), route.reads.clone(), route.held_back.clone());
            PlacedLink::new(*id, &route.address, interest, reads, held_back, eligible)
        });
        // When nobody hears, it is the store: to move would only add to the trouble.
        let still = !links.values().any(|route| route.hears);
        let placement = Arc::new(Placement::new(placed.collect(), still));
        Self { links, placement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(address: &str) -> Route {
        let (broadcasts, _) = mpsc::channel(1);
        let (interest, reads, held_back) = (Arc::default(), Arc::default(), Arc::default());
        let (address, store) = (address.to_owned(), "s".to_owned());
        Route { address, interest, reads, held_back, broadcasts, draining: false, hears: true, settled: true, store }
    }

    fn two(change: impl Fn(&mut Route)) -> Routes {
        let mut first = route("a:1");
        change(&mut first);
        Routes::default().with(|links| {
            links.insert(LinkId(1), first);
            links.insert(LinkId(2), route("b:1"));
        })
    }

    fn shares(routes: &Routes) -> BTreeSet<u64> {
        (0..50).filter_map(|room| routes.placement().place(&format!("room-{room}")).map(|link| link.id.0)).collect()
    }

    #[test]
    fn the_best_links_share_the_rooms() {
        assert_eq!(shares(&two(|_| {})), [1, 2].into());
        assert_eq!(shares(&two(|route| route.draining = true)), [2].into());
        assert_eq!(shares(&two(|route| route.hears = false)), [2].into());
        assert_eq!(shares(&two(|route| route.settled = false)), [2].into());
    }

    #[test]
    fn those_there_are_get_rooms_when_there_is_no_better() {
        let alone = |change: fn(&mut Route)| shares(&two(change).with(|links| drop(links.remove(&LinkId(2)))));
        assert_eq!(alone(|route| route.draining = true), [1].into());
        assert_eq!(alone(|route| route.hears = false), [1].into());
        assert_eq!(alone(|route| route.settled = false), [1].into());
        let none = two(|_| {}).with(BTreeMap::clear);
        assert!(none.broadcasts_of("room").is_none());
    }

    #[test]
    fn nothing_moves_while_all_are_deaf() {
        let deaf = two(|route| route.hears = false).with(|links| {
            for route in links.values_mut() {
                route.hears = false;
            }
        });
        assert!(deaf.placement().is_still());
        assert!(!two(|route| route.hears = false).placement().is_still());
    }

    #[test]
    fn each_link_is_in_one_state() {
        let counts = |routes: &Routes| LinkState::ALL.map(|state| routes.count(state));
        assert_eq!(counts(&two(|_| {})), [0, 0, 0, 2]);
        assert_eq!(counts(&two(|route| route.settled = false)), [0, 0, 1, 1]);
        assert_eq!(counts(&two(|route| (route.settled, route.hears) = (false, false))), [0, 1, 0, 1]);
        assert_eq!(counts(&two(|route| (route.hears, route.draining) = (false, true))), [1, 0, 0, 1]);
    }

    #[test]
    fn different_stores_are_counted() {
        assert_eq!(two(|_| {}).stores(), 1);
        assert_eq!(two(|route| route.store = "t".to_owned()).stores(), 2);
        assert_eq!(two(|route| route.store = String::new()).stores(), 1);
    }
}
