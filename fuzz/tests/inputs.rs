//! Each target on its seeds, on what is kept in `corpus/`, and on thousands of inputs made from those by chance: the same
//! ones every time.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    cell::Cell,
    fs,
    panic::{catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
};

use fuzz::{Target, target};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

/// Longest input made: a read buffer and more.
const LONGEST: usize = 4096;

fn known(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut kept: Vec<_> = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    inputs.extend(kept.iter().map(|path| fs::read(path).unwrap()));
    inputs
}

thread_local! {
    /// Something panicked, in a task perhaps, where nobody sees it: all of a target's run on its test's thread.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

fn run(name: &str, changed: usize) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            hook(panic);
        }));
    });
    let target = target(name).unwrap();
    let known = known(&target);
    for input in &known {
        attempt(&target, input);
    }
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..changed {
        let mut input = known.choose(&mut rng).unwrap().clone();
        for _ in 0..rng.random_range(1..=4) {
            change(&mut input, &known, &mut rng);
        }
        input.truncate(LONGEST);
        attempt(&target, &input);
    }
}

/// One step away from an input.
fn change(input: &mut Vec<u8>, known: &[Vec<u8>], rng: &mut SmallRng) {
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = *[0, 1, 0x7e, 0x7f, 0x80, 0xff, b'"', b'{'].choose(rng).unwrap(),
        2 if at < input.len() => drop(input.remove(at)),
        3 => input.insert(at, rng.random()),
        4 => input.truncate(at),
        // The end of another one.
        _ => {
            let other = known.choose(rng).unwrap();
            input.truncate(at);
            input.extend(&other[rng.random_range(0..=other.len())..]);
        }
    }
}

fn attempt(target: &Target, input: &[u8]) {
    let result = catch_unwind(|| {
        (target.run)(input);
        assert!(!PANICKED.get(), "a task panicked");
    });
    if let Err(panic) = result {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("findings");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{}-found", target.name));
        fs::write(&path, input).unwrap();
        eprintln!("the input is in {}; once it is understood, keep it in corpus/{}", path.display(), target.name);
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn client() {
    run("client", 30_000);
}

#[test]
fn socket() {
    run("socket", 3_000);
}

#[test]
fn from_edge() {
    run("from_edge", 3_000);
}

#[test]
fn from_fanout() {
    run("from_fanout", 3_000);
}

#[test]
fn publish() {
    run("publish", 4_000);
}

#[test]
fn settings() {
    run("settings", 1_500);
}
