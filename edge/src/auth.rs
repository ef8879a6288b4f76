//! Who a client is, and which pages may open sockets.
//!
//! - `jwt`: tokens signed with a shared secret.
//! - `claims`, `user`: what a token says, checked, in the small form that a connection keeps.
//! - `origin`: the pages of other sites that are let in.
//!
//! Keys from a JWKS URL get a module of their own beside `jwt`.

mod claims;
mod jwt;
mod origin;
mod user;

pub use claims::{Claims, RoomClaims};
pub use jwt::{TokenError, Verifier};
pub use origin::Origins;
pub use user::{UserError, UserId};
