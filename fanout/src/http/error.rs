//! Errors of the JSON API: `{"type":"error","payload":{"code","error"}}`, with codes of the client protocol.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    auth::Refused,
    broker::{ReadError, StoreError},
    defaults::{RETRY_AFTER, STATUS_STREAMS},
    publishing::PublishError,
};

#[derive(Debug)]
pub(super) struct HttpError {
    status: StatusCode,
    code: &'static str,
    error: String,
}

impl HttpError {
    fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> Self {
        Self { status, code, error: error.into() }
    }

    /// The metric label.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn bad_request(error: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_message", error)
    }

    /// A segment that is no UTF-8 once decoded.
    pub(super) fn bad_path() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_room", "a room's name is UTF-8, percent-encoded")
    }

    /// `wanted`: what it should look like.
    pub(super) fn bad_json(error: &serde_json::Error, wanted: &str) -> Self {
        let code = if error.is_data() { "bad_message" } else { "bad_json" };
        Self::new(StatusCode::BAD_REQUEST, code, format!("not {wanted}: {error}"))
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "bad_message", "not with this method")
    }

    pub(super) fn strange_page() -> Self {
        let error = "a node without API_KEYS takes nothing from pages of others";
        Self::new(StatusCode::FORBIDDEN, "origin_not_allowed", error)
    }

    pub(super) fn too_many_streams() -> Self {
        let error = format!("{STATUS_STREAMS} streams of the status are open at this node: no more at a time");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", error)
    }
}

impl From<Refused> for HttpError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused {
            Refused::Missing => (StatusCode::UNAUTHORIZED, "token_missing"),
            Refused::Unknown => (StatusCode::UNAUTHORIZED, "token_invalid"),
            Refused::ReadOnly => (StatusCode::FORBIDDEN, "not_authorized"),
        };
        Self::new(status, code, refused.to_string())
    }
}

impl From<PublishError> for HttpError {
    fn from(error: PublishError) -> Self {
        let (status, code) = match error {
            PublishError::Room(_) => (StatusCode::BAD_REQUEST, "bad_room"),
            PublishError::Body => (StatusCode::BAD_REQUEST, "bad_json"),
            PublishError::Key(_) | PublishError::From | PublishError::Unless | PublishError::User => {
                (StatusCode::BAD_REQUEST, "bad_message")
            }
            PublishError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "message_too_large"),
            PublishError::Store(StoreError::Busy) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            PublishError::Store(StoreError::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            PublishError::Store(StoreError::Unknown) => (StatusCode::GATEWAY_TIMEOUT, "unknown"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ReadError> for HttpError {
    fn from(error: ReadError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let passing = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let body = Json(json!({"type": "error", "payload": {"code": self.code, "error": self.error}}));
        let mut response = (self.status, body).into_response();
        if passing {
            // In whole seconds, as HTTP has it.
            let seconds = RETRY_AFTER.as_millis().div_ceil(1000);
            let value = HeaderValue::from_str(&seconds.to_string()).unwrap_or(HeaderValue::from_static("1"));
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}
