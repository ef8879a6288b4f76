//! The simulation's own tests. Without `--cfg simulation` there are none: see the Makefile.
#![cfg(simulation)]

mod campaign;
mod seeds;
