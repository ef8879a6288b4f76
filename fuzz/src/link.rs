//! Messages of a link as bytes: two of length, and the message, over and over.

use prost::Message;

use crate::input::Input;

/// Those there are, up to the first that cannot be decoded, which ends a link.
pub(crate) fn messages<M: Message + Default>(mut input: Input<'_>) -> Vec<M> {
    let mut messages = Vec::new();
    loop {
        let length = usize::from(u16::from_be_bytes([input.byte(), input.byte()]));
        let bytes = input.bytes(length);
        match M::decode(bytes) {
            Ok(message) if length > 0 => messages.push(message),
            _ => return messages,
        }
    }
}

pub(crate) fn bytes<M: Message>(messages: &[M]) -> Vec<u8> {
    let one = |message: &M| {
        let bytes = message.encode_to_vec();
        [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..], &bytes].concat()
    };
    messages.iter().flat_map(one).collect()
}
