//! What both processes need around what they do.
//!
//! - [`lifecycle`]: every task is tracked; two-stage shutdown; signals to exit code.
//! - [`accept`]: listening sockets and the HTTP/1.1 accept loop, bounded in head size and time.
//! - [`tls`], [`socket`]: certificates that are renewed while in use; a connection, with TLS or without.
//! - [`ops`]: `/livez`, `/readyz`, `/metrics`.
//! - [`settings`]: durations, sizes, rates, secrets; one clear line for a bad one.
//! - [`invocation`], [`healthcheck`]: what the command line asks for besides serving.
//! - [`watch`]: secrets whose files are watched for changes.
//! - [`telemetry`]: logs as text or JSON; [`latency`]: histograms of the stages.
//! - [`traces`]: spans of publications, by OTLP.
//! - [`backoff`], [`clock`], [`files`]: full-jitter retry delays, wall time as a value, the limit of open files.
//! - `seldom`: log lines that come by the thousand, thinned out.
//! - `random`, `limit`, `simulation`: randomness and fixed limits, and how a simulation sets them.

pub mod accept;
pub mod backoff;
pub mod clock;
pub mod files;
pub mod healthcheck;
pub mod invocation;
pub mod latency;
pub mod lifecycle;
mod limit;
pub mod memory;
pub mod ops;
mod random;
mod seldom;
pub mod settings;
#[cfg(simulation)]
pub mod simulation;
pub mod socket;
pub mod telemetry;
pub mod tls;
pub mod traces;
pub mod watch;

pub use backoff::Backoff;
pub use clock::Clock;
pub use lifecycle::Lifecycle;
pub use limit::limit;
pub use random::{RandomState, rng};
pub use seldom::Seldom;
pub use socket::Socket;
