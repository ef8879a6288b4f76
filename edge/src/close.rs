//! Why a connection ends: close code, the word that goes with it, and the label of its metric, in one table
//! (`PROTOCOL.md`, section 3, "Close codes").

/// Why a connection ended, or is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed with this code; it is echoed (RFC 6455, section 5.5.1).
    Peer(u16),
    Binary,
    BadUtf8,
    MessageTooLarge,
    /// The peer broke RFC 6455.
    ProtocolError,
    Internal,
    Restarting,
    TokenExpired,
    TokenInvalid,
    /// By a backend.
    Removed,
    SlowConsumer,
    PingTimeout,
    TooManyErrors,
    TooManyConnections,
    RateLimited,
    /// The connection broke: there is nobody to send a close frame to.
    Gone,
    /// A write made no progress for `WRITE_WAIT`: nor is there here.
    WriteTimeout,
}

impl CloseReason {
    /// The code and word of the close frame; `None` when there is nobody to send it to.
    pub fn frame(self) -> Option<(u16, &'static str)> {
        let code = match self {
            Self::Peer(code) => return Some((code, "")),
            Self::ProtocolError => 1002,
            Self::Binary => 1003,
            Self::BadUtf8 => 1007,
            Self::MessageTooLarge => 1009,
            Self::TooManyErrors => 1008,
            Self::Internal => 1011,
            Self::Restarting => 1012,
            Self::TokenExpired => 4001,
            Self::TokenInvalid => 4002,
            Self::Removed => 4003,
            Self::SlowConsumer => 4008,
            Self::PingTimeout => 4009,
            Self::TooManyConnections => 4013,
            Self::RateLimited => 4029,
            Self::Gone | Self::WriteTimeout => return None,
        };
        Some((code, self.label()))
    }

    /// Whether what the peer sends from here on has no frames to be found.
    pub fn is_of_the_stream(self) -> bool {
        matches!(self, Self::ProtocolError | Self::MessageTooLarge | Self::BadUtf8)
    }

    /// The word of the close frame, and the label of the metric and the log line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Peer(_) => "peer",
            Self::Binary => "binary",
            Self::BadUtf8 => "bad_utf8",
            Self::MessageTooLarge => "message_too_large",
            Self::ProtocolError => "protocol_error",
            Self::Internal => "internal",
            Self::Restarting => "restarting",
            Self::TokenExpired => "token_expired",
            Self::TokenInvalid => "token_invalid",
            Self::Removed => "removed",
            Self::SlowConsumer => "slow_consumer",
            Self::PingTimeout => "ping_timeout",
            Self::TooManyErrors => "too_many_errors",
            Self::TooManyConnections => "too_many_connections",
            Self::RateLimited => "rate_limited",
            Self::Gone => "gone",
            Self::WriteTimeout => "write_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_those_of_the_contract() {
        let table = [
            (CloseReason::Binary, 1003, "binary"),
            (CloseReason::BadUtf8, 1007, "bad_utf8"),
            (CloseReason::MessageTooLarge, 1009, "message_too_large"),
            (CloseReason::TooManyErrors, 1008, "too_many_errors"),
            (CloseReason::TooManyConnections, 4013, "too_many_connections"),
            (CloseReason::RateLimited, 4029, "rate_limited"),
            (CloseReason::Internal, 1011, "internal"),
            (CloseReason::Restarting, 1012, "restarting"),
            (CloseReason::TokenExpired, 4001, "token_expired"),
            (CloseReason::TokenInvalid, 4002, "token_invalid"),
            (CloseReason::Removed, 4003, "removed"),
            (CloseReason::SlowConsumer, 4008, "slow_consumer"),
            (CloseReason::PingTimeout, 4009, "ping_timeout"),
        ];
        for (reason, code, word) in table {
            assert_eq!(reason.frame(), Some((code, word)));
        }
        assert_eq!(CloseReason::Peer(1000).frame(), Some((1000, "")));
        assert_eq!(CloseReason::Gone.frame(), None);
    }
}
