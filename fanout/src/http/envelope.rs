//! Publications as clients see them. Bodies go out as the bytes they came in.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use proto::wire::Publication;

use crate::{broker::Page, publishing::publications};

/// `{"epoch","seq","complete","publications":[envelopes]}`.
pub(super) fn history(room: &str, page: &Page) -> Response {
    let mut text = String::with_capacity(256 + page.entries.iter().map(|entry| entry.len() + 128).sum::<usize>());
    let epoch = quoted(&page.position.epoch);
    let _ =
        write!(text, r#"{{"epoch":{epoch},"seq":{},"complete":{},"publications":["#, page.position.seq, page.complete);
    let name = quoted(room);
    for (index, publication) in publications(page).enumerate() {
        if index > 0 {
            text.push(',');
        }
        // The epoch is on the first publication of one.
        let epoch = (publication.seq == 1).then_some(epoch.as_str());
        envelope(&mut text, &name, epoch, &publication);
    }
    text.push_str("]}");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn envelope(text: &mut String, room: &str, epoch: Option<&str>, publication: &Publication) {
    let Publication { seq, from, ts_ms, body, key } = publication;
    let from = quoted(from);
    let _ = write!(text, r#"{{"type":"message","room":{room},"seq":{seq},"from":{from},"ts":"{}""#, timestamp(*ts_ms));
    if !key.is_empty() {
        let _ = write!(text, r#","key":{}"#, quoted(key));
    }
    if let Some(epoch) = epoch {
        let _ = write!(text, r#","epoch":{epoch}"#);
    }
    // It was checked to be JSON, and so UTF-8, when it was published.
    let body = std::str::from_utf8(body).ok().filter(|body| !body.is_empty()).unwrap_or("null");
    let _ = write!(text, r#","body":{body}}}"#);
}

/// RFC 3339, UTC, milliseconds.
fn timestamp(ts_ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ts_ms).unwrap_or(0));
    // The year 9999 is as far as the format goes.
    let time = UNIX_EPOCH.checked_add(since.min(Duration::from_secs(253_402_300_799))).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_envelope_keeps_the_bytes_of_its_body() {
        let body = Bytes::from_static(r#"{"a":1.0,"a":12345678901234567890,"b":"\u00e9🦀"}"#.as_bytes());
        let publication =
            Publication { seq: 1, from: "@\"x\"".into(), ts_ms: 1_795_480_000_123, body, key: "k".into() };
        let mut text = String::new();
        envelope(&mut text, "\"r\"", Some("\"1-a\""), &publication);
        let expected = concat!(
            r#"{"type":"message","room":"r","seq":1,"from":"@\"x\"","ts":"2026-11-24T00:26:40.123Z","key":"k","#,
            r#""epoch":"1-a","body":{"a":1.0,"a":12345678901234567890,"b":"\u00e9🦀"}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(timestamp(i64::MAX), "9999-12-31T23:59:59.000Z");
        assert_eq!(timestamp(-1), "1970-01-01T00:00:00.000Z");
    }
}
