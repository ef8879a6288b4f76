//! Allocations that a publication, and a delivery, take.

use prost::Message as _;
use proto::wire::{Entry, Publications, fanout_message::Kind};

use crate::{
    clients::{Client, connect},
    node::EPOCH,
    subject::Subject,
};

const PUBLICATIONS: usize = 500;
const PER_PUBLICATION: u64 = 8;

/// Publications one after the other: each has reached all members before the next.
fn publish(subject: &Subject, clients: Vec<Client>, from_seq: u64, count: usize) -> (Vec<Client>, u64) {
    let send = subject.node.sender();
    let (clients, info) = subject.during(move || {
        let mut clients = clients;
        for seq in (from_seq..).take(count) {
            let entry = Entry { from: "@b".into(), ts_ms: 1, body: "\"x\"".into(), ..Entry::default() };
            let entries = vec![entry.encode_to_vec().into()];
            send(Kind::Publications(Publications {
                room: "room".into(),
                epoch: EPOCH.into(),
                first_seq: seq,
                entries,
            }));
            for client in &mut clients {
                client.read_until(b"\"type\":\"message\"", 1);
            }
        }
        clients
    });
    (clients, info.count_total)
}

#[test]
fn a_publication_and_its_deliveries() {
    let subject = Subject::start();
    let to = subject.address;
    let mut counts = Vec::new();
    let mut seq = 1;
    let mut clients = Vec::new();
    for members in [8, 108] {
        let have = clients.len();
        let (more, _) = subject.during(move || {
            let mut clients: Vec<Client> = clients;
            let mut more = connect(to, have..members);
            for client in &mut more {
                client.join(std::iter::once("room".to_owned()));
            }
            clients.extend(more);
            clients
        });
        // Whatever grows once has grown.
        let (warm, _) = publish(&subject, more, seq, 100);
        seq += 100;
        let (back, count) = publish(&subject, warm, seq, PUBLICATIONS);
        seq += PUBLICATIONS as u64;
        clients = back;
        counts.push(count);
    }
    let [few, many] = counts[..] else { unreachable!("two counts") };
    println!("{few} allocations for {PUBLICATIONS} publications with 8 members, {many} with 108");
    drop(clients);
    subject.finish();
    assert!(many <= PER_PUBLICATION * PUBLICATIONS as u64, "{many} for {PUBLICATIONS} publications");
    // Beats, reports and timers allocate as well, so much in a second and not per delivery.
    let deliveries = 100 * PUBLICATIONS as u64;
    let more = many.saturating_sub(few);
    assert!(more < deliveries / 100, "{more} for {deliveries} deliveries");
}
