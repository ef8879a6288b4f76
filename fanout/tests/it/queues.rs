//! The queues that the node shows are those of the table in ARCHITECTURE.md.

use std::{collections::BTreeSet, fs, path::Path};

use fanout::config::Config;

use crate::{
    redis_server::RedisServer,
    support::{Node, http},
};

/// `queue` and `rule`, as in the table.
const QUEUES: [(&str, &str); 14] = [
    ("broker", "busy"),
    ("broker_key", "busy"),
    ("broker_reads", "waits"),
    ("held_back", "not_held"),
    ("link", "behind"),
    ("link_controls", "end_link"),
    ("link_publishes", "busy"),
    ("link_reads", "busy"),
    ("link_room", "behind"),
    ("publish_stream", "held_back"),
    ("removals", "busy"),
    ("room_held", "read_again"),
    ("shard", "read_again"),
    ("shard_interests", "link_waits"),
];

type Pairs = BTreeSet<(String, String)>;

/// Of the rows of the section on queues that are about fanout: its counter is named above them.
fn documented() -> Pairs {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("Queues\n")).unwrap();
    let mut ours = false;
    let mut pairs = Pairs::new();
    for line in section.lines() {
        if !line.starts_with('|') {
            // Text between tables says whose the next one is.
            if line.contains("espigon_edge_queue_full") || line.contains("espigon_fanout_queue_full") {
                ours = line.contains("espigon_fanout_queue_full") && !line.contains("espigon_edge_queue_full");
            }
            continue;
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let word = |cell: &str| cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).map(str::to_owned);
        if let (true, Some(queue), Some(rule)) = (ours, word(cells[1]), word(cells[2])) {
            pairs.insert((queue, rule));
        }
    }
    pairs
}

#[tokio::test]
async fn each_queue_has_a_row_and_each_row_a_queue() {
    let server = RedisServer::start().await;
    let mut config = Config::for_development();
    config.redis_addr = Some(server.address().parse().unwrap());
    let node = Node::start(config).await;
    let (_, metrics) = http(node.bound.ops, "GET /metrics", b"").await;
    let label = |line: &str, name: &str| {
        let rest = line.split_once(&format!("{name}=\"")).unwrap().1;
        rest.split('"').next().unwrap().to_owned()
    };
    let lines = metrics.lines().filter(|line| line.starts_with("espigon_fanout_queue_full_total{"));
    let shown: Pairs = lines.map(|line| (label(line, "queue"), label(line, "rule"))).collect();
    let listed: Pairs = QUEUES.into_iter().map(|(queue, rule)| (queue.to_owned(), rule.to_owned())).collect();
    assert_eq!(shown, listed);
    // Until the page has the table.
    let documented = documented();
    assert!(documented.is_empty() || documented == shown, "{documented:?} in ARCHITECTURE.md, {shown:?} in /metrics");
    node.finish().await;
}
