use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::super::{
    Shared,
    routes::{Route, Routes},
};
use crate::{interest::LinkId, metrics::LinkState};

/// A node that heard nothing of its own through the broker for so long is deaf: rooms are better elsewhere.
const DEAF: Duration = Duration::from_secs(3);

/// The link among the routes; taken out when dropped.
pub(super) struct Up {
    id: LinkId,
    shared: Arc<Shared>,
}

impl Up {
    pub(super) fn register(route: Route, shared: Arc<Shared>) -> Self {
        let id = LinkId(shared.next_link.fetch_add(1, Ordering::Relaxed));
        shared.ever_linked.store(true, Ordering::Relaxed);
        let up = Self { id, shared };
        up.change(|routes| {
            routes.with(|links| {
                links.insert(id, route);
            })
        });
        up
    }

    pub(super) fn id(&self) -> LinkId {
        self.id
    }

    /// The node is about to stop: its rooms go elsewhere while it still serves them.
    pub(super) fn drains(&self) {
        self.update(|route| route.draining = true);
    }

    /// What a beat says of the node. Most change nothing.
    pub(super) fn beat(&self, heard_ms_ago: u64, store: &str) {
        let hears = u128::from(heard_ms_ago) < DEAF.as_millis();
        let routes = self.shared.routes.borrow().clone();
        let Some(route) = routes.get(self.id) else { return };
        if route.hears != hears {
            tracing::warn!(address = route.address, heard_ms_ago, hears, "a fanout node's hearing changed");
            self.update(|route| route.hears = hears);
        }
        if !store.is_empty() && route.store != store {
            let store = store.to_owned();
            self.update(|route| route.store = store);
        }
    }

    /// It has been up long enough to be trusted with rooms.
    pub(super) fn settles(&self) {
        self.update(|route| route.settled = true);
    }

    fn update(&self, change: impl FnOnce(&mut Route)) {
        self.change(|routes| {
            routes.with(|links| {
                if let Some(route) = links.get_mut(&self.id) {
                    change(route);
                }
            })
        });
    }

    fn change(&self, change: impl FnOnce(&Routes) -> Routes) {
        self.shared.routes.send_modify(|routes| *routes = Arc::new(change(routes)));
        let routes = self.shared.routes.borrow().clone();
        let metrics = &self.shared.metrics;
        for state in LinkState::ALL {
            metrics.links(state, routes.count(state));
        }
        metrics.stores.set(i64::try_from(routes.stores()).unwrap_or(i64::MAX));
        self.shared.one_store.seen(routes.stores());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.change(|routes| {
            routes.with(|links| {
                links.remove(&self.id);
            })
        });
    }
}
