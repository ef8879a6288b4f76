//! One seed, from the first moment to the last.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use service::simulation::{Check, Settings};
use tokio::{
    runtime::{Builder, RngSeed, Runtime},
    time::sleep,
};

use crate::{
    client::Client,
    faults::Faults,
    plan::Plan,
    publisher,
    world::{World, lock},
};

/// How much longer those who are behind in the end may take, as long as they get on.
const WAIT: Duration = Duration::from_secs(5);
const MOST_WAITS: usize = 20;

/// How a seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Print the lines of the trace as they come.
    pub trace: bool,
    /// Switch this check off.
    pub off: Option<Check>,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// What must never be, if it was.
    pub failure: Option<String>,
    /// How often each thing worth knowing happened.
    pub counts: BTreeMap<String, u64>,
    /// Of the whole trace, printed or not.
    pub hash: u64,
}

/// Runs something on a clock and with randomness of the simulation's own.
pub fn alone<T>(seed: u64, future: impl Future<Output = T>) -> T {
    let _running = service::simulation::begin(Settings { seed, shrink: 1, shake: 0, off: None });
    runtime(seed).block_on(future)
}

fn runtime(seed: u64) -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .unwrap_or_else(|error| panic!("make a runtime: {error}"))
}

/// Runs a seed. The same seed gives the same trace, always.
pub fn run(seed: u64, options: Options) -> Outcome {
    let plan = Plan::of(seed);
    let Options { trace, off } = options;
    let _running = service::simulation::begin(Settings { seed, shrink: plan.shrink, shake: plan.shake, off });
    runtime(seed).block_on(async {
        let world = World::new(plan, trace);
        world.say(|| format!("{:?}", world.plan));
        let mut faults = Faults::new(&world);
        tokio::select! {
            biased;
            () = world.failed() => {}
            () = days(&world, &mut faults) => {}
        }
        if let Some(trouble) = service::simulation::trouble() {
            world.fail(trouble);
        }
        faults.count();
        faults.end().await;
        world.tasks.stop().await;
        Outcome { failure: world.failure(), counts: world.take_counts(), hash: world.hash() }
    })
}

/// Trouble, then peace, then judgement.
async fn days(world: &std::sync::Arc<World>, faults: &mut Faults) {
    faults.begin();
    let mut views = Vec::new();
    for number in 0..world.plan.clients {
        let client = Client::new(number, world);
        views.push(client.view.clone());
        world.tasks.spawn(client.run());
    }
    for number in 0..world.plan.publishers {
        world.tasks.spawn(publisher::run(world.clone(), number));
    }
    faults.run().await;
    faults.heal();
    if world.plan.last_words {
        // Some more publications meet a world that is well again.
        sleep(Duration::from_secs(2)).await;
    }
    world.settle();
    sleep(world.plan.settling()).await;
    // Some have much to catch up with.
    for _ in 0..MOST_WAITS {
        if views.iter().all(|view| lock(view).is_done()) {
            break;
        }
        sleep(WAIT).await;
    }
    faults.check();
    let mut members = 0;
    for view in &views {
        let view = lock(view);
        view.finish();
        members += view.rooms.values().filter(|seen| seen.member).count();
    }
    world.count_by("members in the end", members as u64);
    if let Err(wrong) = world.truth().record.check() {
        world.fail(&wrong);
    }
}

/// As [`run`]; a panic is a failure, too.
pub fn run_caught(seed: u64, options: Options) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let failure = Some(format!("panicked: {}", text.unwrap_or_default()));
        Outcome { failure, counts: BTreeMap::new(), hash: 0 }
    })
}
