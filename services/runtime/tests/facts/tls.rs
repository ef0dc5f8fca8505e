//! TLS and mutual TLS, certificates that are expired, and certificates that change.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tonic::Code;
use weft_proto::tokenizer::v1::GetTokenizerInfoRequest;
use weft_runtime::{
    RuntimeConfig,
    client::ClientConfig,
    tls::{ClientTls, ServerTls},
};

use crate::support::{Client, Served, encode, metric, outgoing};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(folder: &Path, file: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, file);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join(file), authority.pem()).unwrap();
    authority
}

/// A certificate for `name` and its key, in `NAME.pem` and `NAME.key`.
fn certificate(folder: &Path, authority: &Authority, name: &str, ends: (i32, u8, u8)) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(ends.0, ends.1, ends.2);
    params.distinguished_name.push(DnType::CommonName, format!("{name} itself"));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

const FAR: (i32, u8, u8) = (2120, 1, 1);
const PAST: (i32, u8, u8) = (2021, 1, 1);

/// Trust in an authority that nobody has a certificate of.
pub(crate) fn trust(folder: &Path) -> ClientTls {
    authority(folder, "ca.pem");
    ClientTls { ca: folder.join("ca.pem"), server_name: Some("tokenizer".to_owned()), ..ClientTls::default() }
}

fn server(folder: &Path, client_ca: bool) -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.tls = Some(ServerTls {
        certificate: folder.join("tokenizer.pem"),
        key: folder.join("tokenizer.key"),
        client_ca: client_ca.then(|| folder.join("ca.pem")),
    });
    config
}

fn client(served: &Served, folder: &Path, identity: Option<&str>) -> Client {
    let tls = ClientTls {
        ca: folder.join("ca.pem"),
        certificate: identity.map(|name| folder.join(format!("{name}.pem"))),
        key: identity.map(|name| folder.join(format!("{name}.key"))),
        server_name: Some("tokenizer".to_owned()),
    };
    Client::new(outgoing(&served.connector, &ClientConfig { tls: Some(tls), ..ClientConfig::default() }))
}

#[tokio::test]
async fn a_call_over_tls_is_served_and_one_without_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "ca.pem");
    certificate(folder.path(), &ca, "tokenizer", FAR);
    let served = Served::with(server(folder.path(), false)).await;
    client(&served, folder.path(), None).encode(encode("a")).await.unwrap();
    assert_eq!(served.client().encode(encode("a")).await.unwrap_err().code(), Code::Unavailable);

    // Somebody else's authority.
    let other = tempfile::tempdir().unwrap();
    authority(other.path(), "ca.pem");
    let status = client(&served, other.path(), None).encode(encode("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("certificate"), "{status:?}");
}

#[tokio::test]
async fn mutual_tls_lets_in_who_shows_a_certificate_and_tells_the_service_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "ca.pem");
    for name in ["tokenizer", "gateway"] {
        certificate(folder.path(), &ca, name, FAR);
    }
    let served = Served::with(server(folder.path(), true)).await;
    let mut known = client(&served, folder.path(), Some("gateway"));
    let info = known.get_tokenizer_info(GetTokenizerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.version, "gateway,gateway itself");
    let unknown = client(&served, folder.path(), None).encode(encode("a")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable);
    assert!(metric(&served.context, "weft_server_handshakes_failed_total") >= 1.0);
}

#[tokio::test]
async fn a_server_does_not_start_with_a_certificate_that_nobody_would_accept() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "ca.pem");
    let failure = async || {
        let served = Served::starting(server(folder.path(), false), std::future::pending());
        weft_runtime::status::chain(&*served.running.await.unwrap().unwrap_err())
    };
    assert!(failure().await.contains("cannot read"));

    certificate(folder.path(), &ca, "tokenizer", PAST);
    let expired = failure().await;
    assert!(expired.contains("tokenizer.pem is valid from") && expired.contains("2021"), "{expired}");

    certificate(folder.path(), &ca, "tokenizer", FAR);
    std::fs::write(folder.path().join("tokenizer.pem"), "garbage").unwrap();
    assert!(failure().await.contains("tokenizer.pem holds no certificate in PEM"));

    certificate(folder.path(), &ca, "tokenizer", FAR);
    certificate(folder.path(), &ca, "gateway", FAR);
    std::fs::copy(folder.path().join("gateway.key"), folder.path().join("tokenizer.key")).unwrap();
    let mixed = failure().await;
    assert!(mixed.contains("tokenizer.pem is not usable"), "{mixed}");
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_taken_over_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "ca.pem");
    certificate(folder.path(), &ca, "tokenizer", FAR);
    let served = Served::with(server(folder.path(), false)).await;
    let reloads =
        |outcome: &str| metric(&served.context, &format!("weft_tls_reloads_total{{outcome=\"{outcome}\"}}"));
    let end = || metric(&served.context, "weft_tls_certificate_end_timestamp_seconds");
    let look = async || tokio::time::sleep(Duration::from_secs(11)).await;
    let first = end();
    assert!(first > SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64());

    // An expired certificate, and half a file: the old one serves on.
    certificate(folder.path(), &ca, "tokenizer", PAST);
    look().await;
    assert_eq!((reloads("refused"), end()), (1.0, first));
    std::fs::write(folder.path().join("tokenizer.pem"), "-----BEGIN").unwrap();
    look().await;
    assert_eq!((reloads("refused"), end()), (2.0, first));
    client(&served, folder.path(), None).encode(encode("a")).await.unwrap();

    // A good one, of a new authority.
    let ca = authority(folder.path(), "ca.pem");
    certificate(folder.path(), &ca, "tokenizer", (2121, 1, 1));
    look().await;
    assert_eq!(reloads("taken over"), 1.0);
    assert!(end() > first);
    client(&served, folder.path(), None).encode(encode("a")).await.unwrap();
}
