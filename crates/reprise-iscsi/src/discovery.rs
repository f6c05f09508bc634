//! Which addresses of a target a host is told: those that it can use.

use core::net::{IpAddr, SocketAddr};

/// The address of a socket as a host would write it: an IPv4 address as such, and no zone, which means something on this box only.
fn plain(address: &str) -> Option<SocketAddr> {
    let address: SocketAddr = address.parse().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// True where a host that came to `own` can use `other`. Loopback is another machine for it, a link-local address is on a
/// link that need not be its own, and of another family of addresses nobody knows whether it has any.
fn usable(own: IpAddr, other: IpAddr) -> bool {
    if own.is_loopback() {
        return !is_link_local(other);
    }
    let link_local = is_link_local(other) && !(own.is_ipv4() && is_link_local(own));
    !other.is_loopback() && !link_local && own.is_ipv4() == other.is_ipv4()
}

/// What a host that came to `own` is told of a target with these addresses: the one that it came to first, then the others that it
/// can use. Names are told as they are.
pub(crate) fn addresses(own: &str, of_target: &[String]) -> Vec<String> {
    let Some(here) = plain(own) else {
        return if of_target.is_empty() { Vec::from([own.to_string()]) } else { of_target.to_vec() };
    };
    let mut told = Vec::new();
    for text in of_target {
        match plain(text) {
            Some(address) if address == here => told.insert(0, here.to_string()),
            Some(address) if usable(here.ip(), address.ip()) => told.push(address.to_string()),
            Some(_) => {}
            None => told.push(text.clone()),
        }
    }
    // It came from somewhere, so this one works.
    if told.is_empty() {
        told.push(here.to_string());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_what_it_can_use() {
        let check = |own: &str, of_target: &[&str], expected: &[&str]| {
            let of_target: Vec<String> = of_target.iter().map(ToString::to_string).collect();
            assert_eq!(addresses(own, &of_target), expected, "{own} {of_target:?}");
        };
        let all = [
            "127.0.0.1:1",
            "[::1]:1",
            "192.0.2.1:1",
            "[2001:db8::1]:1",
            "169.254.0.1:1",
            "[fe80::1]:1",
            "198.51.100.1:1",
        ];
        check("192.0.2.1:1", &all, &["192.0.2.1:1", "198.51.100.1:1"]);
        check("198.51.100.1:1", &all, &["198.51.100.1:1", "192.0.2.1:1"]);
        check("[2001:db8::1]:1", &all, &["[2001:db8::1]:1"]);
        check("[fe80::1%3]:1", &all, &["[fe80::1]:1", "[2001:db8::1]:1"]);
        check("169.254.0.1:1", &all, &["169.254.0.1:1", "192.0.2.1:1", "198.51.100.1:1"]);
        check("127.0.0.1:1", &all, &["127.0.0.1:1", "[::1]:1", "192.0.2.1:1", "[2001:db8::1]:1", "198.51.100.1:1"]);
        // One that listens everywhere tells where the host came to: as the host knows it.
        check("[::ffff:192.0.2.1]:1", &[], &["192.0.2.1:1"]);
        check("[fe80::1%3]:1", &[], &["[fe80::1]:1"]);
        check("192.0.2.1:1", &["127.0.0.1:1"], &["192.0.2.1:1"]);
        check("192.0.2.1:1", &["san.example:1"], &["san.example:1"]);
        check("?", &[], &["?"]);
    }
}
