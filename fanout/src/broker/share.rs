//! How much of the queue to the store one publisher has. Only what it is over is refused, so that it holds up nobody but
//! itself. A part is taken along by the publication and given back when that is settled, whether anybody still waits for
//! the receipt or not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::defaults::{KEY_BYTES, KEY_ITEMS};

/// What a publisher has under way.
#[derive(Debug, Default)]
pub struct Share {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// One publication's part of it, until dropped.
#[derive(Debug)]
pub struct Part {
    share: Arc<Share>,
    bytes: usize,
}

impl Share {
    /// `None`: it has all that it may have.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Part> {
        // Counted first and given back if that was too much, so that no two take the last place.
        let part = Part { share: Arc::clone(self), bytes };
        let items = self.items.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (items <= KEY_ITEMS && all <= KEY_BYTES).then_some(part)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.share.items.fetch_sub(1, Ordering::Relaxed);
        self.share.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use allocation_counter::measure;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is taken is given back; a part is refused if and only if it would be too much.
        #[test]
        fn a_share_is_never_exceeded_and_never_shrinks(
            steps in prop::collection::vec((any::<bool>(), 0..KEY_BYTES / 8, any::<prop::sample::Index>()), 1..200),
        ) {
            let share = Arc::new(Share::default());
            let (mut parts, mut sum) = (Vec::new(), 0);
            for (take, bytes, index) in steps {
                if take || parts.is_empty() {
                    let part = share.take(bytes);
                    prop_assert_eq!(part.is_some(), sum + bytes <= KEY_BYTES);
                    sum += part.as_ref().map_or(0, |part| part.bytes);
                    parts.extend(part);
                } else {
                    sum -= parts.swap_remove(index.index(parts.len())).bytes;
                }
                prop_assert_eq!(share.bytes.load(Ordering::Relaxed), sum);
                prop_assert_eq!(share.items.load(Ordering::Relaxed), parts.len());
            }
        }
    }

    #[test]
    fn only_so_many_have_a_part_and_one_allocates_nothing() {
        let share = Arc::new(Share::default());
        let mut parts: Vec<_> = (0..KEY_ITEMS).map(|_| share.take(1).unwrap()).collect();
        assert!(share.take(1).is_none() && share.take(0).is_none());
        parts.pop();
        let taken = measure(|| assert!(share.take(1).is_some()));
        assert_eq!(taken.count_total, 0);
    }
}
