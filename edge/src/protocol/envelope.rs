use std::fmt::Write as _;

use bytes::Bytes;
use proto::wire::Entry;
use serde::Serialize;

use super::frame;

/// A publication as clients see it (`PROTOCOL.md`, section 3, `message`).
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    pub room: &'a str,
    pub seq: u64,
    /// Given on the first publication of an epoch, so that a member of a room that was empty learns it.
    pub epoch: Option<&'a str>,
    pub entry: &'a Entry,
}

impl Envelope<'_> {
    /// The WebSocket frame that all members share. The body goes in as it is, unparsed.
    pub fn frame(&self) -> Bytes {
        let Self { room, seq, epoch, entry } = *self;
        let hint = 160 + room.len() + entry.from.len() + entry.key.len() + entry.body.len();
        frame::text_with(hint, |buffer| {
            buffer.extend_from_slice(b"{\"type\":\"message\",\"room\":");
            string(buffer, room);
            raw(buffer, format_args!(",\"seq\":{seq},\"from\":"));
            string(buffer, &entry.from);
            let ts = humantime::format_rfc3339_millis(time_of(entry.ts_ms));
            raw(buffer, format_args!(",\"ts\":\"{ts}\""));
            if !entry.key.is_empty() {
                buffer.extend_from_slice(b",\"key\":");
                string(buffer, &entry.key);
            }
            if let Some(epoch) = epoch {
                buffer.extend_from_slice(b",\"epoch\":");
                string(buffer, epoch);
            }
            buffer.extend_from_slice(b",\"body\":");
            buffer.extend_from_slice(&entry.body);
            buffer.push(b'}');
        })
    }
}

/// Times before 1970, which no broker makes, count as 1970.
fn time_of(ts_ms: i64) -> std::time::SystemTime {
    // The year 9999 is where RFC 3339 ends.
    const LAST_MS: u64 = 253_402_300_799_999;
    let ms = u64::try_from(ts_ms).unwrap_or(0).min(LAST_MS);
    std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)
}

fn string(buffer: &mut Vec<u8>, value: &str) {
    // Writing a string to memory cannot fail.
    let _ = value.serialize(&mut serde_json::Serializer::new(buffer));
}

fn raw(buffer: &mut Vec<u8>, value: std::fmt::Arguments<'_>) {
    struct Utf8<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Utf8<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let _ = Utf8(buffer).write_fmt(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_support;

    fn entry(from: &str, key: &str, body: &str) -> Entry {
        let (from, key) = (from.to_owned(), key.to_owned());
        let body = Bytes::copy_from_slice(body.as_bytes());
        Entry { from, ts_ms: 1_795_485_824_123, body, key, traceparent: String::new() }
    }

    #[test]
    fn the_envelope_of_the_page() {
        let entry = entry("7", "c0ffee-1", r#"{"status":"shipped"}"#);
        let frame = Envelope { room: "order-42", seq: 18, epoch: None, entry: &entry }.frame();
        assert_eq!(
            std::str::from_utf8(&frame[4..]).unwrap(),
            r#"{"type":"message","room":"order-42","seq":18,"from":"7","ts":"2026-11-24T02:03:44.123Z","key":"c0ffee-1","body":{"status":"shipped"}}"#
        );
    }

    proptest! {
        #[test]
        fn any_strings_make_valid_json(room in ".{1,50}", from in ".{0,20}", key in ".{0,20}", epoch in prop::option::of(".{1,20}"), ts in any::<i64>()) {
            let mut entry = entry(&from, &key, "[1.0, 1.0]");
            entry.ts_ms = ts;
            let frame = Envelope { room: &room, seq: 1, epoch: epoch.as_deref(), entry: &entry }.frame();
            let json = test_support::json_of(&frame);
            prop_assert_eq!(json["room"].as_str(), Some(&*room));
            prop_assert_eq!(json["from"].as_str(), Some(&*from));
            prop_assert_eq!(json["epoch"].as_str(), epoch.as_deref());
            prop_assert_eq!(json["key"].as_str().unwrap_or_default(), &*key);
        }
    }
}
