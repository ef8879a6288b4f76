//! Fuzz targets. Each takes bytes, makes something hostile of them, and panics if what must hold does not.
//!
//! - [`client`]: one text message of a client, as the edge parses it.
//! - [`socket`]: what a client sends on its socket, in pieces, through the edge's pumps; a plain reading of RFC 6455
//!   says what must come back.
//! - [`settings`]: flags of both tiers, and the values of settings.
//!
//! `cargo test -p fuzz` runs the kept inputs (`corpus/`) and some thousands of changed ones.

pub mod client;
mod input;
pub mod settings;
pub mod socket;

use std::fmt;

/// A target by its name, with inputs to begin from.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

pub const TARGETS: [Target; 3] = [
    Target { name: "client", run: client::run, seeds: client::seeds },
    Target { name: "socket", run: socket::run, seeds: socket::seeds },
    Target { name: "settings", run: settings::run, seeds: settings::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
