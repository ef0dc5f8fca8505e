//! The HTTP door with TLS: what is spoken, who is let in, and a certificate that is replaced.

use std::{io, path::Path, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use weft_runtime::{RuntimeConfig, pipe::Pipe, tls::ServerTls};

use super::client::raw;
use crate::front::{Front, More};

/// A folder with an authority, and what it signs.
struct Papers {
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Papers {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let papers = Self { folder: tempfile::tempdir().unwrap(), authority };
        std::fs::write(papers.path("ca.pem"), papers.authority.pem()).unwrap();
        papers.sign("gateway");
        papers.sign("caller");
        papers
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(file)
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        std::fs::write(
            self.path(&format!("{name}.pem")),
            params.signed_by(&key, &self.authority).unwrap().pem(),
        )
        .unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// A gateway with this certificate; `mutual` lets in only who shows one, too.
    async fn front(&self, mutual: bool) -> Front {
        let mut process = RuntimeConfig::default();
        process.server.tls = Some(ServerTls {
            certificate: self.path("gateway.pem"),
            key: self.path("gateway.key"),
            client_ca: mutual.then(|| self.path("ca.pem")),
        });
        let front = Front::within(process, "", More::default());
        front.gateway.context.health.serving().await;
        front
    }

    /// A connection on which this is offered; `shown` is whose certificate is shown.
    async fn connect(
        &self,
        front: &Front,
        offered: &[&str],
        shown: Option<&str>,
    ) -> io::Result<TlsStream<Pipe>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match shown {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(vec![chain], key).unwrap()
            }
        };
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("gateway").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, front.http.connect().unwrap()).await
    }
}

/// Asks for the models on a connection that stays open.
async fn models(connection: &mut TlsStream<Pipe>) -> io::Result<String> {
    connection.write_all(b"GET /v1/models HTTP/1.1\r\nhost: weft\r\n\r\n").await?;
    let mut answer = vec![0; 16 * 1024];
    let read = connection.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

fn spoken(connection: &TlsStream<Pipe>) -> Option<&[u8]> {
    connection.get_ref().1.alpn_protocol()
}

#[tokio::test(start_paused = true)]
async fn both_protocols_are_spoken_and_plain_text_is_not() {
    let papers = Papers::new();
    let front = papers.front(false).await;
    let both = papers.connect(&front, &["h2", "http/1.1"], None).await.unwrap();
    assert_eq!(spoken(&both), Some(&b"h2"[..]));
    for offered in [&["http/1.1"][..], &[]] {
        let mut older = papers.connect(&front, offered, None).await.unwrap();
        assert_eq!(spoken(&older), offered.first().map(|name| name.as_bytes()));
        let answer = models(&mut older).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert!(papers.connect(&front, &["http/1.0"], None).await.is_err(), "nothing in common");
    let sent = b"GET /v1/models HTTP/1.1\r\nhost: weft\r\n\r\n";
    let plain = raw(&front, sent).await;
    assert!(!plain.windows(5).any(|bytes| bytes == b"HTTP/"), "{plain:?}");
}

#[tokio::test(start_paused = true)]
async fn mutual_tls_lets_in_who_shows_a_certificate() {
    let papers = Papers::new();
    let front = papers.front(true).await;
    let mut known = papers.connect(&front, &["http/1.1"], Some("caller")).await.unwrap();
    assert!(models(&mut known).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    // With TLS 1.3 a caller learns that it was turned away when it reads.
    let turned_away = async {
        let mut unknown = papers.connect(&front, &["http/1.1"], None).await?;
        models(&mut unknown).await
    };
    assert!(turned_away.await.unwrap_err().to_string().contains("CertificateRequired"));
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let papers = Papers::new();
    let front = papers.front(false).await;
    let shown = |connection: &TlsStream<Pipe>| connection.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut before = papers.connect(&front, &["http/1.1"], None).await.unwrap();
    papers.sign("gateway");
    // Longer than between two looks at the files.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut after = papers.connect(&front, &["http/1.1"], None).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    for connection in [&mut before, &mut after] {
        assert!(models(connection).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
}
