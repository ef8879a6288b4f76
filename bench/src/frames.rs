//! Splits what a server sends into WebSocket frames (RFC 6455, section 5.2; a server's are not masked).

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

/// A client's pong, without data, as to a ping without data.
pub(crate) const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// A frame that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Text(&'a [u8]),
    Ping,
}

/// The frames of one socket; keeps the beginning of one that has not come in whole.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    /// Calls `got` for each frame that is whole now, and matters.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut got: impl FnMut(Frame<'_>)) {
        if self.rest.is_empty() {
            let used = split(bytes, &mut got);
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            self.rest.extend_from_slice(bytes);
            let used = split(&self.rest, &mut got);
            self.rest.drain(..used);
        }
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
    }
}

/// Returns how many bytes whole frames took.
fn split(bytes: &[u8], got: &mut impl FnMut(Frame<'_>)) -> usize {
    let mut used = 0;
    while let Some((payload, length)) = first(&bytes[used..]) {
        match bytes[used] {
            TEXT => got(Frame::Text(payload)),
            PING => got(Frame::Ping),
            _ => {}
        }
        used += length;
    }
    used
}

/// The payload of the first frame, and the length of the whole frame.
fn first(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (header, payload) = match *bytes {
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        [_, 127, ref rest @ ..] => (10, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?),
        [_, length, ..] if length < 126 => (2, usize::from(length)),
        _ => return None,
    };
    Some((bytes.get(header..header + payload)?, header + payload))
}

/// A server's text frame.
pub(crate) fn server_text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![TEXT];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A client's text frame, masked with zeros, which leaves it readable.
pub(crate) fn client_text(payload: &str) -> Vec<u8> {
    let mut frame = server_text(payload.as_bytes());
    let header = frame.len() - payload.len();
    frame[1] |= 0x80;
    frame.splice(header..header, [0; 4]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let texts = ["a".repeat(3), "b".repeat(200), "c".repeat(125)];
        let mut bytes: Vec<u8> = texts.iter().flat_map(|text| server_text(text.as_bytes())).collect();
        bytes.extend([PING, 0]);
        for size in 1..bytes.len() {
            let (mut frames, mut found, mut pings) = (Frames::default(), Vec::new(), 0);
            for piece in bytes.chunks(size) {
                frames.feed(piece, |frame| match frame {
                    Frame::Text(text) => found.push(String::from_utf8(text.to_vec()).unwrap()),
                    Frame::Ping => pings += 1,
                });
            }
            assert_eq!((&found[..], pings), (&texts[..], 1), "in pieces of {size}");
            assert!(frames.rest.is_empty());
        }
    }
}
