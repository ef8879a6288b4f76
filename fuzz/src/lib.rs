//! Fuzz targets. Each takes bytes, makes something hostile of them, and panics if what must hold does not.
//!
//! - [`client`]: one text message of a client, as the edge parses it.
//! - [`socket`]: what a client sends on its socket, in pieces, through the edge's pumps; a plain reading of RFC 6455
//!   says what must come back.
//! - [`from_edge`], [`from_fanout`]: messages of a link, in each direction.
//! - [`publish`]: what a backend publishes, over HTTP and gRPC.
//! - [`settings`]: flags of both tiers, and the values of settings.
//!
//! `cargo test -p fuzz` runs the kept inputs (`corpus/`) and some thousands of changed ones; `make fuzz` runs libFuzzer.

pub mod client;
pub mod from_edge;
pub mod from_fanout;
mod input;
mod link;
mod names;
mod node;
pub mod publish;
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

pub const TARGETS: [Target; 6] = [
    Target { name: "client", run: client::run, seeds: client::seeds },
    Target { name: "socket", run: socket::run, seeds: socket::seeds },
    Target { name: "from_edge", run: from_edge::run, seeds: from_edge::seeds },
    Target { name: "from_fanout", run: from_fanout::run, seeds: from_fanout::seeds },
    Target { name: "publish", run: publish::run, seeds: publish::seeds },
    Target { name: "settings", run: settings::run, seeds: settings::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
