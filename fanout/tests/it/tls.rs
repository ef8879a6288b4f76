//! Redis over TLS.

use std::{path::Path, process::Command, sync::Arc};

use fanout::broker::{
    Events,
    redis::{Redis, RedisSettings},
};
use service::{Lifecycle, settings::Secret};
use tokio_util::sync::CancellationToken;

use crate::{
    redis_server::{RedisServer, free_port},
    subject::{Recorder, Subject, keep},
    support::eventually,
};

/// An authority, or a certificate for 127.0.0.1 by one, and its key.
fn certificate(files: &Path, name: &str, by: Option<&str>) {
    let file = |name: &str, kind: &str| files.join(format!("{name}.{kind}")).to_str().unwrap().to_owned();
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]);
    command.args(["-subj", &format!("/CN={name}"), "-keyout", &file(name, "key"), "-out", &file(name, "pem")]);
    if let Some(by) = by {
        command.args(["-CA", &file(by, "pem"), "-CAkey", &file(by, "key"), "-addext", "subjectAltName=IP:127.0.0.1"]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    let output = command.output().unwrap_or_else(|error| panic!("this test needs openssl: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn redis_over_tls_is_who_its_authority_says() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    certificate(files.path(), "authority", None);
    certificate(files.path(), "stranger", None);
    certificate(files.path(), "server", Some("authority"));
    let tls = free_port();
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &tls.to_string(),
        "--tls-cert-file",
        &text("server.pem"),
        "--tls-key-file",
        &text("server.key"),
        "--tls-ca-cert-file",
        &text("authority.pem"),
        "--tls-auth-clients",
        "no",
        "--user",
        "espigon",
        "on",
        ">s3cret",
        "~rt:*",
        "&rt:*",
        "+@all",
        "-@dangerous",
        "+info",
    ])
    .await;
    let start = |ca: &str| {
        let (events, lifecycle, end) = (Arc::<Recorder>::default(), Lifecycle::new(), CancellationToken::new());
        let settings = RedisSettings {
            address: format!("rediss://127.0.0.1:{tls}").parse().unwrap(),
            username: Some("espigon".to_owned()),
            password: Some(Secret::new("s3cret")),
            ca: Some(path(ca)),
            prefix: "rt".to_owned(),
            cluster: false,
        };
        let broker = Redis::start(settings, keep(), Arc::clone(&events) as Arc<dyn Events>, &lifecycle, &end);
        Subject { broker: Arc::new(broker), events, server: None, lifecycle, end }
    };
    let trusting = start("authority.pem");
    trusting.ready().await;
    trusting.subscribe("a").await;
    let position = trusting.publish("a", vec![b'x'; 60_000]).await.position;
    assert_eq!(trusting.events.announced().await.position, position);
    // One that trusts others only says no word that needs it, such as a password.
    let refusing = start("stranger.pem");
    let connections = async || server.ask::<String>(&["INFO", "stats"]).await;
    let received = |stats: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        line.parse().unwrap()
    };
    let before = received(&connections().await);
    eventually("tries", async || received(&connections().await) > before + 10).await;
    assert!(!refusing.broker.health().ready);
    let clients: String = server.ask(&["CLIENT", "LIST"]).await;
    assert_eq!(clients.matches("user=espigon").count(), 2, "{clients}");
    trusting.finish().await;
    refusing.finish().await;
}
