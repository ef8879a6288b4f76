use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

type Work<V> = BoxFuture<'static, V>;

/// Work under way, by what it is about; whoever wants the same while it lasts shares it. It is driven by those who wait
/// for it: one who goes away takes nothing from the others, and with the last of them it ends.
#[derive(Debug)]
pub(super) struct Pending<K, V: Clone>(Mutex<Table<K, V>>);

#[derive(Debug)]
struct Table<K, V: Clone> {
    works: HashMap<K, (u64, WeakShared<Work<V>>)>,
    next: u64,
}

impl<K, V: Clone> Default for Pending<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Table { works: HashMap::new(), next: 0 }))
    }
}

impl<K, V> Pending<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The work about `key`: that under way, else what `start` makes.
    pub(super) fn join(self: &Arc<Self>, key: K, start: impl FnOnce(K) -> Work<V>) -> Shared<Work<V>> {
        // No work is ever dropped under the lock, which its guard takes: what is upgraded leaves with the caller.
        let mut table = self.lock();
        if let Some(work) = table.works.get(&key).and_then(|(_, work)| work.upgrade()) {
            return work;
        }
        let id = table.next;
        table.next += 1;
        let guard = Unlist { pending: self.clone(), key: key.clone(), id };
        let work = start(key.clone());
        let work = async move {
            let value = work.await;
            drop(guard);
            value
        };
        let work = work.boxed().shared();
        if let Some(weak) = work.downgrade() {
            table.works.insert(key, (id, weak));
        }
        work
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().works.len()
    }
}

impl<K, V: Clone> Pending<K, V> {
    fn lock(&self) -> MutexGuard<'_, Table<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a work off the list when it is done or given up, unless a later one about the same stands there.
struct Unlist<K: Eq + Hash, V: Clone> {
    pending: Arc<Pending<K, V>>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash, V: Clone> Drop for Unlist<K, V> {
    fn drop(&mut self) {
        let mut table = self.pending.lock();
        if table.works.get(&self.key).is_some_and(|(id, _)| *id == self.id) {
            table.works.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    type Pending = super::Pending<&'static str, u32>;

    fn waits(for_it: oneshot::Receiver<u32>) -> impl FnOnce(&'static str) -> Work<u32> {
        move |_| async move { for_it.await.unwrap() }.boxed()
    }

    fn never_starts(_: &'static str) -> Work<u32> {
        panic!("asked twice")
    }

    #[tokio::test]
    async fn equal_work_is_done_once_and_then_forgotten() {
        let pending = Arc::new(Pending::default());
        let (done, receiver) = oneshot::channel();
        let first = pending.join("a", waits(receiver));
        let second = pending.join("a", never_starts);
        done.send(7).unwrap();
        assert_eq!((first.await, second.await), (7, 7));
        assert_eq!(pending.len(), 0);
        assert_eq!(pending.join("a", |_| async { 8 }.boxed()).await, 8);
    }

    #[tokio::test]
    async fn who_goes_away_takes_nothing_from_the_others() {
        let pending = Arc::new(Pending::default());
        let (done, receiver) = oneshot::channel();
        let mut first = pending.join("a", waits(receiver));
        let mut second = pending.join("a", never_starts);
        assert!((&mut first).now_or_never().is_none(), "the first one drives it");
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        done.send(7).unwrap();
        assert_eq!(second.await, 7);
    }

    #[tokio::test]
    async fn with_the_last_one_the_work_ends() {
        let pending = Arc::new(Pending::default());
        let (done, receiver) = oneshot::channel();
        let mut first = pending.join("a", waits(receiver));
        let second = pending.join("a", never_starts);
        assert!((&mut first).now_or_never().is_none());
        drop((first, second));
        assert!(done.is_closed());
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn work_given_up_before_it_began_is_forgotten() {
        let pending = Arc::new(Pending::default());
        drop(pending.join("a", |_| async { 1 }.boxed()));
        assert_eq!(pending.len(), 0);
    }
}
