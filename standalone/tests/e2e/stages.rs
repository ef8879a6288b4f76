//! Each stage of a publication's way is timed where it happens.

use crate::harness::{Stage, eventually, metric};

const COUNT: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_is_timed() {
    let stage = Stage::plan().redis().start().await;
    let (edge, fanout) = (stage.edge(0), stage.fanout(0));
    let (mut ana, mut ben) = (edge.connect("ana").await, edge.connect("ben").await);
    ana.join("lobby").await;
    ben.join("lobby").await;
    for n in 1..COUNT {
        fanout.post("lobby", &n.to_string()).await;
    }
    ana.broadcast("lobby", "20").await;
    for client in [&mut ana, &mut ben] {
        client.next_messages(COUNT.try_into().unwrap()).await;
    }
    for (ops, tier, name) in [
        (fanout.ops, "fanout", "accepted"),
        (fanout.ops, "fanout", "stored"),
        (fanout.ops, "fanout", "announced"),
        (edge.ops, "edge", "received"),
    ] {
        let count = metric(ops, &format!(r#"espigon_{tier}_stage_seconds_count{{stage="{name}"}}"#)).await;
        assert_eq!(count, COUNT, "{name}: once for each publication, however many members");
        // One machine, one clock: nothing is older than the test.
        let slowest = metric(ops, &format!(r#"espigon_{tier}_stage_seconds_bucket{{le="10.0",stage="{name}"}}"#)).await;
        assert_eq!(slowest, COUNT, "{name}");
    }
    let written = async || metric(edge.ops, r#"espigon_edge_stage_seconds_count{stage="written"}"#).await > 0;
    eventually("a pass that is done", written).await;
}
