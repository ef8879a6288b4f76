//! Limits that are no settings, in one place, so that a simulation can have them small.

/// The limit, in the unit of whoever asks.
#[cfg(not(simulation))]
pub const fn limit(full: usize) -> usize {
    full
}

#[cfg(simulation)]
pub use crate::simulation::limit;
