//! WebSocket frames of a server: unmasked, in one piece (RFC 6455, section 5.2), so that their bytes can be shared.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// Longest payload of a control frame (RFC 6455, section 5.5).
const MAX_CONTROL_BYTES: usize = 125;

/// A text message. `write` appends the payload, of about `hint` bytes, to the buffer that becomes the frame.
pub fn text_with(hint: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    // The header's length depends on the payload's, which is known last: leave room for the longest header.
    const ROOM: usize = 10;
    let mut buffer = Vec::with_capacity(ROOM + hint);
    buffer.resize(ROOM, 0);
    write(&mut buffer);
    let payload = buffer.len() - ROOM;
    let mut header = [0; ROOM];
    let mut unused = &mut header[..];
    format_header(OpCode::Data(Data::Text), payload, &mut unused);
    let start = unused.len();
    buffer[start..ROOM].copy_from_slice(&header[..ROOM - start]);
    Bytes::from(buffer).split_off(start)
}

/// A text message with a payload that is there already.
pub fn text(payload: &[u8]) -> Bytes {
    build(OpCode::Data(Data::Text), payload)
}

/// A binary message.
pub fn binary(payload: &[u8]) -> Bytes {
    build(OpCode::Data(Data::Binary), payload)
}

pub fn ping() -> Bytes {
    build(OpCode::Control(Control::Ping), b"")
}

/// A close frame: the code and a short word.
pub fn close(code: u16, word: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(word.as_bytes());
    payload.truncate(MAX_CONTROL_BYTES);
    build(OpCode::Control(Control::Close), &payload)
}

/// A close frame that says nothing, in answer to one that said nothing.
pub fn empty_close() -> Bytes {
    build(OpCode::Control(Control::Close), b"")
}

fn build(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(10 + payload.len());
    format_header(opcode, payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.into()
}

fn format_header(opcode: OpCode, payload: usize, into: &mut impl std::io::Write) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    // Writing to memory cannot fail.
    let _ = header.format(payload as u64, into);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_rfc_shows_them() {
        assert_eq!(text(b"Hello"), Bytes::from_static(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]));
        assert_eq!(binary(b"\xff"), Bytes::from_static(&[0x82, 0x01, 0xff]));
        assert_eq!(ping(), Bytes::from_static(&[0x89, 0]));
        assert_eq!(close(1012, "restarting")[..4], [0x88, 12, 0x03, 0xf4]);
        assert_eq!(empty_close(), Bytes::from_static(&[0x88, 0]));
        for len in [0, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            assert_eq!(text_with(0, |buffer| buffer.extend_from_slice(&payload)), text(&payload));
        }
    }
}
