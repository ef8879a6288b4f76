//! Finds out which primary has which slot, again every few seconds and whenever something was not where it was looked
//! for. Of several views, that of the highest epoch of a server that is with the majority is believed.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use ahash::RandomState;
use futures_util::future::join_all;
use hashbrown::{HashMap, HashSet};
use redis::{ErrorKind, RedisError, RedisResult};
use service::Lifecycle;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Wanted,
    slots::{Slots, View},
};
use crate::broker::redis::{
    RedisSettings,
    address::{Place, Server},
    connect,
    keys::{SLOTS, slot},
    primary::Primary,
    publish::Shared,
};

const PERIOD: Duration = Duration::from_secs(5);

/// At least so long between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// For one server to connect and answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Servers that are asked at once.
const ASKED: usize = 16;

/// What a primary's tasks end with: the last who asks it is gone.
#[derive(Debug)]
struct Running {
    primary: Arc<Primary>,
    _end: DropGuard,
}

#[derive(Debug)]
pub(super) struct Topology {
    settings: RedisSettings,
    shared: Arc<Shared>,
    wanted: Arc<Wanted>,
    slots: watch::Sender<Arc<Slots>>,
    store: watch::Sender<Option<Arc<str>>>,
    lifecycle: Lifecycle,
    end: CancellationToken,
    running: HashMap<Server, Running, RandomState>,
    /// Of the view in force.
    epoch: u64,
    shares: Vec<(Server, Vec<RangeInclusive<u16>>)>,
    others: Vec<Server>,
}

impl Topology {
    pub(super) fn new(
        settings: RedisSettings,
        shared: Arc<Shared>,
        wanted: Arc<Wanted>,
        slots: watch::Sender<Arc<Slots>>,
        store: watch::Sender<Option<Arc<str>>>,
        lifecycle: &Lifecycle,
        end: CancellationToken,
    ) -> Self {
        Self {
            settings,
            shared,
            wanted,
            slots,
            store,
            lifecycle: lifecycle.clone(),
            end,
            running: HashMap::default(),
            epoch: 0,
            shares: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut failing = false;
        loop {
            match self.look().await {
                Ok(view) => {
                    failing = false;
                    self.take(view);
                }
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(redis = %self.settings.address, %error, "no view of the Cluster: trying until there is");
                }
                Err(_) => {}
            }
            if let Err(error) = self.identify().await {
                tracing::debug!(%error, "ask for the store's name");
            }
            tokio::time::sleep(PAUSE).await;
            // Soon again until there is all that is needed.
            let ready = self.store.borrow().is_some();
            let _ = timeout(if ready { PERIOD } else { PAUSE }, self.shared.moved.notified()).await;
        }
    }

    /// The latest view of those that answer.
    async fn look(&self) -> RedisResult<View> {
        let known: HashSet<&Server, RandomState> =
            self.shares.iter().map(|(server, _)| server).chain(&self.others).collect();
        let mut servers: Vec<Server> = known.into_iter().take(ASKED).cloned().collect();
        if let Place::At(seed) = &self.settings.address.place
            && !servers.contains(seed)
        {
            servers.push(seed.clone());
        }
        let answers = join_all(servers.iter().map(|server| async move {
            let late = || RedisError::from((ErrorKind::Io, "no answer in time"));
            timeout(PATIENCE, ask(server, &self.settings)).await.unwrap_or_else(|_| Err(late()))
        }))
        .await;
        let mut failure = RedisError::from((ErrorKind::Io, "no server has a view"));
        let mut best: Option<View> = None;
        for answer in answers {
            match answer {
                Ok(view) if view.shares.is_empty() => {}
                Ok(view) => {
                    let later = |known: &View| (view.well, view.epoch) > (known.well, known.epoch);
                    if best.as_ref().is_none_or(later) {
                        best = Some(view);
                    }
                }
                Err(error) => failure = error,
            }
        }
        // One that is cut off with us may be all that answers: what is known is later.
        best.filter(|view| view.epoch >= self.epoch).ok_or(failure)
    }

    fn take(&mut self, view: View) {
        let View { epoch, shares, others, .. } = view;
        (self.epoch, self.others) = (epoch, others);
        if shares == self.shares {
            return;
        }
        tracing::info!(epoch, primaries = shares.len(), "the Cluster has another topology");
        let running = std::mem::take(&mut self.running);
        self.running =
            running.into_iter().filter(|(server, _)| shares.iter().any(|(known, _)| known == server)).collect();
        let mut owners = Vec::new();
        for (server, ranges) in &shares {
            if !self.running.contains_key(server) {
                let started = self.start(server);
                self.running.insert(server.clone(), started);
            }
            let Some(Running { primary, .. }) = self.running.get(server) else { continue };
            self.place_pulse(primary, ranges);
            owners.push((Arc::clone(primary), ranges.clone()));
        }
        self.shares = shares;
        let slots = Arc::new(Slots::new(&owners));
        self.slots.send_replace(Arc::clone(&slots));
        self.wanted.route(&slots);
    }

    fn start(&self, server: &Server) -> Running {
        let mut settings = self.settings.clone();
        settings.address.place = Place::At(server.clone());
        let end = self.end.child_token();
        let primary = Primary::spawn(settings, Arc::clone(&self.shared), None, &self.lifecycle, &end);
        Running { primary: Arc::new(primary), _end: end.drop_guard() }
    }

    /// The pulse goes through a slot of that server.
    fn place_pulse(&self, primary: &Primary, ranges: &[RangeInclusive<u16>]) {
        let here = |tag: &u16| {
            let slot = slot(tag.to_string().as_bytes());
            ranges.iter().any(|range| range.contains(&slot))
        };
        let known = primary.hearing.channel();
        let channel = |tag: u16| self.shared.keys.shard_pulse(self.shared.boot, tag);
        let tag = (0..SLOTS).filter(here).find(|tag| known.as_deref() == Some(&*channel(*tag)));
        if tag.is_none()
            && let Some(tag) = (0..u16::MAX).find(here)
        {
            primary.hearing.set_channel(&channel(tag));
            primary.subscriptions.pulse_changed();
        }
    }

    /// Who the store is; it is named here if it has no name yet.
    async fn identify(&self) -> RedisResult<()> {
        let slots = Arc::clone(&self.slots.borrow());
        let Some(owner) = slots.owner_of(self.shared.keys.identity_slot()) else { return Ok(()) };
        let Some(connection) = owner.commands.connection() else { return Ok(()) };
        let (mut redis, key) = (connection.redis.clone(), self.shared.keys.identity());
        let mut name: Option<String> = redis::cmd("GET").arg(&key).query_async(&mut redis).await?;
        if name.is_none() {
            let mine = format!("redis-{:016x}", rand::random::<u64>());
            let () = redis::cmd("SET").arg(&key).arg(mine).arg("NX").query_async(&mut redis).await?;
            name = redis::cmd("GET").arg(&key).query_async(&mut redis).await?;
        }
        self.store.send_if_modified(|store| {
            let differs = store.as_deref() != name.as_deref();
            if differs {
                tracing::info!(store = name.as_deref(), before = store.as_deref(), "the Cluster's name");
                *store = name.map(Into::into);
            }
            differs
        });
        Ok(())
    }
}

async fn ask(server: &Server, settings: &RedisSettings) -> RedisResult<View> {
    let mut question = redis::pipe();
    question.cmd("CLUSTER").arg("INFO");
    question.cmd("CLUSTER").arg("SLOTS");
    let mut answers = connect::ask(server, settings, &question, PATIENCE).await?.into_iter();
    let odd = || RedisError::from((ErrorKind::UnexpectedReturnType, "it is no server of a Cluster"));
    let (Some(info), Some(slots)) = (answers.next(), answers.next()) else { return Err(odd()) };
    View::read(info, slots, server).ok_or_else(odd)
}
