/// Follows the frames in what a client sends (RFC 6455, section 5.2), to know when it is between two messages. Whether
/// they are valid is for others to say.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    header: [u8; MAX_HEADER],
    /// Bytes of the header that are there.
    have: u8,
    /// Bytes of the frame that are still to come behind its header.
    left: u64,
    /// Fragments of a message came, and its last one did not.
    fragmented: bool,
    closed: bool,
}

/// Flags and opcode, length; the mask is counted with the payload.
const MAX_HEADER: usize = 10;

impl Boundary {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= count as u64;
                bytes = &bytes[count..];
                continue;
            }
            self.header[usize::from(self.have)] = *first;
            self.have += 1;
            bytes = rest;
            if let Some(left) = self.behind_header() {
                self.begin(left);
            }
        }
    }

    /// Whether nothing is open: neither a frame nor a message, and no close.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.fragmented && !self.closed
    }

    /// What follows the header, once that is whole.
    fn behind_header(&self) -> Option<u64> {
        let payload = match &self.header[..usize::from(self.have)] {
            [_, length] if length & 0x7f < 126 => u64::from(length & 0x7f),
            [_, length, high, low] if length & 0x7f == 126 => u64::from(u16::from_be_bytes([*high, *low])),
            [_, _, rest @ ..] => u64::from_be_bytes(*rest.first_chunk()?),
            _ => return None,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        Some(payload.saturating_add(mask))
    }

    fn begin(&mut self, left: u64) {
        let (last, opcode) = (self.header[0] & 0x80 != 0, self.header[0] & 0x0f);
        (self.have, self.left) = (0, left);
        match opcode {
            0..8 => self.fragmented = !last,
            8 => self.closed = true,
            // A ping or a pong may come between two fragments.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(0x80 + 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0x80 + 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0xff, length + 4));
        frame
    }

    /// After how many bytes it is between messages, the bytes coming in pieces of this size.
    fn between(bytes: &[u8], size: usize) -> Vec<usize> {
        let (mut boundary, mut at, mut found) = (Boundary::default(), 0, Vec::new());
        for piece in bytes.chunks(size) {
            boundary.feed(piece);
            at += piece.len();
            found.extend(boundary.is_between().then_some(at));
        }
        found
    }

    #[test]
    fn messages_end_where_their_last_frame_does() {
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for length in [0, 1, 125, 126, 300, 65535, 65536] {
            bytes.extend(frame(0x81, length));
            ends.push(bytes.len());
            // In two fragments with a ping in between, and an empty one.
            bytes.extend([frame(0x01, length), frame(0x89, 3), frame(0x00, 0), frame(0x80, length)].concat());
            ends.push(bytes.len());
        }
        assert_eq!(between(&bytes, 1), ends);
        let in_pieces = between(&bytes, 7);
        assert_eq!(
            in_pieces,
            ends.iter().copied().filter(|end| end % 7 == 0 || *end == bytes.len()).collect::<Vec<_>>()
        );
        assert_eq!(between(&bytes, bytes.len()), [bytes.len()]);
    }

    #[test]
    fn after_a_close_there_is_no_next_message() {
        assert!(between(&[frame(0x88, 2), frame(0x81, 1)].concat(), 1).is_empty());
    }

    #[test]
    fn whatever_comes_is_counted_without_a_panic() {
        let mut boundary = Boundary::default();
        for length in [u64::MAX, 1 << 63] {
            boundary.feed(&[0x82, 0xff]);
            boundary.feed(&length.to_be_bytes());
            boundary.feed(&[0; 1000]);
            assert!(!boundary.is_between());
            boundary = Boundary::default();
        }
    }
}
