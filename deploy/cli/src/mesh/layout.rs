//! Who listens where: read from the services' own config files, moved by the port offset.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Member, Settings, jaeger};
use crate::failure::Failure;

/// The admin port of a service, where its config names none, is its gRPC port plus this.
const ADMIN_DISTANCE: u16 = 10_000;

/// The port of OpenAI's HTTP API, where the gateway's config names none.
const HTTP_PORT: u16 = 8080;

/// Where one service listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// gRPC.
    pub(crate) listen: SocketAddr,
    /// `/metrics`, `/livez`, `/readyz`.
    pub(crate) admin: SocketAddr,
    /// OpenAI's HTTP API: of the gateway, where its config has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<SocketAddr>,
}

/// Where every member listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    services: BTreeMap<Member, Ports>,
    /// Jaeger's ports; `None` where the mesh has no Jaeger.
    pub(crate) jaeger: Option<jaeger::Ports>,
}

impl Layout {
    /// Reads the services' config files.
    ///
    /// # Errors
    /// A file is not there, or the offset moves a port beyond 65535.
    pub(crate) fn read(settings: &Settings) -> anyhow::Result<Self> {
        let offset = settings.port_offset;
        let mut services = BTreeMap::new();
        for member in Member::SERVICES {
            services.insert(member, Ports::read(&settings.config_dir, member)?.moved(offset, member)?);
        }
        let jaeger = settings.jaeger.then(|| jaeger::Ports::default().moved(offset)).transpose()?;
        Ok(Self { services, jaeger })
    }

    /// Where a service listens. Jaeger is no service.
    pub(crate) fn ports(&self, member: Member) -> Option<Ports> {
        self.services.get(&member).copied()
    }

    /// Every address that a member listens on, and what it is for.
    pub(crate) fn addresses(&self, member: Member) -> Vec<(&'static str, SocketAddr)> {
        if let Some(ports) = self.ports(member) {
            let http = ports.http.map(|address| ("HTTP", address));
            return [("gRPC", ports.listen), ("admin", ports.admin)].into_iter().chain(http).collect();
        }
        self.jaeger.iter().flat_map(jaeger::Ports::addresses).collect()
    }

    /// The address that a client on this machine uses for a service's gRPC port.
    pub(crate) fn client_address(&self, member: Member) -> Option<String> {
        Some(format!("http://{}", reachable(self.ports(member)?.listen)))
    }

    /// The address of a page on a service's admin port.
    pub(crate) fn admin_page(&self, member: Member, path: &str) -> Option<String> {
        Some(format!("http://{}{path}", reachable(self.ports(member)?.admin)))
    }

    /// The environment that makes a member listen where this layout says. Empty where its config already says so.
    pub(crate) fn environment(&self, member: Member, offset: u16) -> BTreeMap<String, String> {
        let Some(ports) = self.ports(member).filter(|_| offset > 0) else { return BTreeMap::new() };
        let mut env = BTreeMap::from([
            ("WEFT__SERVER__LISTEN".to_owned(), ports.listen.to_string()),
            ("WEFT__SERVER__ADMIN".to_owned(), ports.admin.to_string()),
        ]);
        env.extend(ports.http.map(|address| ("WEFT__HTTP__LISTEN".to_owned(), address.to_string())));
        if member == Member::Gateway {
            let peers = [Member::Tokenizer, Member::Inference, Member::Safety];
            env.extend(
                peers.into_iter().filter_map(|peer| Some((peer_key(peer), self.client_address(peer)?))),
            );
        }
        env
    }
}

/// The key of the gateway's config that names a peer's address.
fn peer_key(peer: Member) -> String {
    format!("WEFT__{}__ADDRESS", peer.name().to_uppercase())
}

impl Ports {
    fn read(config_dir: &Path, member: Member) -> anyhow::Result<Self> {
        let path = config_dir.join(member.name()).with_extension("toml");
        let text = fs::read_to_string(&path).with_context(|| {
            Failure::new(format!("{} cannot be read", path.display()))
                .next("name the folder of gateway.toml, tokenizer.toml, … with --config-dir")
        })?;
        Ok(Self::from_toml(&text, member))
    }

    /// What cannot be read here takes its default: the service itself says, and better, what is wrong with its file.
    fn from_toml(text: &str, member: Member) -> Self {
        let file: toml::Table = text.parse().unwrap_or_default();
        let address = |section, key| file.get(section)?.get(key)?.as_str()?.parse().ok();
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listen: SocketAddr = address("server", "listen").unwrap_or_else(|| here(member.default_port()));
        Self {
            listen,
            admin: address("server", "admin").unwrap_or_else(|| here(member.default_port() + ADMIN_DISTANCE)),
            http: (member == Member::Gateway && has_http(&file))
                .then(|| address("http", "listen").unwrap_or_else(|| here(HTTP_PORT))),
        }
    }

    fn moved(self, offset: u16, member: Member) -> anyhow::Result<Self> {
        let moved = |address: SocketAddr| {
            let port = moved_port(address.port(), offset, member)?;
            anyhow::Ok(SocketAddr::new(address.ip(), port))
        };
        Ok(Self {
            listen: moved(self.listen)?,
            admin: moved(self.admin)?,
            http: self.http.map(moved).transpose()?,
        })
    }
}

/// Whether the gateway's file leaves its HTTP door on, as it is unless switched off.
fn has_http(file: &toml::Table) -> bool {
    file.get("http").and_then(|http| http.get("enabled")?.as_bool()).unwrap_or(true)
}

/// A port moved by the offset.
///
/// # Errors
/// There is no such port.
pub(crate) fn moved_port(port: u16, offset: u16, member: Member) -> anyhow::Result<u16> {
    let moved = port.checked_add(offset).ok_or_else(|| {
        Failure::new(format!("--port-offset {offset} moves port {port} of {member} beyond 65535"))
            .next("take an offset of at most 5000")
    })?;
    Ok(moved)
}

/// A service that listens everywhere is reached at loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_from_the_services_own_config() {
        let ports = Ports::from_toml(
            "[server]\nlisten = \"0.0.0.0:7000\"\nadmin = \"127.0.0.1:7001\"",
            Member::Safety,
        );
        assert_eq!(ports.listen, "0.0.0.0:7000".parse().unwrap());
        assert_eq!(ports.admin, "127.0.0.1:7001".parse().unwrap());
        assert_eq!(reachable(ports.listen), "127.0.0.1:7000".parse().unwrap());
    }

    #[test]
    fn a_config_that_names_no_port_means_the_documented_one() {
        let ports = Ports::from_toml("", Member::Inference);
        assert_eq!((ports.listen.port(), ports.admin.port(), ports.http), (50062, 60062, None));
    }

    #[test]
    fn the_gateway_has_an_http_door_unless_its_config_says_otherwise() {
        let http = |text| Ports::from_toml(text, Member::Gateway).http.map(|address| address.to_string());
        assert_eq!(http("").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(http("[http]\nlisten = \"0.0.0.0:80\"").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(http("[http]\nenabled = false"), None);
    }

    #[test]
    fn an_offset_moves_every_port_and_tells_the_gateway_where_its_peers_are() {
        let services = Member::SERVICES.map(|m| (m, Ports::from_toml("", m).moved(100, m).unwrap()));
        let layout = Layout { services: BTreeMap::from(services), jaeger: None };
        let env = layout.environment(Member::Gateway, 100);
        assert_eq!(env["WEFT__SERVER__LISTEN"], "127.0.0.1:50151");
        assert_eq!(env["WEFT__HTTP__LISTEN"], "127.0.0.1:8180");
        assert_eq!(env["WEFT__INFERENCE__ADDRESS"], "http://127.0.0.1:50162");
        assert_eq!(layout.environment(Member::Safety, 100).len(), 2);
        assert!(layout.environment(Member::Safety, 0).is_empty());
    }

    #[test]
    fn an_offset_that_leaves_the_range_names_the_port() {
        let error = Ports::from_toml("", Member::Gateway).moved(6000, Member::Gateway).unwrap_err();
        assert!(error.to_string().contains("port 60051 of gateway"), "{error}");
    }
}
