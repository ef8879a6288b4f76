//! A publication that is traced has spans from the call that published it to the write to the sockets, in both tiers; all
//! others have none.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Request;

use crate::harness::{Client, Collector, Fanout, Span, Stage, eventually, free_port, metric, publish_body};

const PARENT: &str = "00f067aa0ba902b7";

fn trace(last: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{last:02x}")
}

fn traceparent(last: u8, flags: &str) -> String {
    format!("00-{}-{PARENT}-{flags}", trace(last))
}

async fn post(fanout: &Fanout, traceparent: &str) {
    let url = format!("http://{}/v1/rooms/lobby/publications", fanout.api);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(url).header("content-type", "application/json").header("traceparent", traceparent);
    assert!(request.body(r#"{"body":1}"#).send().await.unwrap().status().is_success());
}

async fn call(fanout: &Fanout, traceparent: &str) {
    let mut request = Request::new(publish_body("lobby", "2"));
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    fanout.grpc().await.publish(request).await.unwrap();
}

async fn members(stage: &Stage, edges: usize) -> Vec<Client> {
    let mut members = Vec::new();
    for edge in 0..edges {
        let mut member = stage.edge(edge).connect("ana").await;
        member.join("lobby").await;
        members.push(member);
    }
    members
}

/// The spans of a trace by service and name, of which there is one each.
fn spans(collector: &Collector, last: u8) -> BTreeMap<(String, String), Span> {
    let of_trace = collector.spans().into_iter().filter(|span| span.trace == trace(last));
    let spans: Vec<_> = of_trace.map(|span| ((span.service.clone(), span.name.clone()), span)).collect();
    let count = spans.len();
    let spans = BTreeMap::from_iter(spans);
    assert_eq!(spans.len(), count, "one of each");
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_call_to_the_sockets() {
    let collector = Collector::start();
    let stage = Stage::plan().redis().with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).start().await;
    let mut members = members(&stage, 1).await;
    let fanout = stage.fanout(0);
    post(fanout, &traceparent(1, "01")).await;
    call(fanout, &traceparent(2, "01")).await;
    // Not sampled, not valid, and without.
    post(fanout, &traceparent(3, "00")).await;
    call(fanout, "00-nonsense-01").await;
    fanout.post("lobby", "3").await;
    members[0].next_messages(5).await;
    drop(members);
    // Whatever is left is sent at the end.
    for process in stage.processes() {
        process.ends_well().await;
    }

    for last in [1, 2] {
        let spans = spans(&collector, last);
        let names: BTreeSet<_> = spans.keys().map(|(service, name)| (service.as_str(), name.as_str())).collect();
        let (edge, node) = ("espigon-edge", "espigon-fanout");
        let expected = [(edge, "deliver"), (edge, "write")].into_iter();
        let expected = expected.chain(["publish", "store", "announce", "link"].map(|name| (node, name)));
        assert_eq!(names, expected.collect());
        let get = |service: &str, name: &str| &spans[&(service.to_owned(), name.to_owned())];
        let (publish, deliver) = (get(node, "publish"), get(edge, "deliver"));
        assert_eq!(publish.parent, PARENT);
        for (service, name) in [(node, "store"), (node, "announce"), (node, "link"), (edge, "deliver")] {
            assert_eq!(get(service, name).parent, publish.id, "{name}");
        }
        assert_eq!(get(edge, "write").parent, deliver.id);
        for span in spans.values() {
            assert!(span.began_ns > 0 && span.began_ns <= span.ended_ns && !span.failed, "{span:?}");
        }
        assert!(get(edge, "write").began_ns >= deliver.ended_ns && deliver.began_ns >= publish.began_ns);
        let attribute = |key: &str| publish.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| &**value);
        assert_eq!(attribute("room"), Some("lobby"));
        assert_eq!(attribute("seq"), Some(format!("Some(IntValue({last}))").as_str()));
    }
    let traces: BTreeSet<_> = collector.spans().into_iter().map(|span| span.trace).collect();
    assert_eq!(traces, BTreeSet::from([trace(1), trace(2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_every_node_and_edge() {
    let collector = Collector::start();
    let plan = Stage::plan().redis().fanouts(2).edges(2);
    let stage = plan.with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).start().await;
    let mut members = members(&stage, 2).await;
    // One of the two nodes is not the one that serves the room: what it stores is announced to the other.
    post(stage.fanout(0), &traceparent(1, "01")).await;
    call(stage.fanout(1), &traceparent(2, "01")).await;
    for member in &mut members {
        member.next_messages(2).await;
    }
    // While all of them go on.
    let count = |name: &str| collector.spans().iter().filter(|span| span.name == name).count();
    eventually("all spans", async || count("write") == 4 && count("link") == 4 && count("publish") == 2).await;
    assert_eq!(count("announce"), 2, "the room is served by one node");
    assert_eq!(count("deliver"), 4);
    for ops in [stage.edge(0).ops, stage.edge(1).ops] {
        assert!(metric(ops, r#"espigon_edge_spans_total{outcome="exported"}"#).await >= 4);
        assert_eq!(metric(ops, r#"espigon_edge_spans_total{outcome="failed"}"#).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nobody_up() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let stage = Stage::plan().with("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere).start().await;
    let mut members = members(&stage, 1).await;
    let (edge, fanout) = (stage.edge(0), stage.fanout(0));
    for _ in 0..10 {
        post(fanout, &traceparent(1, "01")).await;
    }
    members[0].next_messages(10).await;
    let failed = async || metric(edge.ops, r#"espigon_edge_spans_total{outcome="failed"}"#).await > 0;
    eventually("a failure that is counted", failed).await;
    let told = async || edge.process.find(|line| line.contains("ExportError").then_some(())).is_some();
    eventually("and told", told).await;
    post(fanout, &traceparent(1, "01")).await;
    members[0].next_messages(1).await;
    drop(members);
    for process in stage.processes() {
        process.ends_well().await;
    }
}
