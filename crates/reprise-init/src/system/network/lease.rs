//! What the DHCP client tells: it starts this program as its script, which passes the news on to the first process.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The name this program has as a script.
pub const HOOK_NAME: &str = "reprise-dhcp";
/// Environment variable that says where the first process listens.
pub(crate) const SOCKET_VARIABLE: &str = "REPRISE_LEASE_SOCKET";
/// Most name servers and NTP servers taken from one answer.
const SERVERS_MAX: usize = 4;
/// Longest message from the script.
pub(crate) const MESSAGE_LEN_MAX: usize = 4096;

/// What a server granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// Its prefix length.
    pub(crate) prefix: u8,
    /// The default gateway.
    pub(crate) router: Option<Ipv4Addr>,
    /// Name servers.
    pub(crate) nameservers: Vec<IpAddr>,
    /// NTP servers.
    pub(crate) time_servers: Vec<IpAddr>,
    /// Largest packet of that network.
    pub(crate) mtu: Option<u32>,
}

/// News of the client on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub(crate) enum News {
    /// It begins, or its lease is lost.
    None {
        /// The interface.
        interface: String,
    },
    /// A lease, new or again.
    Lease {
        /// The interface.
        interface: String,
        /// What was granted.
        lease: Lease,
    },
    /// No server answers; the client goes on asking.
    Silent {
        /// The interface.
        interface: String,
    },
}

/// Reads what the client tells its script. None for what does not matter. A server's answer is a stranger's: what does
/// not look like an address is left out.
pub(crate) fn read(action: &str, variables: &HashMap<String, String>) -> Option<News> {
    let interface = variables.get("interface")?.clone();
    let word = |name: &str| variables.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
    let addresses = |name: &str| -> Vec<Ipv4Addr> {
        let words = word(name).unwrap_or_default().split_ascii_whitespace();
        words.filter_map(|w| w.parse().ok()).filter(usable).take(SERVERS_MAX).collect()
    };
    match action {
        "deconfig" => Some(News::None { interface }),
        "leasefail" | "nak" => Some(News::Silent { interface }),
        "bound" | "renew" => {
            let address = word("ip")?.parse().ok().filter(usable)?;
            let prefix = word("mask").and_then(|m| m.parse().ok()).filter(|p| (1..=32).contains(p)).unwrap_or(24);
            let mtu = word("mtu").and_then(|m| m.parse().ok()).filter(|m| (576..=9216).contains(m));
            let servers = |name: &str| addresses(name).into_iter().map(IpAddr::V4).collect();
            let router = addresses("router").first().copied();
            let (nameservers, time_servers) = (servers("dns"), servers("ntpsrv"));
            Some(News::Lease { interface, lease: Lease { address, prefix, router, nameservers, time_servers, mtu } })
        }
        _ => None,
    }
}

fn usable(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

/// The script: passes news on and ends.
///
/// # Errors
/// Nobody listens.
pub fn hook_main() -> Result<()> {
    hook(&std::env::args().nth(1).context("the DHCP client names an action")?)
}

pub(crate) fn hook(action: &str) -> Result<()> {
    let variables: HashMap<String, String> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let Some(news) = read(action, &variables) else { return Ok(()) };
    let socket = variables.get(SOCKET_VARIABLE).with_context(|| format!("{SOCKET_VARIABLE} is not set"))?;
    send(Path::new(socket), &news)
}

fn send(socket: &Path, news: &News) -> Result<()> {
    let message = serde_json::to_vec(news)?;
    UnixDatagram::unbound()?.send_to(&message, socket).context("tell the first process")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables(list: &[(&str, &str)]) -> HashMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_lease_is_read_and_what_is_no_address_is_left_out() {
        let told = variables(&[
            ("interface", "eth0"),
            ("ip", "192.0.2.7"),
            ("mask", "26"),
            ("router", "192.0.2.1 192.0.2.2"),
            ("dns", "192.0.2.3 $(reboot) 0.0.0.0 198.51.100.1"),
            ("ntpsrv", "192.0.2.4"),
            ("mtu", "1400"),
            ("domain", "x;y"),
        ]);
        let lease = Lease {
            address: Ipv4Addr::new(192, 0, 2, 7),
            prefix: 26,
            router: Some(Ipv4Addr::new(192, 0, 2, 1)),
            nameservers: vec!["192.0.2.3".parse().unwrap(), "198.51.100.1".parse().unwrap()],
            time_servers: vec!["192.0.2.4".parse().unwrap()],
            mtu: Some(1400),
        };
        assert_eq!(read("bound", &told), Some(News::Lease { interface: "eth0".into(), lease }));
        assert_eq!(read("leasefail", &told), Some(News::Silent { interface: "eth0".into() }));
        assert_eq!(read("deconfig", &told), Some(News::None { interface: "eth0".into() }));
        assert_eq!(read("else", &told), None);
        for ip in ["", "no", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(read("bound", &variables(&[("interface", "eth0"), ("ip", ip)])), None, "{ip:?}");
        }
    }

    #[test]
    fn the_first_process_gets_what_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixDatagram::bind(&path).unwrap();
        let news = News::Silent { interface: "eth0".into() };
        send(&path, &news).unwrap();
        let mut buffer = [0; MESSAGE_LEN_MAX];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(serde_json::from_slice::<News>(&buffer[..len]).unwrap(), news);
    }

    proptest! {
        #[test]
        fn nothing_a_server_says_makes_it_panic(action in "[a-z]{0,9}|bound", list in prop::collection::vec((
            prop::sample::select(vec!["interface", "ip", "mask", "router", "dns", "ntpsrv", "mtu"]), ".{0,40}"), 0..9)) {
            let told = list.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            if let Some(news) = read(&action, &told) {
                prop_assert!(serde_json::to_vec(&news).unwrap().len() <= MESSAGE_LEN_MAX);
            }
        }
    }
}
