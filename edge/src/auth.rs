//! Who a client is, and which pages may open sockets.
//!
//! - `jwt`: tokens, checked against shared secrets or an issuer's keys.
//! - `jwks`: those keys, as the issuer's document has them.
//! - `claims`, `user`: what a token says, checked, in the small form that a connection keeps.
//! - `origin`: the pages of other sites that are let in.

mod claims;
pub(crate) mod jwks;
mod jwt;
mod origin;
mod user;

pub use claims::{Claims, RoomClaims};
pub use jwks::{DocumentError, IssuerKeys};
pub use jwt::{TokenError, Verifier};
pub use origin::Origins;
pub use user::{UserError, UserId};
