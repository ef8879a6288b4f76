use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;

use super::publishes::Broadcast;
use crate::interest::{Interest, LinkId, PlacedLink, Placement, Reads};

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
    pub(super) broadcasts: mpsc::Sender<Broadcast>,
    /// The node is about to stop: no new rooms for it.
    pub(super) draining: bool,
}

impl Routes {
    pub(super) fn placement(&self) -> Arc<Placement> {
        self.placement.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn address_of(&self, id: LinkId) -> Option<&str> {
        self.links.get(&id).map(|route| route.address.as_str())
    }

    /// The queue of the link that serves the room.
    pub(super) fn broadcasts_of(&self, room: &str) -> Option<&mpsc::Sender<Broadcast>> {
        let placed = self.placement.place(room)?;
        Some(&self.links.get(&placed.id)?.broadcasts)
    }

    /// These routes with a change.
    pub(super) fn with(&self, change: impl FnOnce(&mut BTreeMap<LinkId, Route>)) -> Self {
        let mut links = self.links.clone();
        change(&mut links);
        // While all drain, rooms are better placed on those than nowhere.
        let all_drain = links.values().all(|route| route.draining);
        let placed = links.iter().map(|(id, route)| {
            let eligible = !route.draining || all_drain;
            PlacedLink::new(*id, &route.address, route.interest.clone(), route.reads.clone(), eligible)
        });
        let placement = Arc::new(Placement::new(placed.collect()));
        Self { links, placement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(address: &str, draining: bool) -> Route {
        let (broadcasts, _) = mpsc::channel(1);
        Route { address: address.to_owned(), interest: Arc::default(), reads: Arc::default(), broadcasts, draining }
    }

    #[test]
    fn draining_links_get_rooms_only_when_there_is_no_other() {
        let routes = Routes::default().with(|links| {
            links.insert(LinkId(1), route("a:1", true));
        });
        assert_eq!(routes.placement().place("room").unwrap().id, LinkId(1));
        let routes = routes.with(|links| {
            links.insert(LinkId(2), route("b:1", false));
        });
        for room in 0..50 {
            assert_eq!(routes.placement().place(&format!("room-{room}")).unwrap().id, LinkId(2));
        }
        assert!(routes.with(BTreeMap::clear).broadcasts_of("room").is_none());
    }
}
