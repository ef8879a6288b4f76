//! Bytes that a connection, and a membership, keep allocated.

use crate::{
    clients::{Client, connect},
    subject::Subject,
};

/// Half-way between two powers of two, so that what grows by doubling counts with its mean slack.
const CONNECTIONS: usize = 1536;

const BYTES_PER_CONNECTION: i64 = 2600;
const BYTES_PER_MEMBERSHIP: i64 = 120;

#[test]
fn an_idle_connection_in_its_personal_room() {
    let subject = Subject::start();
    let to = subject.address;
    let (first, _) = subject.during(move || connect(to, 0..32));
    let (clients, info) = subject.during(move || {
        let mut clients = connect(to, 32..32 + CONNECTIONS);
        // What reading a message takes is given back.
        clients.iter_mut().for_each(Client::ping);
        clients
    });
    let bytes = info.bytes_current / i64::try_from(CONNECTIONS).unwrap();
    println!("{bytes} bytes per idle connection");
    assert!(bytes <= BYTES_PER_CONNECTION, "{bytes} bytes per idle connection");
    assert!(bytes > 1024, "{bytes}: not counted right");
    drop((first, clients));
    subject.finish();
}

#[test]
fn a_further_membership() {
    const CLIENTS: usize = 192;
    const ROOMS: usize = 48;
    let subject = Subject::start();
    let to = subject.address;
    let (mut clients, _) = subject.during(move || connect(to, 0..CLIENTS));
    // The rooms are there already, as with many members a room's own state counts for little.
    let (clients, _) = subject.during(move || {
        clients[0].join((0..ROOMS).map(room));
        clients
    });
    let (clients, info) = subject.during(move || {
        let mut clients = clients;
        for client in &mut clients[1..] {
            client.join((0..ROOMS).map(room));
        }
        clients
    });
    let bytes = info.bytes_current / i64::try_from((CLIENTS - 1) * ROOMS).unwrap();
    println!("{bytes} bytes per further membership");
    assert!(bytes <= BYTES_PER_MEMBERSHIP, "{bytes} bytes per further membership");
    assert!(bytes >= 16, "{bytes}: not counted right");
    drop(clients);
    subject.finish();
}

/// A name of 20 bytes.
fn room(number: usize) -> String {
    format!("room-{number:015}")
}
