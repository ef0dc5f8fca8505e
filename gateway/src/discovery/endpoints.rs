//! From EndpointSlices to the addresses that may be called.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::service::Port;

/// The addresses of all endpoints that may be given new calls, sorted.
///
/// A pod may stand in several slices, while it moves between them and once for each family of addresses; it is one
/// replica all the same.
pub(super) fn addresses<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port: &Port,
) -> Vec<SocketAddr> {
    let mut found: BTreeMap<String, SocketAddr> = BTreeMap::new();
    for slice in slices {
        let Some(port) = number(slice, port) else { continue };
        for endpoint in slice.endpoints.iter().filter(|endpoint| takes_calls(endpoint)) {
            let Some(address) = address(endpoint, port) else { continue };
            match found.entry(identity(endpoint, address)) {
                Entry::Vacant(entry) => {
                    entry.insert(address);
                }
                Entry::Occupied(mut entry) if address.is_ipv4() && entry.get().is_ipv6() => {
                    entry.insert(address);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    found.into_values().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The ports that there are, for people who asked for another.
pub(super) fn ports<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Vec<String> {
    let ports = slices.into_iter().flat_map(|slice| slice.ports.iter().flatten());
    let shown = |name: Option<&str>, number: i32| format!("{:?} ({number})", name.unwrap_or_default());
    let shown: BTreeSet<_> = ports.filter_map(|port| Some(shown(port.name.as_deref(), port.port?))).collect();
    shown.into_iter().collect()
}

/// Whether any slice has the port.
pub(super) fn have<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, port: &Port) -> bool {
    slices.into_iter().any(|slice| number(slice, port).is_some())
}

fn number(slice: &EndpointSlice, wanted: &Port) -> Option<u16> {
    let ports = slice.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let numbers = tcp.filter_map(|port| Some((port.name.as_deref(), u16::try_from(port.port?).ok()?)));
    let mut fitting = numbers.filter(|(name, number)| match wanted {
        Port::Named(wanted) => *name == Some(wanted.as_str()),
        Port::Number(wanted) => number == wanted,
    });
    fitting.next().map(|(_, number)| number)
}

/// Ready, where unknown means yes, and not about to stop: what a Service says with `publishNotReadyAddresses` counts for
/// the first only.
fn takes_calls(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_none_or(|conditions| conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false))
}

/// The first address: what others may mean was never said, and the API asks to ignore them.
fn address(endpoint: &Endpoint, port: u16) -> Option<SocketAddr> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    Some(SocketAddr::new(address, port))
}

fn identity(endpoint: &Endpoint, address: SocketAddr) -> String {
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    pod.map_or_else(|| address.to_string(), |pod| format!("{pod}:{}", address.port()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(value: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(value).unwrap()
    }

    fn grpc(endpoints: serde_json::Value) -> EndpointSlice {
        let ports = json!([{ "name": "grpc", "port": 50062 }, { "name": "admin", "port": 60062 }]);
        slice(json!({ "addressType": "IPv4", "ports": ports, "endpoints": endpoints }))
    }

    fn found(slices: &[EndpointSlice], port: Port) -> Vec<String> {
        addresses(slices, &port).iter().map(ToString::to_string).collect()
    }

    fn named() -> Port {
        Port::Named("grpc".to_owned())
    }

    #[test]
    fn only_what_is_ready_and_not_about_to_stop_is_given_calls() {
        let slices = [grpc(json!([
            { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
            { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": false } },
            { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": true, "terminating": true } },
            { "addresses": ["10.0.0.4"], "conditions": { "ready": true, "terminating": true } },
            { "addresses": ["10.0.0.5"], "conditions": {} },
            { "addresses": ["10.0.0.6"] },
        ]))];
        assert_eq!(found(&slices, named()), ["10.0.0.1:50062", "10.0.0.5:50062", "10.0.0.6:50062"]);
    }

    #[test]
    fn a_port_is_found_by_name_or_number_in_each_slice() {
        let other = slice(json!({
            "addressType": "IPv4",
            "ports": [{ "name": "grpc", "port": 50072 }, { "name": "grpc", "port": 9, "protocol": "UDP" }],
            "endpoints": [{ "addresses": ["10.0.0.1"] }],
        }));
        let slices = [grpc(json!([{ "addresses": ["10.0.0.1"] }])), other];
        assert_eq!(found(&slices, named()), ["10.0.0.1:50062", "10.0.0.1:50072"]);
        assert_eq!(found(&slices, Port::Number(60062)), ["10.0.0.1:60062"]);
        assert!(found(&slices, Port::Number(9)).is_empty(), "UDP");
        assert!(have(&slices, &named()) && !have(&slices, &Port::Number(9)));
        assert_eq!(
            ports(&slices),
            ["\"admin\" (60062)", "\"grpc\" (50062)", "\"grpc\" (50072)", "\"grpc\" (9)"]
        );
    }

    #[test]
    fn a_pod_in_several_slices_is_one_replica() {
        let pod = |address: &str, uid: &str| json!({ "addresses": [address], "targetRef": { "uid": uid } });
        let ipv6 = slice(json!({
            "addressType": "IPv6",
            "ports": [{ "name": "grpc", "port": 50062 }],
            "endpoints": [pod("fd00::1", "a"), pod("fd00::2", "b")],
        }));
        let ipv4 = grpc(json!([pod("10.0.0.1", "a")]));
        let moving = grpc(json!([pod("10.0.0.1", "a"), { "addresses": ["10.0.0.7"] }]));
        let slices = [ipv6, ipv4, moving, grpc(json!([{ "addresses": ["10.0.0.7"] }]))];
        assert_eq!(found(&slices, named()), ["10.0.0.1:50062", "10.0.0.7:50062", "[fd00::2]:50062"]);
    }

    #[test]
    fn names_of_hosts_are_no_addresses() {
        let slices = [grpc(json!([{ "addresses": ["pod.example"] }, { "addresses": [] }]))];
        assert!(found(&slices, named()).is_empty());
    }
}
