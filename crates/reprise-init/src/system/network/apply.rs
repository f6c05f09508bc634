//! The steps, carried out: by busybox's `ip`, and where the kernel wants a file written, by writing it.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use reprise_api::{BondMode, InterfaceStatus};

use super::plan::{Ipv6, Step};
use crate::system::children::tool;

/// Longest time for one step.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a bond looks at its cards, milliseconds.
const BOND_LOOK_MS: &str = "100";

/// How the kernel's network is reached.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    /// busybox, for `ip`, `arping` and `udhcpc`.
    pub(crate) busybox: String,
    /// `/sys/class/net`.
    pub(crate) class: PathBuf,
    /// `/proc`.
    pub(crate) proc: PathBuf,
}

impl Default for Net {
    fn default() -> Self {
        Self { busybox: "/bin/busybox".to_owned(), class: "/sys/class/net".into(), proc: "/proc".into() }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {text} to {}", path.display()))
}

impl Net {
    /// Runs a part of busybox.
    ///
    /// # Errors
    /// What it says.
    pub(crate) fn busybox(&self, args: &[&str]) -> Result<String> {
        tool(&self.busybox, args, STEP_TIME_MAX)
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        self.busybox(&[&["ip"], args].concat()).map(|_| ())
    }

    /// The network cards, by name.
    pub(crate) fn cards(&self) -> Vec<String> {
        let mut cards: Vec<String> = self.links().into_iter().filter(|name| self.is_card(name)).collect();
        cards.sort_by_key(|name| (name.len(), name.clone()));
        cards
    }

    /// Has TCP find out what a path takes where nobody says so: without it a link over a smaller MTU with filtered ICMP stands
    /// still for ever.
    pub(crate) fn probe_paths(&self) -> Result<()> {
        write(&self.proc.join("sys/net/ipv4/tcp_mtu_probing"), "1")
    }

    fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.class).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| self.class.join(n).is_dir()).collect()
    }

    fn is_card(&self, name: &str) -> bool {
        // ARPHRD_ETHER, and none of the kinds the kernel makes of other interfaces, which it calls by their names.
        let uevent = self.text(name, "uevent").unwrap_or_default();
        self.text(name, "type").as_deref() == Some("1") && !uevent.lines().any(|l| l.starts_with("DEVTYPE="))
    }

    fn text(&self, interface: &str, file: &str) -> Option<String> {
        Some(fs::read_to_string(self.class.join(interface).join(file)).ok()?.trim().to_owned())
    }

    /// True when a cable with something at the other end is plugged in.
    pub(crate) fn carrier(&self, interface: &str) -> bool {
        self.text(interface, "carrier").as_deref() == Some("1")
    }

    /// The hardware address.
    pub(crate) fn mac(&self, interface: &str) -> Option<[u8; 6]> {
        let text = self.text(interface, "address")?;
        let bytes: Vec<u8> = text.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
        bytes.try_into().ok()
    }

    /// Carries out a step that changes the kernel's network; the others are the caller's.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn carry_out(&self, step: &Step) -> Result<()> {
        match step {
            Step::Forget(_) | Step::Dhcp(_) | Step::LinkLocal(_) => Ok(()),
            Step::Flush(name) => {
                if self.class.join(name).exists() {
                    self.ip(&["addr", "flush", "dev", name])?;
                }
                Ok(())
            }
            Step::Delete(name) if self.class.join(name).join("bonding").exists() => {
                write(&self.class.join("bonding_masters"), &format!("-{name}"))
            }
            Step::Delete(name) => self.ip(&["link", "del", "dev", name]),
            Step::Detach { bond, member } => {
                write(&self.class.join(bond).join("bonding/slaves"), &format!("-{member}"))
            }
            Step::AddBond { name, mode } => self.add_bond(name, *mode),
            Step::Attach { bond, member } => {
                // The kernel takes only cards that are off.
                self.ip(&["link", "set", "dev", member, "down"])?;
                write(&self.class.join(bond).join("bonding/slaves"), &format!("+{member}"))
            }
            Step::AddVlan { name, parent, id } => {
                let _ = self.busybox(&["modprobe", "8021q"]);
                // What carries it has to be on, or the VLAN cannot be turned on.
                self.ip(&["link", "set", "dev", parent, "up"])?;
                self.ip(&["link", "add", "link", parent, "name", name, "type", "vlan", "id", &id.to_string()])
            }
            Step::Mtu(name, mtu) => self.ip(&["link", "set", "dev", name, "mtu", &mtu.to_string()]),
            Step::Ipv6(name, how) => self.ipv6(name, *how),
            Step::Up(name) => self.ip(&["link", "set", "dev", name, "up"]),
            Step::Address(name, cidr) => self.ip(&["addr", "add", cidr, "dev", name]),
            Step::Gateway(name, gateway) => self.gateway(name, *gateway),
        }
    }

    fn add_bond(&self, name: &str, mode: BondMode) -> Result<()> {
        let masters = self.class.join("bonding_masters");
        if !masters.exists() {
            self.busybox(&["modprobe", "bonding", "max_bonds=0"]).context("load the bonding driver")?;
        }
        let options = self.class.join(name).join("bonding");
        // A driver that was loaded without being told otherwise has made one by itself.
        if !options.exists() {
            write(&masters, &format!("+{name}"))?;
        }
        let (mode, extra) = match mode {
            BondMode::ActiveBackup => ("active-backup", None),
            BondMode::Lacp => ("802.3ad", Some(("lacp_rate", "fast"))),
        };
        write(&options.join("mode"), mode)?;
        write(&options.join("miimon"), BOND_LOOK_MS)?;
        extra.map_or(Ok(()), |(file, value)| write(&options.join(file), value))
    }

    fn ipv6(&self, name: &str, how: Ipv6) -> Result<()> {
        let folder = self.proc.join("sys/net/ipv6/conf").join(name);
        if !folder.exists() {
            // A kernel without IPv6 has nothing to be told.
            return Ok(());
        }
        let (off, ra) = match how {
            Ipv6::Advertised => ("0", "2"),
            Ipv6::ByHand => ("0", "0"),
            Ipv6::Off => ("1", "0"),
        };
        write(&folder.join("disable_ipv6"), off)?;
        write(&folder.join("accept_ra"), ra)?;
        write(&folder.join("autoconf"), if ra == "0" { "0" } else { "1" })
    }

    /// Sets the default route over an interface. The first card is preferred to the second.
    fn gateway(&self, name: &str, gateway: IpAddr) -> Result<()> {
        let index = self.text(name, "ifindex").and_then(|i| i.parse::<u32>().ok()).unwrap_or(0);
        let metric = (100 + index).to_string();
        let gateway_text = gateway.to_string();
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        self.ip(&[family, "route", "replace", "default", "via", &gateway_text, "dev", name, "metric", &metric])
    }

    /// The interfaces as they are.
    pub(crate) fn interfaces(&self) -> Vec<InterfaceStatus> {
        let addresses = addresses();
        let gateways = self.gateways();
        let of = |list: &[(String, String)], name: &str| -> Vec<String> {
            list.iter().filter(|(n, _)| n == name).map(|(_, a)| a.clone()).collect()
        };
        let mut names: Vec<String> =
            self.links().into_iter().filter(|n| self.text(n, "type").as_deref() == Some("1")).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        let status = |name: String| InterfaceStatus {
            mac: self.text(&name, "address").unwrap_or_default(),
            carrier: self.carrier(&name),
            // -1 where the card does not know.
            speed_mbit: self.text(&name, "speed").and_then(|s| s.parse().ok()),
            addresses: of(&addresses, &name),
            gateways: gateways.iter().filter(|(n, _)| *n == name).map(|(_, g)| *g).collect(),
            name,
        };
        names.into_iter().map(status).collect()
    }

    fn gateways(&self) -> Vec<(String, IpAddr)> {
        let read = |file: &str| fs::read_to_string(self.proc.join(file)).unwrap_or_default();
        let v4 = read("net/route");
        let v6 = read("net/ipv6_route");
        let mut found = default_routes(&v4, &v6);
        found.dedup();
        found
    }
}

/// Default routes in the kernel's two tables: interface and gateway.
fn default_routes(v4: &str, v6: &str) -> Vec<(String, IpAddr)> {
    let four = v4.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, "00000000", gateway, ..] = fields[..] else { return None };
        // The kernel prints the bytes of the address as a number of its own byte order.
        let gateway = u32::from_str_radix(gateway, 16).ok().filter(|g| *g != 0)?;
        Some((name.to_owned(), IpAddr::from(gateway.to_ne_bytes())))
    });
    let six = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, "00", _, _, gateway, _, _, _, _, name] = fields[..] else { return None };
        let gateway = u128::from_str_radix(gateway, 16).ok().filter(|g| *g != 0)?;
        (destination.bytes().all(|b| b == b'0')).then(|| (name.to_owned(), IpAddr::from(gateway.to_be_bytes())))
    });
    four.chain(six).collect()
}

/// All addresses with prefix lengths, by interface.
fn addresses() -> Vec<(String, String)> {
    let Ok(list) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut found = Vec::new();
    for one in list {
        let Some((address, mask)) = one.address.zip(one.netmask) else { continue };
        if let (Some(a), Some(m)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            found.push((one.interface_name, format!("{}/{}", a.ip(), u32::from(m.ip()).count_ones())));
        } else if let (Some(a), Some(m)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
            found.push((one.interface_name, format!("{}/{}", a.ip(), u128::from(m.ip()).count_ones())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_read_from_both_tables() {
        let v4 = "Iface\tDestination\tGateway \tFlags\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t101\t00000000\t0\t0\t0\n\
                  eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zeros = "0".repeat(32);
        let v6 = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth1\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n\
             fe80{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth1\n",
            "0".repeat(28)
        );
        let expected: [(String, IpAddr); 2] =
            [("eth0".into(), "192.0.2.1".parse().unwrap()), ("eth1".into(), "fe80::1".parse().unwrap())];
        assert_eq!(default_routes(v4, &v6), expected);
        assert_eq!(default_routes("", "nonsense 00\n"), []);
    }

    #[test]
    fn paths_are_probed_for_the_packets_they_take() {
        let dir = tempfile::tempdir().unwrap();
        let net = Net { proc: dir.path().to_owned(), ..Net::default() };
        assert!(net.probe_paths().is_err(), "no such kernel");
        let folder = dir.path().join("sys/net/ipv4");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("tcp_mtu_probing"), "0\n").unwrap();
        net.probe_paths().unwrap();
        assert_eq!(fs::read_to_string(folder.join("tcp_mtu_probing")).unwrap(), "1\n");
    }

    #[test]
    fn cards_are_told_from_what_the_kernel_makes_of_them() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind, uevent) in [
            ("eth10", "1", "INTERFACE=eth10\nIFINDEX=2\n"),
            ("eth2", "1", "INTERFACE=eth2\n"),
            ("lo", "772", ""),
            ("bond0", "1", "DEVTYPE=bond\n"),
            ("v5", "1", "DEVTYPE=vlan\n"),
            ("tun0", "65534", ""),
        ] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("type"), format!("{kind}\n")).unwrap();
            fs::write(folder.join("uevent"), uevent).unwrap();
        }
        fs::write(dir.path().join("bonding_masters"), "bond0\n").unwrap();
        let net = Net { class: dir.path().to_owned(), ..Net::default() };
        assert_eq!(net.cards(), ["eth2", "eth10"]);
    }
}
