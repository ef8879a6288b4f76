//! The gRPC services: links for edges, the publish API for backends.

pub(crate) mod attach;
pub(crate) mod door;
mod outbound;
pub(crate) mod publish;
pub(crate) mod status;
