//! TLS on all ways in: `wss://` for clients, both sides' certificates between the tiers, `https://` for backends.

use std::{path::PathBuf, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::harness::{Edge, LINK_TOKEN, Stage, Token, eventually, metric, readyz, soon};

/// A certificate authority, and the files that it has written.
struct Ca {
    at: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

type Wss = WebSocketStream<Box<TlsStream<TcpStream>>>;

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let at = TempDir::new().unwrap();
        std::fs::write(at.path().join("ca"), ca.pem()).unwrap();
        Self { at, ca }
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.at.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    /// Writes a new certificate for loopback, and its key.
    fn issue(&self) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(self.path("cert"), params.signed_by(&key, &self.ca).unwrap().pem()).unwrap();
        std::fs::write(self.path("key"), key.serialize_pem()).unwrap();
    }

    async fn connect(&self, edge: &Edge) -> Wss {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(edge.ws).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let url = format!("wss://{}/ws?token={}", edge.ws, Token::of("ana").sign());
        soon("an upgrade", Box::pin(client_async(url, Box::new(stream)))).await.unwrap().0
    }
}

async fn next(client: &mut Wss, kind: &str) -> Value {
    loop {
        let Message::Text(text) = soon(kind, client.next()).await.unwrap().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == kind {
            return message;
        }
    }
}

fn certificate(client: &Wss) -> Vec<u8> {
    client.get_ref().get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_tiers_and_backends_meet_by_tls_and_certificates_are_renewed() {
    const BODY: &str = r#""a body that is long enough to fill a record of TLS when there are some hundreds of it""#;
    const COUNT: u64 = 600;
    let ca = Ca::new();
    ca.issue();
    let mut plan = Stage::plan();
    for of in ["TLS", "API_TLS", "LINK_TLS"] {
        plan = plan.with(&format!("{of}_CERT"), ca.path("cert")).with(&format!("{of}_KEY"), ca.path("key"));
    }
    // A burst of them waits for one client.
    let stage = plan.with("LINK_TLS_CA", ca.path("ca")).with("SEND_QUEUE", "1000").start().await;
    let (edge, fanout) = (stage.edge(0), stage.fanout(0));
    let mut client = ca.connect(edge).await;
    let first = certificate(&client);
    client.send(Message::text(json!({"type": "join", "payload": {"room": "lobby"}}).to_string())).await.unwrap();
    while next(&mut client, "joined").await["payload"]["room"] != "lobby" {}

    let root = reqwest::Certificate::from_pem(&std::fs::read(ca.path("ca")).unwrap()).unwrap();
    let backend = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{}/v1/rooms/lobby/publications", fanout.api);
    for _ in 0..COUNT {
        let publish = backend.post(&url).header("content-type", "application/json");
        let answer = publish.body(format!(r#"{{"body":{BODY}}}"#)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    for seq in 1..=COUNT {
        assert_eq!(next(&mut client, "message").await["seq"], seq);
    }

    ca.issue();
    eventually("a renewed certificate", async || certificate(&ca.connect(edge).await) != first).await;
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    next(&mut client, "pong").await;

    // In the clear nobody is answered, and an edge without a certificate gets no link, whatever else it shows.
    let in_the_clear = reqwest::Client::builder().no_proxy().build().unwrap();
    in_the_clear.get(format!("http://{}/ws", edge.ws)).send().await.unwrap_err();
    eventually("counted", async || metric(edge.ops, "espigon_edge_tls_failures_total").await == 1).await;
    let stranger = Edge::start(&[fanout.link], &[("LINK_TOKEN".to_owned(), LINK_TOKEN.to_owned())]);
    eventually("refused", async || metric(fanout.ops, "espigon_fanout_tls_failures_total").await >= 3).await;
    assert!(readyz(stranger.ops).await.1.contains("no link"));
}
