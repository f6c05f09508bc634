//! What is asked for, and what counts as an answer.

use std::net::IpAddr;

use reprise_api::{ByteSize, IpNetwork, Name};

/// A question.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// What is asked for, at the prompt.
    pub label: &'static str,
    /// How to write it.
    pub format: &'static str,
    /// Not shown while it is typed.
    pub secret: bool,
}

macro_rules! fields {
    ($($name:ident $secret:literal $label:literal $format:literal;)*) => {
        $(pub(super) static $name: Field = Field { label: $label, format: $format, secret: $secret };)*

        /// Every question the console has. A test answers each of them wrongly.
        pub static FIELDS: &[&Field] = &[$(&$name,)*];
    };
}

fields! {
    PEER_ADDRESS false "Address of the other box" "As it is shown there: ADDRESS or ADDRESS:PORT, such as 192.0.2.7 or [fe80::1]:3261.";
    PAIR_CODE false "Code shown by the other box" "9 letters and digits in 3 groups, such as 4F7-K2M-9TX. Case and hyphens do not matter.";
    VOLUME_NAME false "Name of the volume" "1 to 48 characters a-z, 0-9, '-' and '.', beginning with a letter or digit.";
    VOLUME_SIZE false "Size" "A number with K, M, G or T (powers of 1024), such as 500G; a multiple of 4096 bytes.";
    GROUP_NAME false "Group" "Volumes of one group share one order of writes. A name as for volumes; made if there is none.";
    VOLUME_KIND false "Kind" "thick: written fully first, room is certain. thin: room is taken as it is written.";
    BLOCK_SIZE false "Blocks that hosts see" "512e (most hosts), 512n (hosts that do not know 512e) or 4kn (4096 bytes).";
    PICK_VOLUME false "Number of the volume" "As in the list.";
    PICK_GROUP false "Number of the group" "As in the list.";
    PICK_MIRROR false "Number of the mirror" "As in the list.";
    PICK_IMAGE false "Number of the image" "As in the list.";
    PICK_PEER false "Number of the box" "As in the list.";
    SHARE_MIRRORS false "It may make mirrors here" "yes or no. What it has stays.";
    SHARE_GROUPS false "Groups at most" "A number from 0 to 32, or all.";
    SHARE_SPACE false "Space at most" "A number with K, M, G or T (powers of 1024), such as 2T; or all.";
    PICK_DISK false "Number of the disk" "As in the list.";
    PICK_INITIATOR false "Number of the host" "As in the list.";
    PICK_INTERFACE false "Number of the interface" "As in the list.";
    PICK_ALERT false "Number of the alert" "As in the list.";
    PICK_WEBHOOK false "Number of the webhook" "As in the list.";
    ACCESS false "Hosts may" "read or write.";
    INITIATOR_NAME false "Name of the host" "Its iSCSI name, such as iqn.1993-08.org.debian:01:5f3a; the host shows it as its initiator name.";
    INITIATOR_GROUPS false "Groups it may use" "Names with spaces between, or all.";
    INITIATOR_FROM false "Addresses it may come from" "ADDRESS or NETWORK/BITS with spaces between, or any.";
    CHAP_USER false "CHAP name" "What the host calls itself when it logs in, 1 to 255 characters; none for no proof.";
    CHAP_SECRET true "CHAP secret" "12 to 16 characters suit every host; up to 255 are taken. It is not shown.";
    CHAP_SECRET_AGAIN true "CHAP secret again" "The same once more.";
    MUTUAL_USER false "CHAP name of the box" "For mutual CHAP: what the box calls itself; none for CHAP one way only.";
    MUTUAL_SECRET true "CHAP secret of the box" "12 to 255 characters, another one than that of the host. It is not shown.";
    IPV4 false "IPv4" "auto (DHCP), off, link-local, or ADDRESS/BITS such as 192.0.2.7/24, up to 8 with spaces between.";
    IPV4_GATEWAY false "IPv4 gateway" "The default gateway's address, or none.";
    IPV6 false "IPv6" "auto (router advertisements), off, link-local, or ADDRESS/BITS such as 2001:db8::7/64.";
    IPV6_GATEWAY false "IPv6 gateway" "The default gateway's address, or none.";
    MTU false "Largest packet" "1280 to 9216 bytes, or auto for what the driver says. Both ends and the switch must agree.";
    NAME_SERVERS false "Name servers" "Up to 8 addresses with spaces between, or auto for those that DHCP names.";
    VLAN_ID false "VLAN number" "1 to 4094, as the switch has it.";
    BOND_NAME false "Name of the bond" "1 to 15 characters a-z and 0-9, beginning with a letter, such as bond0.";
    BOND_MEMBERS false "Cards of the bond" "Up to 8 names with spaces between, such as eth0 eth1.";
    BOND_MODE false "How they work together" "active-backup: one works, the others wait. lacp: the switch has to know it.";
    TIME_SERVERS false "Time servers" "Up to 8 names or addresses with spaces between.";
    TIME_NOW false "Time now, UTC" "YYYY-MM-DD HH:MM or YYYY-MM-DD HH:MM:SS.";
    WEBHOOK false "Webhook" "https://... or http://..., at most 1024 characters; a JSON message is posted there.";
    MAIL_SERVER false "Mail server" "Name or address of the server that takes the mail.";
    MAIL_SECURITY false "Protection" "tls (port 465), starttls (port 587) or none (port 25, same network only).";
    MAIL_PORT false "Port" "1 to 65535, or auto for the usual one.";
    MAIL_USER false "Login name" "The name to log in with at the mail server, or none.";
    MAIL_PASSWORD true "Login password" "Not shown. Enter alone keeps the one there is.";
    MAIL_FROM false "Sender" "A mail address, such as box@example.com.";
    MAIL_TO false "Receivers" "1 to 8 mail addresses with spaces between.";
    PASSWORD true "New password" "10 to 256 letters, digits and signs of a US keyboard. It is not shown.";
    PASSWORD_AGAIN true "New password again" "The same once more.";
    BOX_NAME false "Name of the box" "1 to 48 characters a-z, 0-9, '-' and '.', beginning with a letter or digit.";
    WORD false "To go on, type" "Exactly the word or line that is asked for; anything else changes nothing.";
}

/// What a check says of an answer: the value, or what is wrong with it.
pub(super) type Checked<T> = Result<T, String>;

fn wrong(text: &str, is: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("{shown:?} is {is}.")
}

/// The words of a list.
pub(super) fn words(text: &str) -> Vec<&str> {
    text.split([' ', ',']).filter(|w| !w.is_empty()).collect()
}

/// A value with a text form of its own.
pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Checked<T> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

/// A name.
pub(super) fn name(text: &str) -> Checked<Name> {
    text.parse().map_err(|_| wrong(text, "no name"))
}

/// A size of a volume larger than `above`.
pub(super) fn size(text: &str, above: u64) -> Checked<ByteSize> {
    let size: ByteSize = text.parse().map_err(|_| wrong(text, "no size"))?;
    if size.bytes() <= above {
        return Err(format!("{size} is not more than {}.", ByteSize::from_bytes(above)));
    }
    if !size.bytes().is_multiple_of(4096) {
        return Err(format!("{} bytes are no multiple of 4096.", size.bytes()));
    }
    Ok(size)
}

/// One of some words; gives its place.
pub(super) fn one_of(text: &str, choices: &[&str]) -> Checked<usize> {
    let found = choices.iter().position(|c| c.eq_ignore_ascii_case(text));
    found.ok_or_else(|| wrong(text, &format!("none of: {}", choices.join(", "))))
}

/// A number from a list of `count`; gives its place.
pub(super) fn pick(text: &str, count: usize) -> Checked<usize> {
    let number = text.parse::<usize>().ok().filter(|n| (1..=count).contains(n));
    number.map(|n| n - 1).ok_or_else(|| wrong(text, &format!("no number from 1 to {count}")))
}

/// A limit, or `all` for none.
pub(super) fn limit<T>(text: &str, check: impl Fn(&str) -> Checked<T>) -> Checked<Option<T>> {
    if text.eq_ignore_ascii_case("all") { Ok(None) } else { check(text).map(Some) }
}

/// A whole number between two others.
pub(super) fn number(text: &str, least: u32, most: u32) -> Checked<u32> {
    let number = text.parse::<u32>().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| wrong(text, &format!("no number from {least} to {most}")))
}

/// An address and perhaps a port, as `pair_dial` takes it.
pub(super) fn peer_address(text: &str) -> Checked<String> {
    let bad = || wrong(text, "no address");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (format!("[{host}]"), port.strip_prefix(':').map(str::to_owned))
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (format!("[{text}]"), None),
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port.to_owned())),
            None => (text.to_owned(), None),
        },
    };
    if !host.starts_with('[') {
        self::host(&host).map_err(|_| bad())?;
    }
    let port = port.map_or(Some(3261), |p| p.parse::<u16>().ok().filter(|p| *p > 0));
    port.map(|port| format!("{host}:{port}")).ok_or_else(bad)
}

/// A host's name or address.
pub(super) fn host(text: &str) -> Checked<String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // Four numbers with dots are an address or a mistyped one, never a name.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if text.len() <= 253 && !numeric && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(wrong(text, "no name or address"))
    }
}

/// A pairing code.
pub(super) fn pair_code(text: &str) -> Checked<String> {
    let symbols = text.chars().filter(|c| *c != ' ' && *c != '-');
    let good = symbols.clone().count() == 9 && symbols.clone().all(|c| c.is_ascii_alphanumeric());
    if good { Ok(text.to_owned()) } else { Err("A code has 9 letters and digits.".to_owned()) }
}

/// An address with a prefix length of one family.
pub(super) fn prefixed(text: &str, v6: bool) -> Checked<String> {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let bad = || wrong(text, &format!("no {family} address with prefix length"));
    let (address, bits) = text.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let bits: u8 = bits.parse().map_err(|_| bad())?;
    if address.is_ipv6() != v6 || bits == 0 || bits > if v6 { 128 } else { 32 } || unusable(address) {
        return Err(bad());
    }
    Ok(format!("{address}/{bits}"))
}

fn unusable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    address.is_multicast() || address.is_unspecified() || address.is_loopback() || broadcast
}

/// An address of one family.
pub(super) fn gateway(text: &str, v6: bool) -> Checked<Option<IpAddr>> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let address = text.parse::<IpAddr>().ok().filter(|a| a.is_ipv6() == v6 && !unusable(*a));
    let family = if v6 { "IPv6" } else { "IPv4" };
    address.map(Some).ok_or_else(|| wrong(text, &format!("no {family} address")))
}

/// Networks, or any.
pub(super) fn networks(text: &str) -> Checked<Vec<IpNetwork>> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(Vec::new());
    }
    let networks: Checked<Vec<_>> =
        words(text).into_iter().map(|w| w.parse().map_err(|_| wrong(w, "no address or network"))).collect();
    at_most(networks?, reprise_api::RULES_MAX, "networks")
}

/// A list that is not empty and not too long.
pub(super) fn at_most<T>(list: Vec<T>, most: usize, of: &str) -> Checked<Vec<T>> {
    match list.len() {
        0 => Err(format!("There are no {of} in it.")),
        n if n > most => Err(format!("{n} {of} are too many: at most {most}.")),
        _ => Ok(list),
    }
}

/// A mail address, as far as it can be told without asking.
pub(super) fn mail_address(text: &str) -> Checked<String> {
    let good = text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && local.bytes().all(|b| b.is_ascii_graphic() && b != b'@' && b != b'<' && b != b'>')
            && host(domain).is_ok()
    });
    if good && text.len() <= 254 { Ok(text.to_owned()) } else { Err(wrong(text, "no mail address")) }
}

/// An address that can be called.
pub(super) fn url(text: &str) -> Checked<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let authority = rest.and_then(|r| r.split(['/', '?', '#']).next()).unwrap_or_default();
    let host_part = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let good = match host_part.strip_prefix('[') {
        Some(v6) => v6.split_once(']').is_some_and(|(a, _)| a.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let (name, port) = host_part.split_once(':').unwrap_or((host_part, "80"));
            host(name).is_ok() && port.parse::<u16>().is_ok_and(|p| p > 0)
        }
    };
    if good && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(wrong(text, "no address of a webhook"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_fit() {
        let mut seen = std::collections::BTreeSet::new();
        for f in FIELDS {
            assert!(seen.insert(f.label), "{}", f.label);
            assert!(f.label.len() <= 30 && f.label.is_ascii() && f.format.is_ascii(), "{}", f.label);
        }
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, wanted) in [
            ("192.0.2.7", Some("192.0.2.7:3261")),
            ("192.0.2.7:99", Some("192.0.2.7:99")),
            ("fe80::1", Some("[fe80::1]:3261")),
            ("[fe80::1]:99", Some("[fe80::1]:99")),
            ("b.example.com", Some("b.example.com:3261")),
            ("192.0.2", None),
            ("192.0.2.7:0", None),
            ("a b", None),
            ("[::1", None),
            ("", None),
        ] {
            assert_eq!(peer_address(text).ok().as_deref(), wanted, "{text}");
        }
        for (text, v6, good) in [
            ("192.0.2.7/24", false, true),
            ("192.0.2.7", false, false),
            ("192.0.2.7/33", false, false),
            ("192.0.2.7/24", true, false),
            ("2001:db8::1/64", true, true),
            ("0.0.0.0/8", false, false),
            ("224.0.0.1/8", false, false),
            ("255.255.255.255/8", false, false),
        ] {
            assert_eq!(prefixed(text, v6).is_ok(), good, "{text}");
        }
        for (text, good) in [
            ("https://a.example/x?y", true),
            ("http://192.0.2.1:8080/", true),
            ("https://[2001:db8::1]/", true),
            ("ftp://a.example", false),
            ("https://", false),
            ("https://a b", false),
            ("https://a.example:0/", false),
        ] {
            assert_eq!(url(text).is_ok(), good, "{text}");
        }
        for (text, good) in [("a@b.example", true), ("a", false), ("@b", false), ("a@-", false), ("<a@b>", false)] {
            assert_eq!(mail_address(text).is_ok(), good, "{text}");
        }
    }
}
