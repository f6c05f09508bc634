//! The network: a change goes back by itself unless somebody keeps it.

use std::net::IpAddr;

use reprise_api::{
    AddressMethod, BondMode, InterfaceKind, InterfaceSettings, InterfaceStatus, NETWORK_KEEP_SECS, NetworkSettings,
    NetworkStatus, Nothing, SystemStatus,
};

use super::{Talk, home, nothing, system};
use crate::serial::call;
use crate::serial::field::{
    BOND_MEMBERS, BOND_MODE, BOND_NAME, Checked, Field, IPV4, IPV4_GATEWAY, IPV6, IPV6_GATEWAY, MTU, NAME_SERVERS,
    PICK_INTERFACE, VLAN_ID, at_most, gateway, number, one_of, prefixed, words,
};
use crate::serial::text::{labelled, wrap};
use crate::serial::ui::{Event, Form, Ui, Waiting};

/// Most addresses, name servers or cards in one answer.
const LIST_MAX: usize = 8;
/// Longest name of an interface.
const NAME_CHARS_MAX: usize = 15;
/// Between two looks at a change that is to be kept.
const LOOK_MS: u64 = 3_000;

/// The network as it is.
pub(super) fn table(n: &NetworkStatus) -> Vec<String> {
    let mut lines: Vec<String> = n.interfaces.iter().flat_map(|i| interface_lines(i, n)).collect();
    let servers: Vec<String> = n.nameservers.iter().map(IpAddr::to_string).collect();
    let servers = if servers.is_empty() { "none".to_owned() } else { servers.join(" ") };
    lines.extend(labelled("Names by", &servers));
    if let Some(left) = n.reverts_in_secs {
        lines.extend(wrap(&format!("A change goes back in {left} s unless you keep it: 6."), 2));
    }
    lines
}

fn interface_lines(i: &InterfaceStatus, n: &NetworkStatus) -> Vec<String> {
    let speed = i.speed_mbit.map(|s| format!(", {s} Mbit/s")).unwrap_or_default();
    let wanted = n.settings.interfaces.iter().find(|s| s.name == i.name).map_or("auto".to_owned(), describe);
    let carrier = if i.carrier { "cable" } else { "NO CABLE" };
    let mut lines = labelled(&i.name, &format!("{carrier}{speed}, {}; wanted: {wanted}", i.mac));
    let gateways: Vec<String> = i.gateways.iter().map(|g| format!("gateway {g}")).collect();
    let has: Vec<String> = i.addresses.iter().cloned().chain(gateways).collect();
    if !has.is_empty() {
        lines.extend(labelled("", &has.join(", ")));
    }
    lines
}

fn describe(s: &InterfaceSettings) -> String {
    let kind = match &s.kind {
        InterfaceKind::Ethernet => String::new(),
        InterfaceKind::Vlan { parent, id } => format!("VLAN {id} on {parent}, "),
        InterfaceKind::Bond { members, mode } => format!("{} of {}, ", mode_text(*mode), members.join(" ")),
    };
    format!("{kind}IPv4 {}, IPv6 {}", method_text(&s.ipv4), method_text(&s.ipv6))
}

fn mode_text(mode: BondMode) -> &'static str {
    match mode {
        BondMode::ActiveBackup => "active-backup",
        BondMode::Lacp => "lacp",
    }
}

fn method_text(m: &AddressMethod) -> String {
    match m {
        AddressMethod::Auto => "auto".to_owned(),
        AddressMethod::LinkLocal => "link-local".to_owned(),
        AddressMethod::Off => "off".to_owned(),
        AddressMethod::Static { addresses, .. } => addresses.join(" "),
    }
}

fn gateway_of(m: &AddressMethod) -> String {
    match m {
        AddressMethod::Static { gateway: Some(gateway), .. } => gateway.to_string(),
        _ => "none".to_owned(),
    }
}

fn method(text: &str, v6: bool) -> Checked<AddressMethod> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "auto" => AddressMethod::Auto,
        "off" => AddressMethod::Off,
        "link-local" => AddressMethod::LinkLocal,
        _ => {
            let addresses: Checked<Vec<String>> = words(text).into_iter().map(|w| prefixed(w, v6)).collect();
            AddressMethod::Static { addresses: at_most(addresses?, LIST_MAX, "addresses")?, gateway: None }
        }
    })
}

/// How an interface gets addresses of one family.
async fn ask_method(form: &mut Form<'_>, now: &AddressMethod, v6: bool) -> Talk<AddressMethod> {
    let (field, gateway_field): (&'static Field, &'static Field) =
        if v6 { (&IPV6, &IPV6_GATEWAY) } else { (&IPV4, &IPV4_GATEWAY) };
    let mut wanted = form.ask(field, Some(&method_text(now)), |t| method(t, v6)).await?;
    if let AddressMethod::Static { gateway: slot, .. } = &mut wanted {
        *slot = form.ask(gateway_field, Some(&gateway_of(now)), |t| gateway(t, v6)).await?;
    }
    Ok(wanted)
}

async fn ask_addresses(form: &mut Form<'_>, settings: &mut InterfaceSettings) -> Talk {
    settings.ipv4 = ask_method(form, &settings.ipv4, false).await?;
    settings.ipv6 = ask_method(form, &settings.ipv6, true).await?;
    let now = settings.mtu.map_or("auto".to_owned(), |m| m.to_string());
    settings.mtu =
        form.ask(&MTU, Some(&now), |t| if t == "auto" { Ok(None) } else { number(t, 1280, 9216).map(Some) }).await?;
    Ok(())
}

fn put(settings: &mut NetworkSettings, interface: InterfaceSettings) {
    settings.interfaces.retain(|i| i.name != interface.name);
    settings.interfaces.push(interface);
}

/// Has a change made and then kept.
async fn apply(ui: &Ui, form: &mut Form<'_>, settings: NetworkSettings) -> Talk {
    form.say(&format!("It goes back by itself after {NETWORK_KEEP_SECS} s unless you keep it then."));
    let confirmed = form.confirm("yes").await?;
    ui.change(call::system_network_set(settings), &confirmed).await?;
    keep(ui).await
}

/// Addresses of an interface.
pub(super) async fn interface(ui: &Ui) -> Talk {
    let network = system(ui).await?.network;
    let mut form = Form::new(ui, "Addresses of an interface");
    if network.interfaces.is_empty() {
        return Err(nothing("There is no network interface.", "put a card in that the firmware knows"));
    }
    let rows: Vec<String> = network.interfaces.iter().map(home::interface).collect();
    let at = form.pick(&PICK_INTERFACE, &rows).await?;
    let name = network.interfaces.get(at).map(|i| i.name.clone()).unwrap_or_default();
    let mut settings = network.settings;
    let now = settings.interfaces.iter().find(|i| i.name == name).cloned();
    let mut wanted = now.unwrap_or_else(|| fresh(name, InterfaceKind::Ethernet));
    ask_addresses(&mut form, &mut wanted).await?;
    put(&mut settings, wanted);
    apply(ui, &mut form, settings).await
}

fn fresh(name: String, kind: InterfaceKind) -> InterfaceSettings {
    InterfaceSettings { name, kind, ipv4: AddressMethod::Auto, ipv6: AddressMethod::Auto, mtu: None }
}

/// A VLAN.
pub(super) async fn vlan(ui: &Ui) -> Talk {
    let network = system(ui).await?.network;
    let mut form = Form::new(ui, "New VLAN");
    let below: Vec<&InterfaceStatus> = network.interfaces.iter().collect();
    if below.is_empty() {
        return Err(nothing("There is no network interface.", "put a card in that the firmware knows"));
    }
    form.say("On which interface:");
    let rows: Vec<String> = below.iter().map(|i| home::interface(i)).collect();
    let at = form.pick(&PICK_INTERFACE, &rows).await?;
    let parent = below.get(at).map(|i| i.name.clone()).unwrap_or_default();
    let id = form.ask(&VLAN_ID, None, |t| number(t, 1, 4094)).await? as u16;
    let name = format!("{parent}.{id}");
    if name.len() > NAME_CHARS_MAX {
        return Err(nothing(&format!("{name} is longer than {NAME_CHARS_MAX} characters."), "use another interface"));
    }
    let mut wanted = fresh(name, InterfaceKind::Vlan { parent, id });
    ask_addresses(&mut form, &mut wanted).await?;
    let mut settings = network.settings;
    put(&mut settings, wanted);
    apply(ui, &mut form, settings).await
}

fn bond_name(text: &str, network: &NetworkStatus) -> Checked<String> {
    let good = text.len() <= NAME_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !good {
        return Err("That is no name of an interface.".to_owned());
    }
    if network.interfaces.iter().any(|i| i.name == text) {
        return Err("There is an interface of this name.".to_owned());
    }
    Ok(text.to_owned())
}

/// A bond.
pub(super) async fn bond(ui: &Ui) -> Talk {
    let network = system(ui).await?.network;
    let mut form = Form::new(ui, "New bond");
    form.list(network.interfaces.iter().flat_map(|i| wrap(&format!("  {}", home::interface(i)), 4)));
    let name = form.ask(&BOND_NAME, Some("bond0"), |t| bond_name(t, &network)).await?;
    let member = |w: &str| {
        let known = network.interfaces.iter().any(|i| i.name == w);
        if known { Ok(w.to_owned()) } else { Err(format!("There is no interface {w:?}.")) }
    };
    let members = form
        .ask(&BOND_MEMBERS, None, |t| {
            let mut members = words(t).into_iter().map(member).collect::<Checked<Vec<String>>>()?;
            members.sort_unstable();
            members.dedup();
            at_most(members, LIST_MAX, "cards")
        })
        .await?;
    let mode = match form.ask(&BOND_MODE, Some("active-backup"), |t| one_of(t, &["active-backup", "lacp"])).await? {
        0 => BondMode::ActiveBackup,
        _ => BondMode::Lacp,
    };
    let mut settings = network.settings.clone();
    // A card in a bond has no addresses of its own.
    settings.interfaces.retain(|i| !members.contains(&i.name));
    let mut wanted = fresh(name, InterfaceKind::Bond { members, mode });
    ask_addresses(&mut form, &mut wanted).await?;
    put(&mut settings, wanted);
    apply(ui, &mut form, settings).await
}

/// Takes settings, a VLAN or a bond away.
pub(super) async fn forget(ui: &Ui) -> Talk {
    let mut settings = system(ui).await?.network.settings;
    if settings.interfaces.is_empty() {
        return Err(nothing("No interface has settings: all take DHCP.", ""));
    }
    let mut form = Form::new(ui, "Forget settings, VLAN or bond");
    let rows: Vec<String> = settings.interfaces.iter().map(|i| format!("{}: {}", i.name, describe(i))).collect();
    let gone = settings.interfaces.remove(form.pick(&PICK_INTERFACE, &rows).await?);
    let on_it = settings.interfaces.iter().any(|i| match &i.kind {
        InterfaceKind::Vlan { parent, .. } => *parent == gone.name,
        InterfaceKind::Bond { members, .. } => members.contains(&gone.name),
        InterfaceKind::Ethernet => false,
    });
    if on_it && gone.kind != InterfaceKind::Ethernet {
        return Err(nothing(&format!("Something stands on {}.", gone.name), "forget that first"));
    }
    form.say("A card takes DHCP again; a VLAN or bond goes away.");
    apply(ui, &mut form, settings).await
}

/// Name servers.
pub(super) async fn name_servers(ui: &Ui) -> Talk {
    let mut settings = system(ui).await?.network.settings;
    let mut form = Form::new(ui, "Name servers");
    let now: Vec<String> = settings.nameservers.iter().map(IpAddr::to_string).collect();
    let now = if now.is_empty() { "auto".to_owned() } else { now.join(" ") };
    settings.nameservers = form
        .ask(&NAME_SERVERS, Some(&now), |t| {
            if t == "auto" {
                return Ok(Vec::new());
            }
            let address = |w: &str| w.parse::<IpAddr>().map_err(|_| format!("{w:?} is no address."));
            at_most(words(t).into_iter().map(address).collect::<Checked<Vec<IpAddr>>>()?, LIST_MAX, "addresses")
        })
        .await?;
    apply(ui, &mut form, settings).await
}

/// Waits for the word that keeps a change, and shows meanwhile what became of it.
pub(super) async fn keep(ui: &Ui) -> Talk {
    let title = "Keep the network";
    let mut network = system(ui).await?.network;
    let mut looked_ms = ui.now_ms();
    let mut waiting: Option<Waiting<SystemStatus>> = None;
    let mut note: Vec<String> = Vec::new();
    let mut wanted = true;
    loop {
        let Some(left) = network.reverts_in_secs else {
            ui.say_line("No change waits to be kept: the network is as the settings say.");
            return Ok(());
        };
        let body = table(&network);
        let prompt = "Type keep (. leaves it): ";
        let passed = ui.now_ms().saturating_sub(looked_ms) / 1000;
        let left = u64::from(left).saturating_sub(passed);
        let fixed = wrap(&format!("In {left} s the earlier settings come back, unless you type keep."), 2);
        if std::mem::take(&mut wanted) {
            ui.draw(title, &body, &fixed, &note, prompt);
        } else {
            ui.redraw(title, &body, &fixed, &note, prompt);
        }
        if waiting.is_none() && ui.now_ms().saturating_sub(looked_ms) >= LOOK_MS {
            waiting = Some(ui.start(call::system_show(Nothing {})));
            looked_ms = ui.now_ms();
        }
        match ui.event().await {
            Event::Answer(id, result) => {
                if let Some(waiting) = waiting.take_if(|w| w.is(id)) {
                    // The way to the daemon does not lead over the network: a refusal is one, and the page stays.
                    if let Ok(system) = waiting.answer(result) {
                        network = system.network;
                    }
                }
            }
            Event::Line(line) => {
                if let Some(confirmed) = Ui::confirmed_by(&line, "keep") {
                    ui.change(call::system_network_keep(Nothing {}), &confirmed).await?;
                    ui.say_line("The network is kept.");
                    return Ok(());
                }
                match line.trim() {
                    "." | "q" | "0" => return Ok(()),
                    "" => note = Vec::new(),
                    other if ui.turn(other) => {}
                    _ => {
                        note = vec![
                            "That is not the word. Type keep, or . to let the earlier settings come back.".to_owned(),
                        ]
                    }
                }
                wanted = true;
            }
            Event::Back => return Ok(()),
            Event::Tick | Event::Written => {}
        }
    }
}
