use prost::encoding::decode_varint;

/// What is read of an encoded [`Entry`](crate::wire::Entry) without decoding it, by those that only pass it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// When it was taken in, in Unix milliseconds.
    pub ts_ms: i64,
    /// W3C trace context; empty if it is not traced.
    pub traceparent: &'a str,
}

impl<'a> Stamp<'a> {
    /// None if it is no entry.
    pub fn of(mut entry: &'a [u8]) -> Option<Self> {
        let mut stamp = Self { ts_ms: 0, traceparent: "" };
        while !entry.is_empty() {
            let tag = decode_varint(&mut entry).ok()?;
            // A field's number and how its value is written.
            match (tag >> 3, tag & 7) {
                (2, 0) => stamp.ts_ms = decode_varint(&mut entry).ok()?.cast_signed(),
                (_, 0) => drop(decode_varint(&mut entry).ok()?),
                (number, 2) => {
                    let bytes = take(&mut entry, decode_varint)?;
                    if number == 5 {
                        stamp.traceparent = std::str::from_utf8(bytes).ok()?;
                    }
                }
                (_, 1) => drop(take(&mut entry, |_| Ok(8))?),
                (_, 5) => drop(take(&mut entry, |_| Ok(4))?),
                _ => return None,
            }
        }
        Some(stamp)
    }
}

/// The next bytes, as many as `length` says.
fn take<'a>(
    entry: &mut &'a [u8],
    length: impl FnOnce(&mut &'a [u8]) -> Result<u64, prost::DecodeError>,
) -> Option<&'a [u8]> {
    let length = usize::try_from(length(entry).ok()?).ok()?;
    let (bytes, rest) = entry.split_at_checked(length)?;
    *entry = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::wire::Entry;

    proptest! {
        #[test]
        fn it_reads_what_decoding_reads(
            from in ".{0,20}", ts_ms in any::<i64>(), body in prop::collection::vec(any::<u8>(), 0..200), key in ".{0,20}",
            traceparent in "[0-9a-f-]{0,60}",
        ) {
            let entry = Entry { from, ts_ms, body: body.into(), key, traceparent };
            let bytes = entry.encode_to_vec();
            prop_assert_eq!(Stamp::of(&bytes), Some(Stamp { ts_ms, traceparent: &entry.traceparent }));
        }

        #[test]
        fn bytes_that_are_no_entry_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entry) = Entry::decode(&bytes[..]) {
                // Decoding is stricter, as to the other fields.
                prop_assert_eq!(Stamp::of(&bytes).map(|stamp| stamp.ts_ms), Some(entry.ts_ms));
            } else {
                let _ = Stamp::of(&bytes);
            }
        }
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let mut bytes = Entry { ts_ms: 7, traceparent: "t".into(), ..Entry::default() }.encode_to_vec();
        // Number 9 as a varint, 10 as eight bytes, 11 as four, 12 with a length.
        bytes.extend([0x48, 0x96, 0x01, 0x51, 1, 2, 3, 4, 5, 6, 7, 8, 0x5d, 1, 2, 3, 4, 0x62, 2, 1, 2]);
        assert_eq!(Stamp::of(&bytes), Some(Stamp { ts_ms: 7, traceparent: "t" }));
        assert_eq!(Stamp::of(&bytes[..bytes.len() - 1]), None);
    }
}
