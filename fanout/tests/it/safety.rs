//! What a node says of a Redis that cannot keep what is promised.

use serde_json::Value;

use crate::{process, redis_server::RedisServer, sentinels::Sentinels, support::soon};

/// Starts a node there; resolves once it has said all of these.
async fn warned(settings: &[(&str, &str)], expected: &[&str]) {
    let (_child, mut lines) = process::spawn(settings);
    let mut missing = expected.to_vec();
    while !missing.is_empty() {
        let line: Value = serde_json::from_str(&soon("a line", lines.next_line()).await.unwrap().unwrap()).unwrap();
        let text = line.to_string();
        missing.retain(|word| !(text.contains(word) && line["level"] == "WARN"));
    }
}

#[tokio::test]
async fn unsafe_settings_of_redis_are_named() {
    let unsafe_settings = ["--maxmemory-policy", "allkeys-lru", "--repl-backlog-ttl", "3600"];
    let server = RedisServer::start_with(&unsafe_settings).await;
    let sentinels = Sentinels::start(1, server.port).await;
    let expected = ["maxmemory-policy", "repl-backlog-ttl", "min-replicas-to-write"];
    warned(&[("REDIS_ADDR", &sentinels.address())], &expected).await;
}

#[tokio::test]
async fn a_user_who_may_not_run_info_is_told_so() {
    let server = RedisServer::start_with(&["--user", "weak", "on", ">s3cret", "~*", "&*", "+@all", "-info"]).await;
    let settings = [("REDIS_ADDR", &*server.address()), ("REDIS_USERNAME", "weak"), ("REDIS_PASSWORD", "s3cret")];
    warned(&settings, &["may not run INFO"]).await;
}
