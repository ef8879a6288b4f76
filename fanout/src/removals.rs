//! Removals of users that edges are told: those that this node was asked for, at once, and all that the store keeps, read
//! every second, so that each node tells of all, whoever stored them and whenever it started.
//!
//! An edge is linked to all nodes, so it has word of each removal from the node that took it, and again from the others; it
//! knows which it has. Each link has a cursor in this log, and takes the next whenever it can send: nothing is queued.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::RandomState;
use proto::MAX_REMOVALS;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    broker::{
        Broker,
        removals::{KEPT, Removal, Who},
    },
    metrics::Metrics,
};

/// How often the store is read: one command, as small as a pulse.
const PERIOD: Duration = Duration::from_secs(1);

/// Removals of one read.
const PAGE: usize = 1000;

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Removals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Mutex<Log>,
    /// The number of the last one.
    last: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Log {
    /// By number, in the order they were learned.
    learned: BTreeMap<u64, (Instant, Removal)>,
    numbers: HashMap<Who, u64, RandomState>,
    last: u64,
}

/// How far a link has been told.
#[derive(Debug)]
pub(crate) struct Cursor {
    told: u64,
    last: watch::Receiver<u64>,
}

impl Removals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner { log: Mutex::default(), last: watch::Sender::new(0), metrics }))
    }

    /// One is stored. What is known already changes nothing.
    pub(crate) fn learn(&self, removal: Removal) {
        let mut log = self.lock();
        let Some(last) = log.add(removal, Instant::now()) else { return };
        self.0.metrics.removals.set(i64::try_from(log.learned.len()).unwrap_or(i64::MAX));
        drop(log);
        self.0.last.send_replace(last);
    }

    /// From the first one known on.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { told: 0, last: self.0.last.subscribe() }
    }

    /// The next one to be told, when there is one. Cancel-safe.
    pub(crate) async fn next(&self, cursor: &mut Cursor) -> Removal {
        loop {
            cursor.last.borrow_and_update();
            let next = self.lock().after(cursor.told);
            if let Some((number, removal)) = next {
                cursor.told = number;
                return removal;
            }
            if cursor.last.changed().await.is_err() {
                // The node is gone, and with it soon the link.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reads what the store keeps, again and again, until dropped.
    pub(crate) async fn follow(self, broker: Arc<dyn Broker>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut server, mut after_ms) = (Arc::<str>::default(), 0);
        loop {
            ticks.tick().await;
            // What cannot be read now is read later; the broker says why.
            while let Ok(page) = broker.removals(after_ms, PAGE).await {
                if page.server != server {
                    // Another one may have those that this one has not given the same times.
                    let anew = after_ms > 0;
                    (server, after_ms) = (page.server, 0);
                    if anew {
                        continue;
                    }
                }
                let count = page.removals.len();
                for removal in page.removals {
                    after_ms = removal.at_ms;
                    self.learn(removal);
                }
                if count < PAGE {
                    break;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Its number, if it was not known.
    fn add(&mut self, removal: Removal, now: Instant) -> Option<u64> {
        let known = self.numbers.get(&removal.who).and_then(|number| self.learned.get(number));
        if known.is_some_and(|(_, known)| known.at_ms >= removal.at_ms) {
            return None;
        }
        self.last += 1;
        if let Some(before) = self.numbers.insert(removal.who.clone(), self.last) {
            self.learned.remove(&before);
        }
        self.learned.insert(self.last, (now, removal));
        while let Some(first) = self.learned.first_entry()
            && (first.get().0 + KEPT <= now || self.numbers.len() > MAX_REMOVALS)
        {
            let (_, removal) = first.remove();
            self.numbers.remove(&removal.who);
        }
        Some(self.last)
    }

    fn after(&self, number: u64) -> Option<(u64, Removal)> {
        let (number, (_, removal)) = self.learned.range(number + 1..).next()?;
        Some((*number, removal.clone()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn removal(user: &str, at_ms: i64) -> Removal {
        Removal { who: Who { user: user.into(), room: None }, at_ms }
    }

    fn told(removals: &Removals, cursor: &mut Cursor) -> Vec<i64> {
        std::iter::from_fn(|| removals.next(cursor).now_or_never()).map(|removal| removal.at_ms).collect()
    }

    #[tokio::test]
    async fn each_link_is_told_of_each_once_whenever_it_comes() {
        let removals = Removals::new(Arc::default());
        let mut early = removals.cursor();
        assert_eq!(told(&removals, &mut early), [0; 0]);
        // An older one of another node may come later.
        for (user, at_ms) in [("a", 5), ("b", 3), ("a", 5), ("a", 4)] {
            removals.learn(removal(user, at_ms));
        }
        assert_eq!(told(&removals, &mut early), [5, 3]);
        removals.learn(removal("a", 9));
        assert_eq!(told(&removals, &mut early), [9]);
        assert_eq!(told(&removals, &mut removals.cursor()), [3, 9]);
        assert_eq!(removals.0.metrics.removals.get(), 2);
        let mut waiting = Box::pin(removals.next(&mut early));
        assert!((&mut waiting).now_or_never().is_none());
        removals.learn(removal("c", 1));
        assert_eq!(waiting.await.at_ms, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_as_long_as_an_hour_and_never_longer_than_the_limit() {
        let removals = Removals::new(Arc::default());
        removals.learn(removal("a", 1));
        tokio::time::advance(KEPT).await;
        removals.learn(removal("b", 2));
        assert_eq!(told(&removals, &mut removals.cursor()), [2]);
        for number in 0..i64::try_from(MAX_REMOVALS).unwrap() {
            removals.learn(removal(&number.to_string(), number + 10));
        }
        let log = removals.lock();
        assert_eq!((log.learned.len(), log.numbers.len()), (MAX_REMOVALS, MAX_REMOVALS));
        assert_eq!(log.after(0).unwrap().1.at_ms, 10);
    }
}
