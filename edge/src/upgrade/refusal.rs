use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

use crate::protocol::{ErrorCode, ServerMessage, server};

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
    pub(super) const NO_KEYS: Self = Self::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::NotReady,
        "this edge cannot get the key that the token names",
    );
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
    pub(super) const ADDRESS_RATE: Self =
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, "too many new sockets from this address");
    pub(super) const VERSION: Self =
        Self::new(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, "only version 13 of WebSocket is spoken here");

    pub(super) const fn bad_request(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, text)
    }

    const fn new(status: StatusCode, code: ErrorCode, text: &'static str) -> Self {
        Self { status, code, text }
    }

    pub(super) fn response(&self) -> Response {
        // When to come back is in a header.
        let payload = server::Error { code: self.code.as_str(), error: self.text, room: None, retry_ms: None };
        let body = ServerMessage::Error { id: None, payload }.json();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_refusal_has_its_headers_and_its_body() {
        for (refusal, status, code, retry_after) in [
            (Refusal::bad_request("why"), 400, "bad_request", false),
            (Refusal::VERSION, 426, "bad_request", false),
            (Refusal::TOKEN_MISSING, 401, "token_missing", false),
            (Refusal::TOKEN_INVALID, 401, "token_invalid", false),
            (Refusal::TOKEN_EXPIRED, 401, "token_expired", false),
            (Refusal::ORIGIN, 403, "origin_not_allowed", false),
            (Refusal::TOO_MANY_CONNECTIONS, 429, "too_many_connections", true),
            (Refusal::ADDRESS_RATE, 429, "rate_limited", true),
            (Refusal::DRAINING, 503, "draining", true),
            (Refusal::NOT_READY, 503, "not_ready", true),
            (Refusal::NO_KEYS, 503, "not_ready", true),
            (Refusal::OVERLOADED, 503, "overloaded", true),
        ] {
            let response = refusal.response();
            assert_eq!(response.status(), status, "{code}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
            let after = response.headers().get(header::RETRY_AFTER).map(|after| after.to_str().unwrap().parse::<u32>());
            assert_eq!(after.is_some_and(|after| after.is_ok_and(|after| after > 0)), retry_after, "{code}");
            let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let expected = serde_json::json!({"type": "error", "payload": {"code": code, "error": refusal.text}});
            assert_eq!(body, expected);
        }
        assert_eq!(Refusal::VERSION.response().headers()[header::SEC_WEBSOCKET_VERSION], "13");
    }
}
