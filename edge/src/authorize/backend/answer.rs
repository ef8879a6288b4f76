use http::StatusCode;
use serde::Deserialize;

/// What the backend said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes { publish: bool },
    No,
}

/// What a status says before the body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    ReadBody,
    No,
    /// The backend, or something before it, is in no state to say.
    Unanswered,
}

pub(super) fn verdict(status: StatusCode) -> Verdict {
    match status {
        StatusCode::OK => Verdict::ReadBody,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Verdict::Unanswered,
        status if status.is_success() || status.is_client_error() => Verdict::No,
        _ => Verdict::Unanswered,
    }
}

/// Reads the body of a 200; `None` when it is not the JSON agreed on. Unknown fields are none of our business.
pub(super) fn parse(body: &[u8]) -> Option<Answer> {
    #[derive(Deserialize)]
    struct Body {
        allowed: bool,
        #[serde(default = "yes")]
        publish: bool,
    }
    fn yes() -> bool {
        true
    }
    // A derived `Deserialize` takes arrays, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let Body { allowed, publish } = serde_json::from_slice(body).ok()?;
    Some(if allowed { Answer::Yes { publish } } else { Answer::No })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_speak_first() {
        for (code, expected) in [
            (200, Verdict::ReadBody),
            (201, Verdict::No),
            (204, Verdict::No),
            (400, Verdict::No),
            (401, Verdict::No),
            (403, Verdict::No),
            (404, Verdict::No),
            (408, Verdict::Unanswered),
            (429, Verdict::Unanswered),
            (301, Verdict::Unanswered),
            (304, Verdict::Unanswered),
            (500, Verdict::Unanswered),
            (503, Verdict::Unanswered),
            (600, Verdict::Unanswered),
        ] {
            assert_eq!(verdict(StatusCode::from_u16(code).unwrap()), expected, "{code}");
        }
    }

    #[test]
    fn only_the_json_agreed_on_is_an_answer() {
        assert_eq!(parse(br#"{"allowed":true}"#), Some(Answer::Yes { publish: true }));
        assert_eq!(parse(br#"{"allowed":true,"publish":true,"x":[1]}"#), Some(Answer::Yes { publish: true }));
        assert_eq!(parse(br#" {"publish":false,"allowed":true} "#), Some(Answer::Yes { publish: false }));
        assert_eq!(parse(br#"{"allowed":false}"#), Some(Answer::No));
        assert_eq!(parse(br#"{"allowed":false,"publish":true}"#), Some(Answer::No));
        for odd in [
            "",
            "true",
            "{}",
            "[true]",
            "null",
            r#"{"allowed":"true"}"#,
            r#"{"allowed":1}"#,
            r#"{"allowed":null}"#,
            r#"{"Allowed":true}"#,
            r#"{"allowed":true,"publish":"no"}"#,
            r#"{"allowed":true,"publish":null}"#,
            r#"{"allowed":true,"allowed":false}"#,
            r#"{"allowed":true}{"#,
            r#"{"allowed":true"#,
            "<html>",
        ] {
            assert_eq!(parse(odd.as_bytes()), None, "{odd}");
        }
    }
}
