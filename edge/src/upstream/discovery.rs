//! The addresses of the fanout nodes. An address that is no longer listed is given up only once its link is down; an
//! empty answer changes nothing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rand::Rng as _;
use tokio::{net::lookup_host, task::JoinHandle, time::sleep};

use super::link::{self, Links};
use crate::defaults::DNS_INTERVAL;

/// Where fanout nodes are found, as `FANOUT_ADDR` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// `host:port` of each.
    List(Vec<String>),
    /// A name with an address for each, such as a headless Service's: `host:port`.
    Dns(String),
}

impl Discovery {
    /// `http://a:7000,http://b:7000`, or `dns://name:7000`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let discovery = if let Some(name) = text.strip_prefix("dns://") {
            Self::Dns(name.to_owned())
        } else {
            let addresses = text.split(',').map(|entry| {
                let entry = entry.trim();
                let address = entry.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
                address.map(str::to_owned).ok_or_else(|| format!("{entry:?} does not begin with http:// or dns://"))
            });
            Self::List(addresses.collect::<Result<_, _>>()?)
        };
        let addresses = match &discovery {
            Self::Dns(name) => std::slice::from_ref(name),
            Self::List(list) => list,
        };
        for address in addresses {
            let authority: http::uri::Authority =
                address.parse().map_err(|_| format!("{address:?} is no host:port"))?;
            if authority.port_u16().is_none() || authority.host().is_empty() || address.contains('@') {
                return Err(format!("{address:?} is no host:port"));
            }
        }
        Ok(discovery)
    }

    async fn addresses(&self) -> std::io::Result<BTreeSet<String>> {
        match self {
            Self::List(list) => Ok(list.iter().cloned().collect()),
            Self::Dns(name) => Ok(lookup_host(name.as_str()).await?.map(|address| address.to_string()).collect()),
        }
    }
}

/// A node that is, or was, listed.
struct Node {
    listed: Arc<AtomicBool>,
    task: JoinHandle<Option<()>>,
}

/// Keeps one link task for each listed node, until the end.
pub(super) async fn run(links: Links) {
    let end = links.end.clone();
    let discover = async {
        let mut nodes = HashMap::new();
        let discovery = links.settings().discovery.clone();
        loop {
            match discovery.addresses().await {
                Ok(addresses) if addresses.is_empty() => tracing::warn!("look up fanout nodes: an empty answer"),
                Ok(addresses) => update(&mut nodes, &addresses, &links),
                Err(error) => tracing::warn!(%error, ?discovery, "look up fanout nodes"),
            }
            match discovery {
                Discovery::List(_) => return,
                // Jittered, so that a deploy's edges do not ask in step.
                Discovery::Dns(_) => {
                    let jitter = service::rng().random_range(0.8..1.2);
                    sleep(DNS_INTERVAL.mul_f64(jitter)).await;
                }
            }
        }
    };
    end.run_until_cancelled(discover).await;
}

fn update(nodes: &mut HashMap<String, Node>, addresses: &BTreeSet<String>, links: &Links) {
    nodes.retain(|_, node| !node.task.is_finished());
    for (address, node) in &*nodes {
        node.listed.store(addresses.contains(address), Ordering::Relaxed);
    }
    for address in addresses {
        if nodes.contains_key(address) {
            continue;
        }
        tracing::info!(address, "found a fanout node");
        let listed = Arc::new(AtomicBool::new(true));
        let task = links.lifecycle.spawn(link::supervise(address.clone(), listed.clone(), links.clone()));
        nodes.insert(address.clone(), Node { listed, task });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_names_are_told_apart_and_checked() {
        let list = Discovery::List(vec!["a:7000".into(), "127.0.0.1:7001".into()]);
        assert_eq!(Discovery::parse("http://a:7000, http://127.0.0.1:7001/"), Ok(list));
        assert_eq!(Discovery::parse("dns://fanout-headless:7000"), Ok(Discovery::Dns("fanout-headless:7000".into())));
        for bad in ["", "a:7000", "http://a", "dns://", "dns://a", "http://a:7000,", "http://u@a:7000", "http://a:x"] {
            assert!(Discovery::parse(bad).is_err(), "{bad:?}");
        }
    }
}
