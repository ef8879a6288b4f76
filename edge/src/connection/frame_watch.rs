//! Follows the frames in what a client sends (RFC 6455, section 5.2), to know when it is between two messages, and to find
//! what tungstenite finds late or never, as the bytes come in: text that is not UTF-8, in the midst of a frame, too
//! (RFC 6455, section 8.1: fail fast), and messages in fragments without end, which may all be empty. Follows the frames
//! only as far as that needs; whatever else is wrong with them is tungstenite's to find. Pure.

use crate::close::CloseReason;

/// Payload looked at in one go.
const RUN: usize = 512;

/// Frames that any message may have.
const LEAST_FRAMES: usize = 1024;

/// The longest header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

#[derive(Debug)]
pub(super) struct FrameWatch {
    max_frames: usize,
    /// Those of the message so far.
    frames: usize,
    /// Of a header that is not whole yet.
    header: [u8; MAX_HEADER],
    have: usize,
    /// What is still to come of the frame's payload. Zero: a header is next.
    left: u64,
    mask: [u8; 4],
    /// Of the frame.
    opcode: u8,
    /// Whether the message is text.
    text: bool,
    /// Fragments of a message came, and its last one did not.
    fragmented: bool,
    closed: bool,
    characters: Characters,
}

/// Frames that a message may have: one for each eight bytes that it may have, 1,024 in any case. An empty one costs as much
/// to read as one that is full, and nobody who means well sends more of them.
fn most_frames(max_message_bytes: usize) -> usize {
    (max_message_bytes / 8).max(LEAST_FRAMES)
}

impl FrameWatch {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        Self {
            max_frames: most_frames(max_message_bytes),
            frames: 0,
            header: [0; MAX_HEADER],
            have: 0,
            left: 0,
            mask: [0; 4],
            opcode: 0,
            text: false,
            fragmented: false,
            closed: false,
            characters: Characters::default(),
        }
    }

    /// Why the connection is to close, if it is for these bytes. To be asked no more then.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Result<(), CloseReason> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.header_byte(*first)?;
                bytes = rest;
                continue;
            }
            let run = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len()).min(RUN);
            let (payload, rest) = bytes.split_at(run);
            if self.is_text() && !self.see_text(payload) {
                return Err(CloseReason::BadUtf8);
            }
            self.left -= run as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Whether nothing is open: neither a frame nor a message, and no close.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.fragmented && !self.closed
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), CloseReason> {
        self.header[self.have] = byte;
        self.have += 1;
        if self.have < 2 {
            return Ok(());
        }
        let (masked, length) = (self.header[1] & 0x80 != 0, self.header[1] & 0x7f);
        let extended = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_at = 2 + extended;
        if self.have < mask_at + if masked { 4 } else { 0 } {
            return Ok(());
        }
        self.left = match extended {
            0 => u64::from(length),
            _ => self.header[2..mask_at].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        self.mask = [0; 4];
        if masked {
            self.mask.copy_from_slice(&self.header[mask_at..mask_at + 4]);
        }
        self.opcode = self.header[0] & 0x0f;
        match self.opcode {
            TEXT => (self.text, self.frames, self.characters) = (true, 1, Characters::default()),
            BINARY => (self.text, self.frames) = (false, 1),
            // With nothing to continue it is no text, whatever the message before was: the frame itself is wrong.
            CONTINUATION => (self.text, self.frames) = (self.text && self.fragmented, self.frames + 1),
            _ => {}
        }
        match self.opcode {
            // A ping or a pong may come between two fragments.
            0..CLOSE => self.fragmented = self.header[0] & 0x80 == 0,
            CLOSE => self.closed = true,
            _ => {}
        }
        self.have = 0;
        if self.frames > self.max_frames { Err(CloseReason::MessageTooLarge) } else { Ok(()) }
    }

    /// Whether the frame is a part of a text rather than a control frame.
    fn is_text(&self) -> bool {
        self.text && matches!(self.opcode, TEXT | CONTINUATION)
    }

    fn see_text(&mut self, masked: &[u8]) -> bool {
        let mut payload = [0; RUN];
        for (index, (to, from)) in payload.iter_mut().zip(masked).enumerate() {
            *to = from ^ self.mask[index % 4];
        }
        self.mask.rotate_left(masked.len() % 4);
        self.characters.see(&payload[..masked.len()])
    }
}

/// UTF-8 in pieces.
#[derive(Debug, Default)]
struct Characters {
    /// Of a character whose last byte has not come yet.
    open: [u8; 4],
    have: usize,
}

impl Characters {
    fn see(&mut self, mut bytes: &[u8]) -> bool {
        while self.have > 0 {
            let Some((first, rest)) = bytes.split_first() else { return true };
            self.open[self.have] = *first;
            self.have += 1;
            bytes = rest;
            match std::str::from_utf8(&self.open[..self.have]) {
                Ok(_) => self.have = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let open = &bytes[error.valid_up_to()..];
                self.open[..open.len()].copy_from_slice(open);
                self.have = open.len();
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![if fin { 0x80 } else { 0 } | opcode];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
            length @ 126..=0xffff => {
                frame.push(0xfe);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(0xff);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// The index of the first byte with which it is not UTF-8 any more, seen one by one.
    fn bad_at(bytes: &[u8]) -> Option<usize> {
        let mut watch = FrameWatch::new(1000);
        bytes.iter().position(|byte| watch.see(&[*byte]).is_err())
    }

    /// After how many bytes it is between messages, the bytes coming in pieces of this size.
    fn between(bytes: &[u8], size: usize) -> Vec<usize> {
        let (mut watch, mut at, mut found) = (FrameWatch::new(1 << 20), 0, Vec::new());
        for piece in bytes.chunks(size) {
            watch.see(piece).unwrap();
            at += piece.len();
            found.extend(watch.is_between().then_some(at));
        }
        found
    }

    #[test]
    fn messages_end_where_their_last_frame_does() {
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for length in [0, 1, 125, 126, 300, 65535, 65536] {
            let payload = vec![b'x'; length];
            bytes.extend(frame(true, TEXT, &payload));
            ends.push(bytes.len());
            // In two fragments with a ping in between, and an empty one.
            let fragment = |fin, payload: &[u8]| frame(fin, CONTINUATION, payload);
            let fragments = [frame(false, TEXT, &payload), frame(true, 9, b"abc"), fragment(false, b"")];
            bytes.extend([fragments.concat(), fragment(true, &payload)].concat());
            ends.push(bytes.len());
        }
        assert_eq!(between(&bytes, 1), ends);
        let seen = ends.iter().copied().filter(|end| end % 7 == 0 || *end == bytes.len()).collect::<Vec<_>>();
        assert_eq!(between(&bytes, 7), seen);
        assert_eq!(between(&bytes, bytes.len()), [bytes.len()]);
    }

    #[test]
    fn after_a_close_there_is_no_next_message() {
        let bytes = [frame(true, CLOSE, &[3, 232]), frame(true, TEXT, b"x")].concat();
        assert!(between(&bytes, 1).is_empty());
    }

    #[test]
    fn the_bad_byte_itself_is_found() {
        let head = 6;
        for (text, bad) in [
            (&b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80edited"[..], Some(6)),
            (b"\xff", Some(0)),
            (b"ok\xc0\xaf", Some(2)),
            (b"\xed\xa0\x80", Some(1)),
            (b"\xe2\x82x", Some(2)),
            (b"\xf0\x9f\x98\x80", None),
            // Not whole: whether the rest comes is not known yet.
            (b"\xf0\x9f\x98", None),
        ] {
            assert_eq!(bad_at(&frame(true, TEXT, text)), bad.map(|at| at + head), "{text:x?}");
        }
    }

    #[test]
    fn characters_go_on_in_the_next_fragment_whatever_comes_between() {
        let smile = "😀".as_bytes();
        for split in 0..=smile.len() {
            let (start, end) = smile.split_at(split);
            let ping = frame(true, 9, b"\xff\xfe");
            assert_eq!(bad_at(&[frame(false, TEXT, start), ping.clone(), frame(true, 0, end)].concat()), None);
            let wrong = [frame(false, TEXT, start), ping, frame(true, 0, b"\xff")].concat();
            assert_eq!(bad_at(&wrong), Some(wrong.len() - 1), "{split}");
        }
    }

    #[test]
    fn only_text_is_looked_at_and_each_message_begins_anew() {
        let binary = [frame(false, BINARY, b"\xff"), frame(true, 0, b"\xff")].concat();
        assert_eq!(bad_at(&[binary, frame(true, TEXT, b"\xce"), frame(true, TEXT, b"x")].concat()), None);
        assert_eq!(bad_at(&[frame(true, 10, b"\xff"), frame(true, 8, b"\xff\xff")].concat()), None);
    }

    #[test]
    fn a_message_has_no_more_frames_than_it_needs() {
        for (bytes, frames) in [(10, 1024), (8 << 10, 1024), (80_000, 10_000)] {
            let mut watch = FrameWatch::new(bytes);
            for _ in 0..3 {
                assert_eq!(watch.see(&frame(false, TEXT, b"")), Ok(()), "each message begins anew");
                for _ in 1..frames {
                    assert_eq!(watch.see(&frame(true, 9, b"")), Ok(()), "control frames are none of it");
                    assert_eq!(watch.see(&frame(false, 0, b"")), Ok(()));
                }
            }
            assert_eq!(watch.see(&frame(false, 0, b"")), Err(CloseReason::MessageTooLarge));
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_the_standard_library_finds_in_whatever_pieces(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                "\\PC{0,80}".prop_map(String::into_bytes),
                // Longer than a run, and than the short form of a length.
                ("\\PC{1,4}", 300_usize..400).prop_map(|(text, times)| text.repeat(times).into_bytes()),
            ],
            pieces in proptest::collection::vec(1_usize..700, 1..20),
        ) {
            let mut watch = FrameWatch::new(1000);
            let bytes = frame(true, TEXT, &text);
            let (mut rest, mut good) = (&bytes[..], true);
            for piece in pieces.iter().cycle() {
                if rest.is_empty() || !good {
                    break;
                }
                let (seen, unseen) = rest.split_at((*piece).min(rest.len()));
                (rest, good) = (unseen, watch.see(seen).is_ok());
            }
            let bad = std::str::from_utf8(&text).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(good, !bad);
        }
    }
}
