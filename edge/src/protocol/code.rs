/// The error codes a client may meet (`PROTOCOL.md`, section 3, "Error codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadJson,
    BadMessage,
    BadRoom,
    BadRequest,
    UnknownType,
    NotAuthorized,
    NotJoined,
    TooManyRooms,
    TooManyConnections,
    MessageTooLarge,
    Cancelled,
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    OriginNotAllowed,
    RateLimited,
    AuthorizationUnavailable,
    Unavailable,
    Unknown,
    Draining,
    NotReady,
    Overloaded,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadMessage => "bad_message",
            Self::BadRoom => "bad_room",
            Self::BadRequest => "bad_request",
            Self::UnknownType => "unknown_type",
            Self::NotAuthorized => "not_authorized",
            Self::NotJoined => "not_joined",
            Self::TooManyRooms => "too_many_rooms",
            Self::TooManyConnections => "too_many_connections",
            Self::MessageTooLarge => "message_too_large",
            Self::Cancelled => "cancelled",
            Self::TokenMissing => "token_missing",
            Self::TokenInvalid => "token_invalid",
            Self::TokenExpired => "token_expired",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::RateLimited => "rate_limited",
            Self::AuthorizationUnavailable => "authorization_unavailable",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Draining => "draining",
            Self::NotReady => "not_ready",
            Self::Overloaded => "overloaded",
        }
    }

    /// When to repeat the request unchanged, in milliseconds; `None` for final errors.
    pub fn retry_ms(self) -> Option<u32> {
        match self {
            Self::RateLimited | Self::Unknown => Some(1000),
            Self::AuthorizationUnavailable | Self::Unavailable => Some(1500),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_errors_say_nothing_of_repeating_and_passing_ones_when() {
        use ErrorCode::*;
        for (code, word) in [
            (BadJson, "bad_json"),
            (BadMessage, "bad_message"),
            (UnknownType, "unknown_type"),
            (BadRoom, "bad_room"),
            (NotAuthorized, "not_authorized"),
            (NotJoined, "not_joined"),
            (TooManyRooms, "too_many_rooms"),
            (MessageTooLarge, "message_too_large"),
            (TokenMissing, "token_missing"),
            (TokenInvalid, "token_invalid"),
            (TokenExpired, "token_expired"),
            (TooManyConnections, "too_many_connections"),
            (Cancelled, "cancelled"),
        ] {
            assert_eq!((code.as_str(), code.retry_ms()), (word, None));
        }
        for (code, word) in [
            (RateLimited, "rate_limited"),
            (AuthorizationUnavailable, "authorization_unavailable"),
            (Unavailable, "unavailable"),
            (Unknown, "unknown"),
        ] {
            assert_eq!(code.as_str(), word);
            assert!(code.retry_ms().is_some_and(|ms| ms > 0), "{word}");
        }
    }
}
