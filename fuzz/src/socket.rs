//! What a client sends on its socket, in pieces, through read pump, frame watch, codec, outbox and write pump, as they
//! ship (the echo of conformance suites, under a clock that stands still). Back must come, byte for byte, what a plain
//! reading of RFC 6455 says.

mod edge;
mod reference;

use self::reference::Outcome;
use crate::input::Input;

/// See the module. A byte for how many pieces there are, a byte of length for each, and then what is sent.
///
/// # Panics
/// If it does not hold.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let count = usize::from(input.byte() % 16);
    let lengths = input.bytes(count);
    let sent = input.rest();
    let got = edge::answer(sent, lengths);
    let Outcome { sent: expected, ends } = reference::answer(sent);
    let tail =
        got.strip_prefix(&*expected).unwrap_or_else(|| panic!("{sent:02x?} brought {got:02x?}, not {expected:02x?}"));
    assert!(ends.iter().any(|end| end.frame() == tail), "{sent:02x?} ended with {tail:02x?}, not by {ends:?}");
}

/// A frame of a client, masked.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut frame = vec![first];
    if length < 126 {
        frame.push(0x80 | payload.len().to_le_bytes()[0]);
    } else {
        frame.push(0x80 | 0x7e);
        frame.extend(length.to_be_bytes());
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub fn seeds() -> Vec<Vec<u8>> {
    let text = "é🦀 text".as_bytes();
    let streams = [
        frame(0x81, text),
        frame(0x82, &[0xff; 200]),
        [frame(0x01, &text[..1]), frame(0x89, b"ping"), frame(0x00, &text[1..4]), frame(0x80, &text[4..])].concat(),
        [frame(0x81, b"a"), frame(0x8a, b""), frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e'])].concat(),
        frame(0x88, b""),
        frame(0x88, &[3]),
        frame(0x88, &[0x03, 0xed]),
        frame(0x81, &[0xed, 0xa0, 0x80]),
        frame(0xc1, b"reserved bit"),
        frame(0x83, b"reserved opcode"),
        frame(0x09, b"a ping in fragments"),
        frame(0x89, &[b'x'; 126]),
        [frame(0x01, b"a"), frame(0x81, b"another")].concat(),
        frame(0x80, b"continued"),
        vec![0x81, 0x03, b'a', b'b', b'c'],
        vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
    ];
    let lengths: [&[u8]; 3] = [&[0], &[2, 1, 3], &[3, 7, 200, 2]];
    streams.iter().flat_map(|stream| lengths.map(|lengths| [lengths, stream].concat())).collect()
}
