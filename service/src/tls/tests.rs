use std::net::SocketAddr;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const H2: Protocols = &[b"h2"];

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes a new certificate for `name` and its key, and the CA's own.
    fn issue(&self, at: &Files, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        std::fs::write(&at.cert, certificate.pem()).unwrap();
        std::fs::write(&at.key, key.serialize_pem()).unwrap();
        if let Some(ca) = &at.ca {
            std::fs::write(ca, self.0.pem()).unwrap();
        }
    }
}

fn files(at: &TempDir, name: &str) -> Files {
    let path = |end: &str| at.path().join(format!("{name}.{end}"));
    Files { cert: path("crt"), key: path("key"), ca: Some(path("ca")) }
}

/// Connects, and says what the server's own certificate is, or why there is no connection.
async fn meet(server: &ServerTls, client: &ClientTls, name: &str) -> io::Result<CertificateDer<'static>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let serving = async {
        let mut socket = server.accept(listener.accept().await.unwrap().0).await?;
        socket.first_byte().await?;
        let mut said = [0; 5];
        socket.read_exact(&mut said).await?;
        socket.write_all(&said).await?;
        socket.flush().await
    };
    let asking = async {
        let mut stream = client.connect(TcpStream::connect(address).await?, name).await?;
        stream.write_all(b"hello").await?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await?;
        assert_eq!((&said, stream.get_ref().1.alpn_protocol()), (b"hello", Some(&b"h2"[..])));
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
    };
    let (answered, asked) = tokio::join!(serving, asking);
    asked.and_then(|certificate| answered.map(|()| certificate))
}

#[tokio::test]
async fn both_sides_prove_themselves() {
    let (at, ca, other) = (TempDir::new().unwrap(), Ca::new(), Ca::new());
    let (server, client, stranger) = (files(&at, "server"), files(&at, "client"), files(&at, "stranger"));
    ca.issue(&server, "fanout.example");
    ca.issue(&client, "edge.example");
    // Of another CA, though it takes this one's server.
    other.issue(&stranger, "edge.example");
    std::fs::copy(server.ca.as_ref().unwrap(), stranger.ca.as_ref().unwrap()).unwrap();

    let tls = ServerTls::new(server.clone(), H2, Counter::default()).unwrap();
    let known = ClientTls::new(client, H2).unwrap();
    meet(&tls, &known, "fanout.example").await.unwrap();
    assert_eq!(tls.failures.get(), 0);
    meet(&tls, &known, "other.example").await.unwrap_err();
    meet(&tls, &ClientTls::new(stranger.clone(), H2).unwrap(), "fanout.example").await.unwrap_err();
    assert_eq!(tls.failures.get(), 2);
    // A server of another CA.
    other.issue(&server, "fanout.example");
    meet(&ServerTls::new(server, H2, Counter::default()).unwrap(), &known, "fanout.example").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_and_a_bad_one_left() {
    let (at, ca) = (TempDir::new().unwrap(), Ca::new());
    let server = files(&at, "server");
    ca.issue(&server, "a.example");
    let tls = Arc::new(ServerTls::new(server.clone(), H2, Counter::default()).unwrap());
    let first = tls.config.load_full();
    let watching = tls.clone().watch();
    tokio::pin!(watching);
    let mut look = async || timeout(PERIOD * 2, watching.as_mut()).await.unwrap_err();

    look().await;
    assert!(Arc::ptr_eq(&first, &tls.config.load_full()), "nothing changed");
    let key = std::fs::read(&server.key).unwrap();
    for (path, bad) in [(&server.cert, &b"no PEM"[..]), (&server.key, b""), (&server.cert, &key)] {
        std::fs::write(path, bad).unwrap();
        look().await;
    }
    std::fs::remove_file(&server.cert).unwrap();
    look().await;
    assert!(Arc::ptr_eq(&first, &tls.config.load_full()), "bad ones are left");
    ca.issue(&server, "a.example");
    look().await;
    assert!(!Arc::ptr_eq(&first, &tls.config.load_full()));
}

#[tokio::test]
async fn who_does_not_shake_hands_is_let_go() {
    let (at, ca) = (TempDir::new().unwrap(), Ca::new());
    let server = files(&at, "server");
    ca.issue(&server, "a.example");
    let tls = ServerTls::new(server, H2, Counter::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    // Its limit is over at once, as there is nothing else to do.
    tokio::time::pause();
    assert_eq!(tls.accept(accepted).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(tls.failures.get(), 1);
    drop(silent);
}

#[test]
fn what_cannot_be_used_is_named_and_not_shown() {
    let (at, ca) = (TempDir::new().unwrap(), Ca::new());
    let server = files(&at, "server");
    let refused = || ServerTls::new(server.clone(), H2, Counter::default()).unwrap_err().to_string();
    assert!(refused().contains("server.crt"));
    ca.issue(&server, "a.example");
    let other = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(&server.key, &other).unwrap();
    let error = refused();
    assert!(error.contains("server.crt") && !error.contains(&other[30..40]), "{error}");
    std::fs::write(&server.key, "hidden").unwrap();
    assert!(refused().contains("server.key") && !refused().contains("hidden"));

    let path = Path::new("x");
    let named = |cert, key| Files::of(("CERT", cert), ("KEY", key), None);
    assert_eq!(named(None, None), Ok(None));
    assert!(named(Some(path), Some(path)).unwrap().is_some());
    assert!(named(Some(path), None).unwrap_err().ends_with("KEY must be"));
    assert!(named(None, Some(path)).unwrap_err().ends_with("CERT must be"));
}
