use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

use crate::protocol::{ErrorCode, ServerMessage};

/// Why a socket is refused before the upgrade (`PROTOCOL.md`, section 1, the table).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) text: &'static str,
}

/// When to come back, in seconds: long enough for a deploy to move on, short enough not to be noticed.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

impl Refusal {
    pub(super) const DRAINING: Self =
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Draining, "this edge is about to stop");
    pub(super) const NOT_READY: Self =
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, "this edge has not reached a fanout node yet");
    pub(super) const OVERLOADED: Self =
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, "this edge takes no more sockets");
    pub(super) const ORIGIN: Self =
        Self::new(StatusCode::FORBIDDEN, ErrorCode::OriginNotAllowed, "pages of this origin may not connect");
    pub(super) const TOKEN_MISSING: Self =
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::TokenMissing, "a token is needed");
    pub(super) const TOKEN_INVALID: Self =
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::TokenInvalid, "the token is not valid");
    pub(super) const TOKEN_EXPIRED: Self =
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::TokenExpired, "the token has expired");
    pub(super) const TOO_MANY_CONNECTIONS: Self =
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyConnections, "this user has too many connections");
    pub(super) const VERSION: Self =
        Self::new(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, "only version 13 of WebSocket is spoken here");

    pub(super) const fn bad_request(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text)
    }

    const fn new(status: StatusCode, code: ErrorCode, text: &'static str) -> Self {
        Self { status, code, text }
    }

    pub(super) fn response(&self) -> Response {
        let body = ServerMessage::error(None, self.code, self.text, None).json();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_S);
            }
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
