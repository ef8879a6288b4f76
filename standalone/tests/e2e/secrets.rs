//! Nothing tells a secret: no log, however much it tells, no metric, no answer, no report, no trace.

mod backends;
mod clients;
mod told;

use futures_util::future::join_all;

use self::told::Told;
use crate::harness::{
    Backend, Collector, Edge, Fanout, LINK_TOKEN, Process, RedisServer, Reply, SECRET, Stage, eventually, get, metric,
};

const GRANT_SECRET: &str = "the grant secret of the tests, which is another one";
const API_KEY: &str = "the-api-key-of-the-tests";
const READ_KEY: &str = "the-key-of-who-may-only-read";
const WRONG_KEY: &str = "a-key-that-is-not-known-here";
const WRONG_LINK_TOKEN: &str = "a link token that is not known here";
const REDIS_PASSWORD: &str = "the-password-of-redis";
const WRONG_PASSWORD: &str = "a-password-that-is-not-redis-own";

/// Where it may be read: by the members of the room.
const BODY: &str = "the body of a broadcast";

#[tokio::test(flavor = "multi_thread")]
async fn no_log_metric_answer_report_or_trace_has_one() {
    let (collector, backend) = (Collector::start(), Backend::answering(|_| Reply::Yes));
    let redis = RedisServer::start().await;
    redis.knows("espigon", REDIS_PASSWORD).await;
    let shared = [
        ("LOG_LEVEL", "info,edge=trace,fanout=trace,service=trace"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url()),
        ("GRANT_SECRET", GRANT_SECRET),
        ("API_KEYS", &format!("shop:{API_KEY},desk:{READ_KEY}:read")),
        ("REDIS_ADDR", &redis.address()),
        ("REDIS_USERNAME", "espigon"),
        ("REDIS_PASSWORD", REDIS_PASSWORD),
        ("BACKEND_URL", &backend.url()),
    ];
    let plan = shared.iter().fold(Stage::plan(), |plan, (name, value)| plan.with(name, *value));
    let stage = plan.start().await;
    let with = |name: &str, value: &str| {
        let settings = shared.iter().copied().filter(|(shared, _)| *shared != name).chain([(name, value)]);
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    // Those whose credentials are not known are told so, and tell others.
    let (stranger, astray) = (
        Edge::start(&[stage.fanout(0).link], &with("LINK_TOKEN", WRONG_LINK_TOKEN)),
        Fanout::start(&with("REDIS_PASSWORD", WRONG_PASSWORD)),
    );

    let mut told = Told::of(&[
        SECRET,
        GRANT_SECRET,
        API_KEY,
        READ_KEY,
        WRONG_KEY,
        LINK_TOKEN,
        WRONG_LINK_TOKEN,
        REDIS_PASSWORD,
        WRONG_PASSWORD,
    ]);
    let members = clients::speak(stage.edge(0), &mut told).await;
    backends::speak(stage.fanout(0), &mut told).await;
    let refused = async || metric(stranger.ops, "espigon_edge_link_attempts_total").await > 1;
    eventually("the stranger is refused", refused).await;
    let astray_says = async || astray.process.output().contains("WRONGPASS");
    eventually("Redis knows another password", astray_says).await;

    let ops = [stage.edge(0).ops, stage.fanout(0).ops, stranger.ops, astray.ops];
    for ops in ops {
        for path in ["metrics", "livez", "readyz", "nowhere"] {
            let (status, body) = get(&format!("http://{ops}/{path}")).await;
            told.private(&format!("/{path} of {ops}"), format!("{status} {body}"));
        }
    }
    told.private("questions to the backend", format!("{:?}", backend.questions()));
    // Their close reasons, and what is left of traces and logs, come with the end.
    let (edges, nodes) = ([&stage.edge(0).process, &stranger.process], [&stage.fanout(0).process, &astray.process]);
    tokio::join!(join_all(edges.map(Process::ends_well)), clients::hear_the_end(members, &mut told));
    join_all(nodes.map(Process::ends_well)).await;
    told.private("traces", collector.told());
    for process in edges.into_iter().chain(nodes) {
        let output = process.output();
        assert!(output.contains("shut down"));
        told.private("log", output);
    }
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name == "publish") && spans.iter().any(|span| span.name == "write"));
    told.is_clean();
}
