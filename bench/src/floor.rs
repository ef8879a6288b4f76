//! The floor: a bare program that writes a ready frame to each socket, and nothing else. What it costs is what the
//! kernel costs.

use std::{
    io::{IoSlice, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use serde_json::json;

use crate::{
    frames::server_text,
    payload::{BODY_BYTES, Stamp},
};

/// Most frames that one vectored write takes.
const MAX_FRAMES: usize = 64;

/// Serves until its control connection ends: each body that comes in by it goes to every socket. `batched`: what came in
/// meanwhile goes out by one vectored write per socket, instead of one write per frame. `padding`: bytes added to each frame.
/// `rooms`: a body goes to the sockets of one room, by its number, and not to all.
pub(crate) fn serve(batched: bool, padding: usize, rooms: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    eprintln!("{}", json!({"message": "listening", "ws": listener.local_addr()?}));
    // The first connection is the control's; it says how many others there will be.
    let (mut control, _) = listener.accept()?;
    let mut count = [0; 8];
    control.read_exact(&mut count)?;
    let mut sockets = Vec::new();
    for _ in 0..u64::from_be_bytes(count) {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    control.write_all(b"!")?;
    let mut buffer = vec![0; MAX_FRAMES * BODY_BYTES];
    let mut filled = 0;
    loop {
        let count = control.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let whole = filled - filled % BODY_BYTES;
        if rooms == 1 {
            let frames: Vec<_> = buffer[..whole].chunks(BODY_BYTES).map(|body| frame(body, padding)).collect();
            write(&mut sockets, &frames, batched)?;
        } else {
            for body in buffer[..whole].chunks(BODY_BYTES) {
                let room = Stamp::find(body).map_or(0, |stamp| stamp.number % rooms as u64);
                let frame = frame(body, padding);
                for socket in sockets.iter_mut().skip(usize::try_from(room)?).step_by(rooms) {
                    socket.write_all(&frame)?;
                }
            }
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// The frame of a body, made longer by so many bytes.
fn frame(body: &[u8], padding: usize) -> Vec<u8> {
    let mut text = body.to_vec();
    text.resize(body.len() + padding, b' ');
    server_text(&text)
}

fn write(sockets: &mut [TcpStream], frames: &[Vec<u8>], batched: bool) -> std::io::Result<()> {
    if batched {
        let slices: Vec<_> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
        let length: usize = frames.iter().map(Vec::len).sum();
        for socket in sockets {
            let written = socket.write_vectored(&slices)?;
            if written < length {
                socket.write_all(&frames.concat()[written..])?;
            }
        }
    } else {
        for frame in frames {
            for socket in &mut *sockets {
                socket.write_all(frame)?;
            }
        }
    }
    Ok(())
}
