//! From the settings to steps, without touching anything.

use std::collections::BTreeSet;
use std::net::IpAddr;

use reprise_api::{AddressMethod, ApiError, BondMode, ErrorCode, InterfaceKind, InterfaceSettings, NetworkSettings};

/// Most interfaces in the settings.
const INTERFACES_MAX: usize = 32;
/// Most addresses of an interface, members of a bond, name servers.
const LIST_MAX: usize = 8;
/// Longest name of an interface: IFNAMSIZ without its closing zero.
const NAME_LEN_MAX: usize = 15;
/// Smallest packet IPv6 lives with (RFC 8200, section 5), and the largest that cards take.
const MTU: std::ops::RangeInclusive<u32> = 1280..=9216;

/// An interface as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) role: Role,
    /// IPv4.
    pub ipv4: AddressMethod,
    /// IPv6.
    pub ipv6: AddressMethod,
    /// Largest packet.
    pub(crate) mtu: Option<u32>,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// A card of its own.
    Card,
    /// A card of a bond.
    Member {
        /// The bond.
        bond: String,
    },
    /// Cards as one.
    Bond {
        /// How they share the work.
        mode: BondMode,
        /// Those that are there.
        members: Vec<String>,
    },
    /// A VLAN.
    Vlan {
        /// The interface below.
        parent: String,
        /// Its number.
        id: u16,
    },
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ends what gets addresses for it.
    Forget(String),
    /// Takes its addresses away.
    Flush(String),
    /// Removes a VLAN or a bond.
    Delete(String),
    /// Takes a card out of a bond.
    Detach {
        /// The bond.
        bond: String,
        /// The card.
        member: String,
    },
    /// Makes a bond.
    AddBond {
        /// Its name.
        name: String,
        /// How its cards share the work.
        mode: BondMode,
    },
    /// Puts a card into a bond.
    Attach {
        /// The bond.
        bond: String,
        /// The card.
        member: String,
    },
    /// Makes a VLAN.
    AddVlan {
        /// Its name.
        name: String,
        /// The interface below.
        parent: String,
        /// Its number.
        id: u16,
    },
    /// Sets the largest packet.
    Mtu(String, u32),
    /// How the kernel treats IPv6 there.
    Ipv6(String, Ipv6),
    /// Turns it on.
    Up(String),
    /// Gives it an address.
    Address(String, String),
    /// Gives it a default route.
    Gateway(String, IpAddr),
    /// Starts DHCP.
    Dhcp(String),
    /// Picks a link-local address.
    LinkLocal(String),
}

/// How the kernel treats IPv6 on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// Router advertisements.
    Advertised,
    /// Only the link-local address, and those given by hand.
    ByHand,
    /// Not at all.
    Off,
}

fn refuse(message: String, what_to_do: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message, what_to_do)
}

/// Refuses settings that cannot work.
///
/// # Errors
/// Says which interface and what to write.
pub(crate) fn check(settings: &NetworkSettings, cards: &[String]) -> Result<(), ApiError> {
    if settings.interfaces.len() > INTERFACES_MAX {
        return Err(refuse(format!("more than {INTERFACES_MAX} interfaces"), "leave some out"));
    }
    if settings.nameservers.len() > LIST_MAX {
        return Err(refuse(format!("more than {LIST_MAX} name servers"), "leave some out"));
    }
    let mut names = BTreeSet::new();
    let mut members: BTreeSet<&str> = BTreeSet::new();
    let mut vlans = BTreeSet::new();
    for interface in &settings.interfaces {
        let name = &interface.name;
        check_name(name)?;
        if !names.insert(name.as_str()) {
            return Err(refuse(format!("{name} is there twice"), "say it once"));
        }
        let is_card = cards.contains(name) || is_name_of_cards(name);
        let virtual_name = "give it a name no card has, such as bond0 or v5";
        match &interface.kind {
            InterfaceKind::Ethernet => {}
            InterfaceKind::Vlan { parent, id } => {
                check_name(parent)?;
                if !(1..=4094).contains(id) {
                    return Err(refuse(format!("{name}: there is no VLAN {id}"), "use 1 to 4094"));
                }
                let below = settings.interfaces.iter().find(|i| &i.name == parent);
                let fits = below.map_or(cards.contains(parent), |b| !matches!(b.kind, InterfaceKind::Vlan { .. }));
                if parent == name || !fits {
                    return Err(refuse(format!("{name}: {parent} cannot carry a VLAN"), "name a card or a bond"));
                }
                if !vlans.insert((parent, id)) {
                    return Err(refuse(format!("{name}: VLAN {id} of {parent} is there twice"), "say it once"));
                }
                if is_card {
                    return Err(refuse(format!("{name} is a card, or the name of one"), virtual_name));
                }
            }
            InterfaceKind::Bond { members: cards_of_bond, .. } => {
                if cards_of_bond.is_empty() || cards_of_bond.len() > LIST_MAX {
                    return Err(refuse(format!("{name} has {} cards", cards_of_bond.len()), "name 1 to 8 cards"));
                }
                for member in cards_of_bond {
                    check_name(member)?;
                    if member == name || !members.insert(member) {
                        return Err(refuse(format!("{name}: {member} is in a bond already"), "name it once"));
                    }
                }
                if is_card {
                    return Err(refuse(format!("{name} is a card, or the name of one"), virtual_name));
                }
            }
        }
        if let Some(mtu) = interface.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(refuse(format!("{name}: packets of {mtu} bytes"), "use 1280 to 9216, or leave it out"));
        }
        check_method(name, &interface.ipv4, false)?;
        check_method(name, &interface.ipv6, true)?;
    }
    for interface in &settings.interfaces {
        let name = &interface.name;
        let in_bond = members.contains(name.as_str());
        if in_bond && interface.kind != InterfaceKind::Ethernet {
            return Err(refuse(format!("{name} cannot be in a bond"), "put cards into bonds"));
        }
        let of_its_own = [&interface.ipv4, &interface.ipv6].iter().any(|m| matches!(m, AddressMethod::Static { .. }));
        if in_bond && of_its_own {
            return Err(refuse(format!("{name} is in a bond and has addresses"), "give them to the bond"));
        }
        if let InterfaceKind::Vlan { parent, .. } = &interface.kind
            && members.contains(parent.as_str())
        {
            return Err(refuse(format!("{name}: {parent} is in a bond"), "put the VLAN on the bond"));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !letters || !starts || name.len() > NAME_LEN_MAX || matches!(name, "lo" | "all" | "default") {
        let name: String = name.chars().take(2 * NAME_LEN_MAX).collect();
        return Err(refuse(
            format!("{name:?} is no name of an interface"),
            "use at most 15 letters, digits and . - _, such as eth0",
        ));
    }
    Ok(())
}

/// The kernel calls cards so: one that is plugged in later must find its name free.
fn is_name_of_cards(name: &str) -> bool {
    name.strip_prefix("eth").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// An address with its prefix length.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix >= 1 && prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

fn check_method(name: &str, method: &AddressMethod, v6: bool) -> Result<(), ApiError> {
    let AddressMethod::Static { addresses, gateway } = method else { return Ok(()) };
    let example = if v6 { "such as 2001:db8::7/64" } else { "such as 192.0.2.7/24" };
    if addresses.is_empty() || addresses.len() > LIST_MAX {
        return Err(refuse(format!("{name} has {} addresses", addresses.len()), "give 1 to 8 of them"));
    }
    for address in addresses {
        let parsed = parse_cidr(address).filter(|(a, _)| a.is_ipv6() == v6);
        if parsed.is_none_or(|(a, _)| a.is_unspecified() || a.is_multicast() || a.is_loopback()) {
            let shown: String = address.chars().take(64).collect();
            return Err(refuse(format!("{name}: {shown:?} is no address with a prefix length"), example));
        }
    }
    if let Some(gateway) = gateway
        && (gateway.is_ipv6() != v6 || gateway.is_unspecified() || gateway.is_multicast())
    {
        return Err(refuse(format!("{name}: {gateway} is no gateway for these addresses"), example));
    }
    Ok(())
}

/// The interfaces as they are to be, each behind what it stands on. What is not there is left out, and comes when it is
/// plugged in.
pub(crate) fn wanted(settings: &NetworkSettings, cards: &[String]) -> Vec<Wanted> {
    let named = |name: &str| settings.interfaces.iter().find(|i| i.name == name);
    let bond_of = |card: &str| {
        settings.interfaces.iter().find_map(|i| match &i.kind {
            InterfaceKind::Bond { members, .. } if members.iter().any(|m| m == card) => Some(i.name.clone()),
            _ => None,
        })
    };
    let make = |settings: &InterfaceSettings, role: Role| Wanted {
        name: settings.name.clone(),
        role,
        ipv4: settings.ipv4.clone(),
        ipv6: settings.ipv6.clone(),
        mtu: settings.mtu,
    };
    let mut all: Vec<Wanted> = Vec::new();
    for interface in &settings.interfaces {
        if let InterfaceKind::Bond { members, mode } = &interface.kind {
            let members = members.iter().filter(|m| cards.contains(m)).cloned().collect();
            all.push(make(interface, Role::Bond { mode: *mode, members }));
        }
    }
    for card in cards {
        let own = named(card).map(|i| make(i, Role::Card));
        let (ipv4, ipv6) = (AddressMethod::Auto, AddressMethod::Auto);
        let own = own.unwrap_or(Wanted { name: card.clone(), role: Role::Card, ipv4, ipv6, mtu: None });
        all.push(match bond_of(card) {
            None => own,
            Some(bond) => {
                Wanted { role: Role::Member { bond }, ipv4: AddressMethod::Off, ipv6: AddressMethod::Off, ..own }
            }
        });
    }
    for interface in &settings.interfaces {
        if let InterfaceKind::Vlan { parent, id } = &interface.kind
            && all.iter().any(|w| &w.name == parent)
        {
            all.push(make(interface, Role::Vlan { parent: parent.clone(), id: *id }));
        }
    }
    all
}

/// What to do to come from one state to the other. What is the same in both is not touched.
pub(crate) fn steps(old: &[Wanted], new: &[Wanted]) -> Vec<Step> {
    // What has to be made anew: what changed, and what stands on it or in it.
    let mut anew: BTreeSet<&str> = new.iter().filter(|w| !old.contains(w)).map(|w| w.name.as_str()).collect();
    let bonds: Vec<&str> = (old.iter().chain(new))
        .filter(|w| matches!(w.role, Role::Bond { .. }) && (anew.contains(w.name.as_str()) || !new.contains(w)))
        .map(|w| w.name.as_str())
        .collect();
    for wanted in new {
        let on = match &wanted.role {
            Role::Member { bond } => Some(bond),
            Role::Vlan { parent, .. } => Some(parent),
            _ => None,
        };
        if on.is_some_and(|on| bonds.contains(&on.as_str())) {
            anew.insert(&wanted.name);
        }
    }
    let mut steps = Vec::new();
    for gone in old.iter().rev().filter(|o| anew.contains(o.name.as_str()) || !new.iter().any(|n| n.name == o.name)) {
        let name = gone.name.clone();
        steps.push(Step::Forget(name.clone()));
        steps.push(Step::Flush(name.clone()));
        match &gone.role {
            Role::Card => {}
            Role::Member { bond } => steps.push(Step::Detach { bond: bond.clone(), member: name }),
            Role::Bond { .. } | Role::Vlan { .. } => steps.push(Step::Delete(name)),
        }
    }
    for wanted in new.iter().filter(|w| anew.contains(w.name.as_str())) {
        make(wanted, &mut steps);
    }
    steps
}

fn make(wanted: &Wanted, steps: &mut Vec<Step>) {
    let name = wanted.name.clone();
    match &wanted.role {
        Role::Card => {}
        Role::Bond { mode, .. } => steps.push(Step::AddBond { name: name.clone(), mode: *mode }),
        Role::Vlan { parent, id } => {
            steps.push(Step::AddVlan { name: name.clone(), parent: parent.clone(), id: *id });
        }
        Role::Member { bond } => {
            steps.push(Step::Flush(name.clone()));
            steps.push(Step::Attach { bond: bond.clone(), member: name });
            return;
        }
    }
    if let Some(mtu) = wanted.mtu {
        steps.push(Step::Mtu(name.clone(), mtu));
    }
    let ipv6 = match wanted.ipv6 {
        AddressMethod::Auto => Ipv6::Advertised,
        AddressMethod::Static { .. } | AddressMethod::LinkLocal => Ipv6::ByHand,
        AddressMethod::Off => Ipv6::Off,
    };
    steps.push(Step::Ipv6(name.clone(), ipv6));
    steps.push(Step::Up(name.clone()));
    for method in [&wanted.ipv4, &wanted.ipv6] {
        if let AddressMethod::Static { addresses, gateway } = method {
            steps.extend(addresses.iter().map(|a| Step::Address(name.clone(), a.clone())));
            steps.extend(gateway.map(|g| Step::Gateway(name.clone(), g)));
        }
    }
    match wanted.ipv4 {
        AddressMethod::Auto => steps.push(Step::Dhcp(name)),
        AddressMethod::LinkLocal => steps.push(Step::LinkLocal(name)),
        AddressMethod::Static { .. } | AddressMethod::Off => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cards(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn settings(json: &str) -> NetworkSettings {
        serde_json::from_str(&format!("{{\"interfaces\":[{json}]}}")).unwrap()
    }

    const STATIC: &str = r#"{"name":"eth0","ipv4":{"kind":"static","addresses":["192.0.2.7/24"],"gateway":"192.0.2.1"},
        "ipv6":{"kind":"static","addresses":["2001:db8::7/64"]},"mtu":9000}"#;
    const BOND: &str = r#"{"name":"bond0","kind":{"kind":"bond","members":["eth0","eth1"],"mode":"lacp"}}"#;
    const VLAN: &str = r#"{"name":"v5","kind":{"kind":"vlan","parent":"bond0","id":5},"ipv6":{"kind":"off"}}"#;

    #[test]
    fn a_box_that_is_told_nothing_takes_dhcp_everywhere() {
        let all = wanted(&NetworkSettings::default(), &cards(&["eth0", "eth1"]));
        let names = |text: &str| text.to_owned();
        assert_eq!(
            steps(&[], &all[..1]),
            [Step::Ipv6(names("eth0"), Ipv6::Advertised), Step::Up(names("eth0")), Step::Dhcp(names("eth0"))]
        );
        assert_eq!(all.len(), 2);
        assert_eq!(steps(&all, &all), []);
    }

    #[test]
    fn a_static_address_follows_what_was_there() {
        let before = wanted(&NetworkSettings::default(), &cards(&["eth0", "eth1"]));
        let after = wanted(&settings(STATIC), &cards(&["eth0", "eth1"]));
        let eth0 = || "eth0".to_owned();
        assert_eq!(
            steps(&before, &after),
            [
                Step::Forget(eth0()),
                Step::Flush(eth0()),
                Step::Mtu(eth0(), 9000),
                Step::Ipv6(eth0(), Ipv6::ByHand),
                Step::Up(eth0()),
                Step::Address(eth0(), "192.0.2.7/24".into()),
                Step::Gateway(eth0(), "192.0.2.1".parse().unwrap()),
                Step::Address(eth0(), "2001:db8::7/64".into()),
            ],
            "eth1 is left alone"
        );
    }

    fn text(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|s| format!("{s:?}")).collect()
    }

    #[test]
    fn a_bond_comes_before_its_cards_and_a_vlan_behind_its_parent() {
        let settings = settings(&format!("{VLAN},{BOND}"));
        check(&settings, &cards(&["eth0", "eth1"])).unwrap();
        let all = wanted(&settings, &cards(&["eth0", "eth1"]));
        let made = text(&steps(&[], &all));
        let at = |word: &str| made.iter().position(|s| s.contains(word)).unwrap_or_else(|| panic!("{word}: {made:?}"));
        assert!(at("AddBond") < at("Attach { bond: \"bond0\", member: \"eth0\""));
        assert!(at("member: \"eth1\"") < at("AddVlan"));
        assert!(!made.iter().any(|s| s.contains("Dhcp(\"eth")), "{made:?}");
        // The bond goes: the VLAN first, then the cards, and these take DHCP again.
        let plain = wanted(&NetworkSettings::default(), &cards(&["eth0", "eth1"]));
        let made = text(&steps(&all, &plain));
        let at = |word: &str| made.iter().position(|s| s.contains(word)).unwrap_or_else(|| panic!("{word}: {made:?}"));
        assert!(at("Delete(\"v5\")") < at("Detach") && at("Detach") < at("Delete(\"bond0\")"));
        assert!(at("Delete(\"bond0\")") < at("Dhcp(\"eth0\")"));
    }

    #[test]
    fn a_card_plugged_in_joins_and_one_pulled_out_is_forgotten() {
        let settings = settings(&format!("{VLAN},{BOND}"));
        let one = wanted(&settings, &cards(&["eth0"]));
        let both = wanted(&settings, &cards(&["eth0", "eth1"]));
        let made = text(&steps(&one, &both));
        assert!(made.iter().any(|s| s.contains("Attach { bond: \"bond0\", member: \"eth1\"")), "{made:?}");
        let gone = text(&steps(&wanted(&NetworkSettings::default(), &cards(&["eth0"])), &[]));
        assert_eq!(gone, ["Forget(\"eth0\")", "Flush(\"eth0\")"]);
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_interface() {
        let many: Vec<String> = (0..33).map(|n| format!("{{\"name\":\"e{n}\"}}")).collect();
        for (json, word) in [
            (r#"{"name":"eth0"},{"name":"eth0"}"#.to_owned(), "twice"),
            (r#"{"name":"lo"}"#.into(), "no name"),
            (r#"{"name":"../x"}"#.into(), "no name"),
            (r#"{"name":"-x"}"#.into(), "no name"),
            (r#"{"name":"a name"}"#.into(), "no name"),
            (r#"{"name":""}"#.into(), "no name"),
            (r#"{"name":"sixteencharacter"}"#.into(), "no name"),
            (r#"{"name":"eth0","mtu":900}"#.into(), "900 bytes"),
            (r#"{"name":"v","kind":{"kind":"vlan","parent":"eth0","id":0}}"#.into(), "VLAN 0"),
            (r#"{"name":"v","kind":{"kind":"vlan","parent":"eth9","id":5}}"#.into(), "cannot carry"),
            (r#"{"name":"v","kind":{"kind":"vlan","parent":"v","id":5}}"#.into(), "cannot carry"),
            (r#"{"name":"eth0","kind":{"kind":"vlan","parent":"eth1","id":5}}"#.into(), "is a card"),
            (r#"{"name":"eth7","kind":{"kind":"bond","members":["eth1"],"mode":"lacp"}}"#.into(), "is a card"),
            (r#"{"name":"b","kind":{"kind":"bond","members":[],"mode":"lacp"}}"#.into(), "0 cards"),
            (r#"{"name":"b","kind":{"kind":"bond","members":["eth0","eth0"],"mode":"lacp"}}"#.into(), "in a bond"),
            (format!("{BOND},{STATIC}"), "give"),
            (
                format!("{BOND},{VLAN},{}", r#"{"name":"w","kind":{"kind":"vlan","parent":"eth0","id":5}}"#),
                "eth0 is in a bond",
            ),
            (r#"{"name":"eth0","ipv4":{"kind":"static","addresses":["192.0.2.7"]}}"#.into(), "prefix length"),
            (r#"{"name":"eth0","ipv4":{"kind":"static","addresses":["192.0.2.7/33"]}}"#.into(), "prefix length"),
            (r#"{"name":"eth0","ipv4":{"kind":"static","addresses":["2001:db8::1/64"]}}"#.into(), "prefix length"),
            (r#"{"name":"eth0","ipv6":{"kind":"static","addresses":["ff02::1/64"]}}"#.into(), "prefix length"),
            (r#"{"name":"eth0","ipv4":{"kind":"static","addresses":[]}}"#.into(), "0 addresses"),
            (
                r#"{"name":"eth0","ipv4":{"kind":"static","addresses":["192.0.2.7/24"],"gateway":"2001:db8::1"}}"#
                    .into(),
                "no gateway",
            ),
            (many.join(","), "more than 32"),
        ] {
            let error = check(&settings(&json), &cards(&["eth0", "eth1"])).unwrap_err();
            let said = format!("{} {}", error.message, error.what_to_do);
            assert!(said.contains(word), "{json}: {said}");
        }
        check(&settings(STATIC), &cards(&[])).unwrap();
    }

    fn any_settings() -> impl Strategy<Value = NetworkSettings> {
        let method = || {
            prop_oneof![
                Just(AddressMethod::Auto),
                Just(AddressMethod::LinkLocal),
                Just(AddressMethod::Off),
                Just(AddressMethod::Static { addresses: vec!["192.0.2.7/24".into()], gateway: None }),
            ]
        };
        let card = |name: &'static str| (Just(name.to_owned()), Just(InterfaceKind::Ethernet), method());
        let bond = (prop::sample::subsequence(vec!["eth0", "eth1", "eth2"], 1..=3), any::<bool>(), method()).prop_map(
            |(members, lacp, ipv4)| {
                let members = members.into_iter().map(Into::into).collect();
                let mode = if lacp { BondMode::Lacp } else { BondMode::ActiveBackup };
                ("bond0".to_owned(), InterfaceKind::Bond { members, mode }, ipv4)
            },
        );
        let vlan = |name: &'static str| {
            (prop::sample::select(vec!["eth0", "eth1", "eth2", "bond0"]), 1u16..4, method()).prop_map(
                move |(parent, id, ipv4)| (name.to_owned(), InterfaceKind::Vlan { parent: parent.into(), id }, ipv4),
            )
        };
        let (a, b) = (prop::option::of(card("eth0")), prop::option::of(card("eth1")));
        let (c, d) = (prop::option::of(vlan("v5")), prop::option::of(vlan("v6")));
        let all = (a, b, prop::option::of(bond), c, d);
        all.prop_map(|(a, b, c, d, e)| {
            let make =
                |(name, kind, ipv4)| InterfaceSettings { name, kind, ipv4, ipv6: AddressMethod::Auto, mtu: None };
            NetworkSettings {
                interfaces: [a, b, c, d, e].into_iter().flatten().map(make).collect(),
                nameservers: vec![],
            }
        })
    }

    /// What the steps leave, as the kernel would.
    fn carry_out(links: &mut BTreeSet<String>, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            let there = |name: &String| if links.contains(name) { Ok(()) } else { Err(format!("{step:?}: no {name}")) };
            match step {
                Step::AddBond { name, .. } | Step::AddVlan { name, .. } if links.contains(name) => {
                    return Err(format!("{step:?}: it is there"));
                }
                Step::AddBond { name, .. } => drop(links.insert(name.clone())),
                Step::AddVlan { name, parent, .. } => {
                    there(parent)?;
                    links.insert(name.clone());
                }
                Step::Attach { bond, member } => there(bond).and(there(member))?,
                Step::Delete(name) => {
                    there(name)?;
                    links.remove(name);
                }
                Step::Up(name) | Step::Dhcp(name) | Step::Address(name, _) => there(name)?,
                _ => {}
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { max_global_rejects: 20_000, ..ProptestConfig::default() })]

        /// From any settings to any other ones: nothing is used that is not there, and what is left is what is wanted.
        #[test]
        fn steps_lead_from_any_state_to_any_other(a in any_settings(), b in any_settings(), more in any::<bool>()) {
            let few = cards(&["eth0", "eth1"]);
            let all = cards(&["eth0", "eth1", "eth2"]);
            let (first, second) = if more { (&few, &all) } else { (&all, &all) };
            prop_assume!(check(&a, first).is_ok() && check(&b, second).is_ok());
            let (from, to) = (wanted(&a, first), wanted(&b, second));
            let mut links: BTreeSet<String> = all.iter().cloned().collect();
            let done = carry_out(&mut links, &steps(&[], &from)).and_then(|()| carry_out(&mut links, &steps(&from, &to)));
            prop_assert_eq!(done, Ok(()), "{:?}\n{:?}", from, to);
            let expected: BTreeSet<String> = to.iter().map(|w| w.name.clone()).chain(all).collect();
            prop_assert_eq!(links, expected);
        }
    }
}
