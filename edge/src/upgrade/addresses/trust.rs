use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// `TRUSTED_PROXIES`: whose `X-Forwarded-For` counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Box<[IpNet]>);

impl TrustedProxies {
    /// Reads the setting: addresses and networks, comma-separated; blank: none.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let network = |entry: &str| {
            let address = entry.parse::<IpAddr>().map(IpNet::from);
            address
                .or_else(|_| entry.parse())
                .map_err(|_| format!("{entry:?} is no address, and no network like 10.0.0.0/8"))
        };
        entries.map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Where a request came from: the last one on its way that is no proxy of ours. Each proxy adds the address that it was
    /// asked from, at the end; what stands before one that is not ours is hearsay.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut before = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        while self.trusts(client) {
            let Some(next) = before.next().and_then(address) else { break };
            client = next;
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.parse().ok().or_else(|| text.parse::<SocketAddr>().map(|address| address.ip()).ok());
    plain.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_a_list_of_addresses_and_networks() {
        assert_eq!(TrustedProxies::try_new(" ").unwrap(), TrustedProxies::default());
        assert_eq!(TrustedProxies::try_new("10.0.0.0/8, 2001:db8::/32,192.0.2.1").unwrap().0.len(), 3);
        for bad in ["proxy.example", "10.0.0.0/33", "10.0.0", "10.0.0.1:80"] {
            assert!(TrustedProxies::try_new(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn only_what_trusted_proxies_add_is_believed() {
        let proxies = TrustedProxies::try_new("10.0.0.0/8,2001:db8::1").unwrap();
        for (peer, lines, client) in [
            ("192.0.2.7", &[][..], "192.0.2.7"),
            // A client that says it is another.
            ("192.0.2.7", &["198.51.100.1"], "192.0.2.7"),
            ("10.0.0.1", &["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
            // Through two of ours.
            ("10.0.0.1", &["198.51.100.1, 192.0.2.7,10.9.9.9"], "192.0.2.7"),
            ("::ffff:10.0.0.1", &["192.0.2.7:1234"], "192.0.2.7"),
            ("2001:db8::1", &["[2001:db8::7]:80"], "2001:db8::7"),
            // The proxy itself, or one that hides who asked it.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.7, "], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            assert_eq!(proxies.client(peer.parse().unwrap(), &headers).to_string(), client, "{peer} {lines:?}");
        }
    }
}
