//! Removals of users as a store keeps them: for an hour, so many at most, of each user and room the last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use proto::{MAX_REMOVALS, Room};

use super::StoreError;

/// How long each is kept: no grant is good for longer.
pub const KEPT: Duration = Duration::from_hours(1);

/// Who is removed, from where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Who {
    pub user: Arc<str>,
    /// `None`: from all rooms, and all connections are closed.
    pub room: Option<Room>,
}

/// A removal that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub who: Who,
    /// Unix time in milliseconds, by the store's clock; no two have the same, and a later one has a higher.
    pub at_ms: i64,
}

/// Some of those that are kept, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovalPage {
    /// Names the server. Another one may lack some, and give their times again: then all are to be read.
    pub server: Arc<str>,
    pub removals: Vec<Removal>,
}

/// What a store has that is no server of its own. Pure; time is passed in.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    times: HashMap<Who, i64>,
    by_time: BTreeMap<i64, Who>,
    last_ms: i64,
}

impl Kept {
    /// Keeps it, in the place of an earlier one of the same user and room. Answers its time.
    pub fn add(&mut self, who: Who, now_ms: i64) -> Result<i64, StoreError> {
        self.expire(now_ms);
        if !self.times.contains_key(&who) && self.times.len() >= MAX_REMOVALS {
            return Err(StoreError::Busy);
        }
        let at_ms = now_ms.max(self.last_ms + 1);
        self.last_ms = at_ms;
        if let Some(before) = self.times.insert(who.clone(), at_ms) {
            self.by_time.remove(&before);
        }
        self.by_time.insert(at_ms, who);
        Ok(at_ms)
    }

    /// Those after this time.
    pub fn after(&mut self, after_ms: i64, limit: usize, now_ms: i64) -> Vec<Removal> {
        self.expire(now_ms);
        let later = self.by_time.range(after_ms.saturating_add(1)..).take(limit);
        later.map(|(at_ms, who)| Removal { who: who.clone(), at_ms: *at_ms }).collect()
    }

    fn expire(&mut self, now_ms: i64) {
        let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        while let Some(first) = self.by_time.first_entry()
            && *first.key() <= now_ms.saturating_sub(kept)
        {
            self.times.remove(&first.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str) -> Who {
        Who { user: user.into(), room: None }
    }

    #[test]
    fn they_are_kept_for_an_hour_and_so_many_at_most() {
        let mut kept = Kept::default();
        for number in 0..MAX_REMOVALS {
            kept.add(who(&number.to_string()), 1_000_000).unwrap();
        }
        assert_eq!(kept.add(who("x"), 1_000_000), Err(StoreError::Busy));
        // One that is there only gets another time.
        let last = i64::try_from(MAX_REMOVALS).unwrap() + 1_000_000;
        assert_eq!(kept.add(who("7"), 1_000_000), Ok(last));
        assert_eq!(kept.after(last - 1, 9, 0), [Removal { who: who("7"), at_ms: last }]);
        let hour = 3_600_000;
        assert_eq!(kept.after(0, 9, hour + last - 1), kept.clone().after(last - 1, 9, 0));
        assert_eq!(kept.after(0, 9, hour + last), []);
        assert!(kept.times.is_empty());
        assert_eq!(kept.add(who("y"), 5), Ok(last + 1), "the clock went back, its times do not");
    }
}
