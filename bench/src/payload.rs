//! What is published: 128 bytes of JSON, which say when they were sent and as which publication of their room.

/// Length of a body, in bytes; the budgets were measured with it.
pub(crate) const BODY_BYTES: usize = 128;

/// When it was sent, in nanoseconds of the generator's clock, and its number in its room, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) sent_ns: u64,
    pub(crate) number: u64,
}

impl Stamp {
    /// A JSON string of [`BODY_BYTES`].
    pub(crate) fn body(self) -> String {
        let Self { sent_ns, number } = self;
        let filler = BODY_BYTES - 34;
        format!("\"{sent_ns:016x}{number:016x}{:x<filler$}\"", "")
    }

    /// From the text of a frame: an envelope, or the bare body that the floor sends. None for any other message.
    pub(crate) fn find(text: &[u8]) -> Option<Self> {
        const FIELD: &[u8] = b"\"body\":\"";
        let at = if text.first() == Some(&b'"') {
            1
        } else if text.starts_with(b"{\"type\":\"message\"") {
            text.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len()
        } else {
            return None;
        };
        let digits = str::from_utf8(text.get(at..at + 32)?).ok()?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        Some(Self { sent_ns: number(&digits[..16])?, number: number(&digits[16..])? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_what_it_was_put_into() {
        let stamp = Stamp { sent_ns: 0x1234_5678_9abc, number: 77 };
        let body = stamp.body();
        assert_eq!(body.len(), BODY_BYTES);
        assert_eq!(Stamp::find(body.as_bytes()), Some(stamp));
        let envelope = format!(r#"{{"type":"message","room":"r","seq":78,"from":"@local","body":{body}}}"#);
        assert_eq!(Stamp::find(envelope.as_bytes()), Some(stamp));
        assert_eq!(Stamp::find(br#"{"type":"ping"}"#), None);
    }
}
