//! RFC 6455, read plainly: all bytes at once, one frame after the other.

use edge::protocol::frame;

/// Largest message that the echo takes.
const MAX_MESSAGE: usize = 16 << 20;

/// What must come back.
pub(super) struct Outcome {
    /// Messages and pongs, in order.
    pub(super) sent: Vec<u8>,
    /// How it may end: where a frame is wrong in several ways, each may be named.
    pub(super) ends: Vec<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Not yet.
    Open,
    ProtocolError,
    BadUtf8,
    TooLarge,
    /// The peer closed, with a code or without.
    Peer(Option<u16>),
}

impl End {
    pub(super) fn frame(self) -> bytes::Bytes {
        match self {
            Self::Open => bytes::Bytes::new(),
            Self::ProtocolError => frame::close(1002, "protocol_error"),
            Self::BadUtf8 => frame::close(1007, "bad_utf8"),
            Self::TooLarge => frame::close(1009, "message_too_large"),
            Self::Peer(None) => frame::empty_close(),
            Self::Peer(Some(code)) => frame::close(code, ""),
        }
    }
}

/// A frame, as far as it is there.
struct Frame {
    first: u8,
    masked: bool,
    length: u64,
    payload: Vec<u8>,
    whole: bool,
}

pub(super) fn answer(mut bytes: &[u8]) -> Outcome {
    let mut sent = Vec::new();
    // Of the message in fragments: whether it is text, and what there is of it.
    let mut open: Option<(bool, Vec<u8>)> = None;
    loop {
        let Some(frame) = take(&mut bytes) else { return Outcome { sent, ends: vec![End::Open] } };
        let mut ends = wrong(&frame, open.is_some());
        if let Some(false) = starts_or_continues_text(&frame, open.as_ref()) {
            ends.push(End::BadUtf8);
        }
        if !frame.whole && (ends.is_empty() || !ends.contains(&End::BadUtf8) && !is_told_by_head(&frame)) {
            // The rest may never come; nor need it be judged before.
            ends.push(End::Open);
        }
        if !ends.is_empty() {
            return Outcome { sent, ends };
        }
        let (last, payload) = (frame.first & 0x80 != 0, frame.payload);
        match frame.first & 0x0f {
            8 => return Outcome { sent, ends: vec![closed(&payload)] },
            9 => {
                sent.extend([0x8a, payload.len().to_le_bytes()[0]]);
                sent.extend(payload);
            }
            10 => {}
            opcode => {
                let (text, mut message) = open.take().unwrap_or((opcode == 1, Vec::new()));
                message.extend(payload);
                if message.len() > MAX_MESSAGE {
                    return Outcome { sent, ends: vec![End::TooLarge] };
                }
                match (last, text) {
                    (false, _) => open = Some((text, message)),
                    (true, true) if std::str::from_utf8(&message).is_err() => {
                        return Outcome { sent, ends: vec![End::BadUtf8] };
                    }
                    (true, true) => sent.extend(frame::text(&message)),
                    (true, false) => sent.extend(frame::binary(&message)),
                }
            }
        }
    }
}

/// The next frame, once its head is whole.
fn take(bytes: &mut &[u8]) -> Option<Frame> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let masked = second & 0x80 != 0;
    let head = 2 + extended + if masked { 4 } else { 0 };
    if bytes.len() < head {
        return None;
    }
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => bytes[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    let mask = if masked { [bytes[head - 4], bytes[head - 3], bytes[head - 2], bytes[head - 1]] } else { [0; 4] };
    let there = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len() - head);
    let payload = bytes[head..head + there].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    *bytes = &bytes[head + there..];
    Some(Frame { first, masked, length, payload, whole: there as u64 == length })
}

/// What the RFC forbids in a frame's head.
fn wrong(frame: &Frame, fragments: bool) -> Vec<End> {
    let (last, opcode) = (frame.first & 0x80 != 0, frame.first & 0x0f);
    let control = opcode >= 8;
    let broken = frame.first & 0x70 != 0
        || !frame.masked
        || matches!(opcode, 3..=7 | 11..)
        || control && (!last || frame.length > 125)
        || !control && (opcode == 0) != fragments;
    let mut ends = Vec::new();
    if broken {
        ends.push(End::ProtocolError);
    }
    if frame.length > MAX_MESSAGE as u64 {
        ends.push(End::TooLarge);
    }
    ends
}

/// Wrong in a way that is found before the payload is there.
fn is_told_by_head(frame: &Frame) -> bool {
    frame.length > MAX_MESSAGE as u64 || matches!(frame.first & 0x0f, 3..=7 | 11..)
}

/// For text, whether what is there so far can become UTF-8.
fn starts_or_continues_text(frame: &Frame, open: Option<&(bool, Vec<u8>)>) -> Option<bool> {
    let before: &[u8] = match (frame.first & 0x0f, open) {
        (1, _) => &[],
        (0, Some((true, before))) => before,
        _ => return None,
    };
    let text = [before, &frame.payload].concat();
    Some(std::str::from_utf8(&text).err().is_none_or(|error| error.error_len().is_none()))
}

/// The payload of a close frame (section 7.4).
fn closed(payload: &[u8]) -> End {
    let Some((code, word)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { End::Peer(None) } else { End::ProtocolError };
    };
    if std::str::from_utf8(word).is_err() {
        return End::BadUtf8;
    }
    match u16::from_be_bytes(*code) {
        code @ (1000..=1003 | 1007..=1013 | 3000..=4999) => End::Peer(Some(code)),
        // In answer to a code that must not be sent. That of gateways (1014, registered later) is one to the codec, and no
        // client's.
        _ => End::Peer(Some(1002)),
    }
}
