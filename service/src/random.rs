//! Randomness, in one place, so that a simulation can have it from a seed.

#[cfg(not(simulation))]
pub use ahash::RandomState;

#[cfg(simulation)]
pub use crate::simulation::{RandomState, rng};

/// Where all that is drawn at random comes from.
#[cfg(not(simulation))]
pub fn rng() -> impl rand::Rng {
    rand::rng()
}
