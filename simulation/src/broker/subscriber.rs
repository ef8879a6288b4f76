//! The connection for announcements: it drops, doubles, delays and reorders them, is lost, and goes deaf.

use std::{sync::Arc, time::Duration};

use fanout::broker::Announcement;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{Change, DEAF, ModelBroker, News, State};
use crate::world::{lock, one_in, up_to};

impl ModelBroker {
    /// What the server announces to all who are subscribed.
    pub(super) fn hear(&self, announcement: &Announcement) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if !state.subscribed.contains(&announcement.room) || state.deaf_until.is_some_and(|until| until > now) {
            return;
        }
        let world = &self.world;
        let faulty = |share: u32| !world.is_settling() && one_in(world.plan.announcements * share);
        if faulty(1) {
            world.count("announcement: dropped");
            return;
        }
        state.arrives = state.arrives.max(now + up_to(self.world.plan.hear_latency));
        let (mut at, connection) = (state.arrives, state.connection);
        drop(state);
        if faulty(2) {
            world.count("announcement: doubled");
            let late = now + up_to(Duration::from_millis(300));
            self.arrive_later(late, connection, announcement.clone());
        }
        if faulty(2) {
            world.count("announcement: late, out of order");
            at += up_to(Duration::from_millis(300));
            self.arrive_later(at, connection, announcement.clone());
            return;
        }
        let _ = self.news.send((at, connection, News::Announced(announcement.clone())));
    }

    fn arrive_later(&self, at: Instant, connection: u64, announcement: Announcement) {
        let Some(me) = self.me() else { return };
        self.spawn(async move {
            sleep_until(at).await;
            me.arrive(connection, News::Announced(announcement));
        });
    }

    pub(super) async fn deliver(self: Arc<Self>, mut arriving: mpsc::UnboundedReceiver<(Instant, u64, News)>) {
        while let Some((at, connection, news)) = arriving.recv().await {
            sleep_until(at).await;
            self.arrive(connection, news);
        }
    }

    fn arrive(&self, connection: u64, news: News) {
        if lock(&self.state).connection != connection {
            return;
        }
        match news {
            News::Announced(announcement) => self.events.announced(announcement),
            News::Subscribed(room) => self.events.subscribed(room),
            News::Reset => self.events.reset(),
        }
    }

    /// The supervisor of the subscriber connection.
    pub(super) async fn follow(self: Arc<Self>, mut changed: mpsc::UnboundedReceiver<Change>) {
        let mut looks = tokio::time::interval(Duration::from_millis(250));
        loop {
            let change = tokio::select! {
                biased;
                change = changed.recv() => change,
                _ = looks.tick() => {
                    self.look_after();
                    continue;
                }
            };
            let Some(change) = change else { return };
            sleep(self.world.plan.subscribe_latency + self.latency() / 4).await;
            let mut state = lock(&self.state);
            match change {
                // While there is no connection it waits for the next.
                Change::Subscribe(_) if state.down_until.is_some() => {}
                Change::Subscribe(room) => {
                    if state.wanted.contains(&room) {
                        state.subscribed.insert(room.clone());
                        self.send(&mut state, News::Subscribed(room));
                    }
                }
                Change::Unsubscribe(room) => {
                    if !state.wanted.contains(&room) {
                        state.subscribed.remove(&room);
                    }
                }
            }
        }
    }

    fn send(&self, state: &mut State, news: News) {
        state.arrives = state.arrives.max(Instant::now() + self.latency() / 4);
        let _ = self.news.send((state.arrives, state.connection, news));
    }

    /// A connection that is down comes back; one that is deaf is given up.
    fn look_after(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.down_until.is_some_and(|until| until <= now) {
            state.down_until = None;
            let State { wanted, subscribed, .. } = &mut *state;
            subscribed.clone_from(wanted);
            for room in state.subscribed.clone() {
                self.send(&mut state, News::Subscribed(room));
            }
            self.send(&mut state, News::Reset);
        } else if state.deaf_until.is_some() && now - state.deaf_since >= DEAF {
            self.world.count("subscriber: deaf, given up");
            lose(&mut state, Duration::from_millis(200));
        }
    }

    /// Announcements end; the connection is made anew after a while.
    pub(crate) fn lose_subscriber(&self, down: Duration) {
        lose(&mut lock(&self.state), down);
    }

    /// Announcements no longer arrive, and nobody is told.
    pub(crate) fn go_deaf(&self, long: Duration) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.deaf_until = Some(now + long);
        state.deaf_since = now;
    }
}

fn lose(state: &mut State, down: Duration) {
    let now = Instant::now();
    state.connection += 1;
    state.subscribed.clear();
    state.down_until = Some(now + down);
    if state.deaf_until.take().is_none() {
        state.deaf_since = now;
    }
}
