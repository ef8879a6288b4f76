//! Domain error → what a peer is told: the only place that makes a gRPC status.

use http::HeaderValue;
use proto::wire::{LinkError, LinkErrorCode};
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    attachments::End,
    auth::Refused,
    broker::{ReadError, StoreError},
    defaults::RETRY_AFTER,
    publishing::PublishError,
};

/// Trailer of what is certainly not stored.
const STORED: &str = "realtime-stored";

/// Trailer with the milliseconds after which to come back, which gRPC clients with a retry policy heed.
const RETRY: &str = "grpc-retry-pushback-ms";

pub(crate) fn retry_ms() -> u32 {
    u32::try_from(RETRY_AFTER.as_millis()).unwrap_or(u32::MAX)
}

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Store(error) => error.into(),
            error => Self::invalid_argument(error.to_string()),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Busy => Code::ResourceExhausted,
            StoreError::Unavailable => Code::Unavailable,
            StoreError::Unknown => Code::Unknown,
        };
        let mut status = Self::new(code, error.to_string());
        if error != StoreError::Unknown {
            status.metadata_mut().insert(STORED, MetadataValue::from_static("no"));
            status.metadata_mut().insert(RETRY, MetadataValue::from(retry_ms()));
        }
        status
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Missing | Refused::Unknown => Code::Unauthenticated,
            Refused::ReadOnly => Code::PermissionDenied,
        };
        Self::new(code, refused.to_string())
    }
}

pub(crate) fn invalid(reason: impl Into<String>) -> Status {
    Status::invalid_argument(reason)
}

pub(crate) fn bad_link_token() -> Status {
    Status::unauthenticated("no valid link token: LINK_TOKEN of edge and fanout differ")
}

/// What was not answered was not taken either.
pub(crate) fn draining() -> Status {
    let mut status = Status::unavailable("the node drains");
    status.metadata_mut().insert(STORED, MetadataValue::from_static("no"));
    status
}

/// What reading a stream of requests ended with. A request larger than any that could be taken is the caller's mistake,
/// as one that is a little too large.
pub(crate) fn of_requests(status: Status) -> Status {
    if status.code() == Code::OutOfRange { Status::invalid_argument(status.message()) } else { status }
}

/// The code that a call is answered with, as far as its head tells: that of a stream comes at its end. What tonic refused
/// before we saw it gets the code that is ours for it.
pub(crate) fn of_answer(head: &mut http::HeaderMap) -> Code {
    let code = head.get(Status::GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
    if code != Code::OutOfRange {
        return code;
    }
    head.insert(Status::GRPC_STATUS, HeaderValue::from_static("3"));
    Code::InvalidArgument
}

impl From<End> for Status {
    fn from(end: End) -> Self {
        match end {
            End::Silent => Self::deadline_exceeded("the edge was silent for too long"),
            End::Protocol(what) => Self::failed_precondition(what),
            End::Overrun => Self::resource_exhausted("the edge asks on without reading the answers"),
            End::Stopping => Self::unavailable("the node stops"),
        }
    }
}

/// The metric label of a status.
pub(crate) fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        Code::Unknown => "unknown",
        Code::Unimplemented => "unimplemented",
        _ => "other",
    }
}

/// The same for an edge.
pub(crate) fn link_error(error: PublishError) -> LinkError {
    let (code, retry_ms) = match error {
        PublishError::TooLarge(_) => (LinkErrorCode::TooLarge, 0),
        PublishError::Store(StoreError::Busy) => (LinkErrorCode::Busy, retry_ms()),
        PublishError::Store(StoreError::Unavailable) => (LinkErrorCode::Unavailable, retry_ms()),
        PublishError::Store(StoreError::Unknown) => (LinkErrorCode::Unknown, retry_ms()),
        _ => (LinkErrorCode::Invalid, 0),
    };
    LinkError { code: code.into(), message: error.to_string(), retry_ms }
}

pub(crate) fn link_read_error(_: ReadError) -> LinkError {
    LinkError { code: LinkErrorCode::Unavailable.into(), message: ReadError.to_string(), retry_ms: retry_ms() }
}

pub(crate) fn link_busy() -> LinkError {
    link_error(PublishError::Store(StoreError::Busy))
}

pub(crate) fn link_invalid(message: impl Into<String>) -> LinkError {
    LinkError { code: LinkErrorCode::Invalid.into(), message: message.into(), retry_ms: 0 }
}

/// `authorization` of a call's metadata.
pub(crate) fn authorization(metadata: &tonic::metadata::MetadataMap) -> Option<&[u8]> {
    metadata.get("authorization").map(MetadataValue::as_encoded_bytes)
}
