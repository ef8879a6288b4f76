//! TLS 1.2 and 1.3 with certificates from files that are watched, so that they are renewed without dropping a connection:
//! each new one gets what the files held last.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use crate::Socket;

/// How often files are read again; as those of secrets.
const PERIOD: Duration = Duration::from_secs(2);

/// From the connection's start to the end of its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Where the PEM files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, our own certificate first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Who signs the other side's certificates.
    pub ca: Option<PathBuf>,
}

/// A setting's name and value.
pub type Setting<'a> = (&'a str, Option<&'a Path>);

/// What they held.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// Why there is no TLS with these files. Never holds anything of a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}: {1}")]
    Read(PathBuf, io::Error),
    #[error("{0}: no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("{0}: no private key in PEM")]
    NoKey(PathBuf),
    #[error("{0}: {1}")]
    Unusable(PathBuf, rustls::Error),
    #[error("{0}: {1}")]
    Ca(PathBuf, rustls::server::VerifierBuilderError),
}

/// Protocols offered (ALPN), the preferred one first.
pub type Protocols = &'static [&'static [u8]];

impl Files {
    /// As two settings name them, each no use without the other. `Err` names the one that is missing.
    pub fn of(cert: Setting<'_>, key: Setting<'_>, ca: Option<&Path>) -> Result<Option<Self>, String> {
        match (cert.1, key.1) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(format!("{} is set, so {} must be", cert.0, key.0)),
            (None, Some(_)) => Err(format!("{} is set, so {} must be", key.0, cert.0)),
            (Some(cert), Some(key)) => Ok(Some(Self { cert: cert.into(), key: key.into(), ca: ca.map(Into::into) })),
        }
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| TlsError::Read(path.clone(), error));
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)?, ca: self.ca.as_ref().map(read).transpose()? })
    }

    fn identity(
        &self,
        contents: &Contents,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(&self.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| TlsError::NoKey(self.key.clone()))?;
        Ok((chain, key))
    }

    fn roots(&self, contents: &Contents) -> Result<Option<(&Path, RootCertStore)>, TlsError> {
        let (Some(path), Some(pem)) = (&self.ca, &contents.ca) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, pem)? {
            roots.add(certificate).map_err(|error| TlsError::Unusable(path.clone(), error))?;
        }
        Ok(Some((path, roots)))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::NoCertificate(path.to_owned());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if chain.is_empty() { Err(none()) } else { Ok(chain) }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The server's side. With a CA it takes only clients that show a certificate of it.
#[derive(Debug)]
pub struct ServerTls {
    files: Files,
    protocols: Protocols,
    config: ArcSwap<ServerConfig>,
    failures: Counter,
}

impl ServerTls {
    /// `failures` counts handshakes that failed.
    pub fn new(files: Files, protocols: Protocols, failures: Counter) -> Result<Self, TlsError> {
        let config = ArcSwap::new(server_config(&files, &files.read()?, protocols)?);
        Ok(Self { files, protocols, config, failures })
    }

    /// Follows the files for as long as it is polled. What cannot be used leaves the old in force, is logged once and
    /// tried again when it changes.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = self.files.read().ok();
        loop {
            ticks.tick().await;
            let Ok(contents) = self.files.read() else {
                if last.take().is_some() {
                    tracing::warn!(files = ?self.files, "a certificate's files cannot be read: keeping the old one");
                }
                continue;
            };
            if last.as_ref() == Some(&contents) {
                continue;
            }
            match server_config(&self.files, &contents, self.protocols) {
                Ok(config) => {
                    self.config.store(config);
                    tracing::info!(cert = ?self.files.cert, "a certificate was changed");
                }
                Err(error) => tracing::warn!(%error, "a new certificate is bad: keeping the old one"),
            }
            last = Some(contents);
        }
    }

    /// Does the handshake, in time or not at all.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Socket> {
        let accepting = TlsAcceptor::from(self.config.load_full()).accept(stream);
        let accepted = timeout(HANDSHAKE, accepting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        accepted.map(|stream| Socket::Tls(Box::new(stream))).inspect_err(|_| {
            self.failures.inc();
        })
    }
}

fn server_config(files: &Files, contents: &Contents, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = files.identity(contents)?;
    let verifier: Arc<dyn ClientCertVerifier> = match files.roots(contents)? {
        None => Arc::new(NoClientAuth),
        Some((path, roots)) => WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Ca(path.to_owned(), error))?,
    };
    let unusable = |error| TlsError::Unusable(files.cert.clone(), error);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The client's side: it shows its certificate, and takes only servers with one of the CA.
#[derive(Debug, Clone)]
pub struct ClientTls {
    files: Files,
    protocols: Protocols,
}

impl ClientTls {
    /// Checks that the files can be used now; they are read again for each connection.
    pub fn new(files: Files, protocols: Protocols) -> Result<Self, TlsError> {
        let tls = Self { files, protocols };
        tls.config()?;
        Ok(tls)
    }

    /// Does the handshake with whom must be `name`.
    pub async fn connect(&self, stream: TcpStream, name: &str) -> io::Result<client::TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        timeout(HANDSHAKE, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let contents = self.files.read()?;
        let (chain, key) = self.files.identity(&contents)?;
        let roots = self.files.roots(&contents)?.map_or_else(RootCertStore::empty, |(_, roots)| roots);
        let unusable = |error| TlsError::Unusable(self.files.cert.clone(), error);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests;
