#[cfg(not(any(loom, simulation)))]
type Map<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;
// Loom and the simulation run the same code many times over and need each run to be the same: no random seeds.
#[cfg(any(loom, simulation))]
type Map<K, V> = std::collections::BTreeMap<K, V>;

use std::{
    hash::Hash,
    task::{Context, Poll, Waker},
};

use crate::sync::{Mutex, lock, park};

/// The rooms whose wish changed since the link last looked, each with its latest wish: a level, not a list of events.
/// So it never holds more than one entry a room, however often the wish changes. Many set, one link drains.
#[derive(Debug)]
pub struct Interest<K, V> {
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    changed: Map<K, V>,
    link: Option<Waker>,
}

impl<K: Hash + Ord, V> Interest<K, V> {
    pub fn new() -> Self {
        Self { state: Mutex::new(State { changed: Map::default(), link: None }) }
    }

    /// What is wanted of `key` now, in place of what was set before and not yet drained.
    pub fn set(&self, key: K, wish: V) {
        let mut state = lock(&self.state);
        state.changed.insert(key, wish);
        let link = state.link.take();
        drop(state);
        if let Some(link) = link {
            link.wake();
        }
    }

    /// Moves up to `limit` changes into `into`; pending while there are none.
    pub fn poll_drain(&self, cx: &Context<'_>, limit: usize, into: &mut Vec<(K, V)>) -> Poll<()>
    where
        K: Clone,
    {
        let mut state = lock(&self.state);
        if state.changed.is_empty() {
            park(&mut state.link, cx);
            return Poll::Pending;
        }
        if state.changed.len() <= limit {
            into.extend(std::mem::take(&mut state.changed));
        } else {
            let keys: Vec<K> = state.changed.keys().take(limit).cloned().collect();
            into.extend(keys.into_iter().filter_map(|key| {
                let wish = state.changed.remove(&key)?;
                Some((key, wish))
            }));
        }
        Poll::Ready(())
    }

    pub fn len(&self) -> usize {
        lock(&self.state).changed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Ord, V> Default for Interest<K, V> {
    fn default() -> Self {
        Self::new()
    }
}
