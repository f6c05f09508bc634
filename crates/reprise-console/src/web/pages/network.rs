//! The network. A change holds only if it is kept within two minutes, so that nobody locks himself out.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{
    AddressMethod, BondMode, InterfaceKind, InterfaceSettings, NETWORK_KEEP_SECS, NetworkSettings, NetworkStatus,
    Nothing,
};
use serde::Deserialize;

use super::settings::system;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text, Tone};
use crate::web::{App, units};

/// Which interface, or a new one of which kind.
#[derive(Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
}

fn method(method: &AddressMethod) -> String {
    match method {
        AddressMethod::Auto => "automatic".to_owned(),
        AddressMethod::Static { addresses, gateway } => {
            let gateway = gateway.map(|g| format!(", gateway {g}")).unwrap_or_default();
            format!("{}{gateway}", addresses.join(", "))
        }
        AddressMethod::LinkLocal => "link-local only".to_owned(),
        AddressMethod::Off => "off".to_owned(),
    }
}

fn kind(kind: &InterfaceKind) -> String {
    match kind {
        InterfaceKind::Ethernet => "card".to_owned(),
        InterfaceKind::Vlan { parent, id } => format!("VLAN {id} on {parent}"),
        InterfaceKind::Bond { members, mode } => {
            let mode = match mode {
                BondMode::ActiveBackup => "active-backup",
                BondMode::Lacp => "LACP",
            };
            format!("bond of {} ({mode})", members.join(", "))
        }
    }
}

fn edit_link(name: &str) -> String {
    format!("/settings/network/interface?{}", serde_urlencoded::to_string([("name", name)]).unwrap_or_default())
}

/// `GET /settings/network`.
pub(crate) async fn show(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    network_page(&app, &signed, &Form::default(), None).await
}

async fn network_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let system = system(app).await?;
    let network = &system.network;
    let fields = Fields { form, problem, prefix: "" };
    let servers: Vec<_> = network.settings.nameservers.iter().map(ToString::to_string).collect();
    let in_use: Vec<_> = network.nameservers.iter().map(ToString::to_string).collect();
    let hint = format!(
        "Addresses between commas, at most 8. Empty: those that DHCP names. In use: {}.",
        if in_use.is_empty() { "none".to_owned() } else { in_use.join(", ") }
    );
    let first = servers.join(", ");
    let content = html! {
        p {
            "A change has to be kept within " (units::secs(f64::from(NETWORK_KEEP_SECS)))
            ", or the earlier settings come back. Where the box gets another address, open this console there and keep it."
        }
        (interfaces(network))
        (settings(signed, network))
        p class="actions" {
            a class="button second" href="/settings/network/interface?kind=vlan" { "Add a VLAN" } " "
            a class="button second" href="/settings/network/interface?kind=bond" { "Add a bond" }
        }
        section class="card" {
            h2 { "Name servers" }
            form method="post" action="/settings/network/nameservers" {
                (ui::token(signed))
                (fields.text(Text { name: "nameservers", label: "Name servers", first: &first, hint: &hint, ..Text::default() }))
                button type="submit" { "Change" }
            }
        }
    };
    Ok(Page::new(signed, "Network").problem(problem).show(content))
}

fn interfaces(network: &NetworkStatus) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Interfaces" {
            table {
                caption { "Interfaces as they are" }
                thead {
                    tr {
                        th scope="col" { "Interface" } th scope="col" { "Cable" } th scope="col" { "Addresses" }
                        th scope="col" { "Gateways" } th scope="col" { "Hardware address" } th scope="col" { "Settings" }
                    }
                }
                tbody {
                    @for i in &network.interfaces {
                        tr {
                            th scope="row" { (i.name) }
                            td {
                                @if i.carrier { (ui::badge(Tone::Good, "plugged in")) } @else { (ui::badge(Tone::Off, "nothing there")) }
                                @if let Some(speed) = i.speed_mbit { " " (speed) " Mbit/s" }
                            }
                            td { (i.addresses.join(", ")) }
                            td { (i.gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) }
                            td { code { (i.mac) } }
                            td { a href=(edit_link(&i.name)) { "Change" (ui::hidden(&i.name)) } }
                        }
                    }
                }
            }
        }
    }
}

fn settings(signed: &Signed, network: &NetworkStatus) -> Markup {
    html! {
        h2 { "Settings" }
        @if network.settings.interfaces.is_empty() {
            p { "No interface has settings of its own: each takes DHCP, and a link-local address where there is none." }
        } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Settings of interfaces" {
                table {
                    caption { "Interfaces with settings of their own; the others take DHCP" }
                    thead { tr { th scope="col" { "Interface" } th scope="col" { "Kind" } th scope="col" { "IPv4" } th scope="col" { "IPv6" } th scope="col" { "Packet" } th scope="col" { "Take away" } } }
                    tbody {
                        @for i in &network.settings.interfaces {
                            tr {
                                th scope="row" { a href=(edit_link(&i.name)) { (i.name) } }
                                td { (kind(&i.kind)) }
                                td { (method(&i.ipv4)) }
                                td { (method(&i.ipv6)) }
                                td { (units::or_unknown(i.mtu, |m| m.to_string())) }
                                td { (ui::button(signed, "/settings/network/remove", &[("name", &i.name)],
                                    html! { "Take away" (ui::hidden(&format!("the settings of {}", i.name))) })) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `GET /settings/network/interface`.
pub(crate) async fn interface_form(
    State(app): State<Arc<App>>,
    Query(which): Query<Which>,
    signed: Signed,
) -> Result<Response, Problem> {
    let system = system(&app).await?;
    let known = system.network.settings.interfaces.iter().find(|i| i.name == which.name);
    let form = match known {
        Some(settings) => form_of(settings),
        None => Form::default()
            .with("name", &which.name)
            .with("kind", if which.kind.is_empty() { "ethernet" } else { &which.kind }),
    };
    Ok(interface_page(&signed, &form, None))
}

/// The form that says what the settings say.
fn form_of(settings: &InterfaceSettings) -> Form {
    let form = Form::default()
        .with("name", &settings.name)
        .with("mtu", settings.mtu.map(|m| m.to_string()).unwrap_or_default());
    let form = match &settings.kind {
        InterfaceKind::Ethernet => form.with("kind", "ethernet"),
        InterfaceKind::Vlan { parent, id } => form.with("kind", "vlan").with("parent", parent).with("id", id),
        InterfaceKind::Bond { members, mode } => form.with("kind", "bond").with("members", members.join(", ")).with(
            "mode",
            match mode {
                BondMode::ActiveBackup => "active-backup",
                BondMode::Lacp => "lacp",
            },
        ),
    };
    [("4", &settings.ipv4), ("6", &settings.ipv6)].into_iter().fold(form, |form, (family, method)| {
        let (kind, addresses, gateway) = match method {
            AddressMethod::Auto => ("auto", String::new(), None),
            AddressMethod::Static { addresses, gateway } => ("static", addresses.join(", "), *gateway),
            AddressMethod::LinkLocal => ("link_local", String::new(), None),
            AddressMethod::Off => ("off", String::new(), None),
        };
        let gateway = gateway.map(|g| g.to_string()).unwrap_or_default();
        form.with(&format!("method{family}"), kind)
            .with(&format!("addresses{family}"), addresses)
            .with(&format!("gateway{family}"), gateway)
    })
}

fn family_fields(fields: &Fields<'_>, family: &str, automatic: &str, sample: (&str, &str)) -> Markup {
    let name = |what: &str| format!("{what}{family}");
    let (address, gateway) =
        (format!("With prefix length, between commas, such as {}.", sample.0), format!("Such as {}.", sample.1));
    html! {
        fieldset {
            legend { "IPv" (family) }
            (fields.select(&name("method"), &format!("How it gets IPv{family} addresses"), "auto", &[
                ("auto", automatic), ("static", "Those below"), ("link_local", "Link-local only"), ("off", "None"),
            ]))
            (fields.text(Text { name: &name("addresses"), label: &format!("IPv{family} addresses"), hint: &address, ..Text::default() }))
            (fields.text(Text { name: &name("gateway"), label: &format!("IPv{family} gateway"), hint: &gateway, ..Text::default() }))
        }
    }
}

fn interface_page(signed: &Signed, form: &Form, problem: Option<&Problem>) -> Response {
    let fields = Fields { form, problem, prefix: "" };
    let kind = form.or("kind", "ethernet");
    let content = html! {
        form method="post" action="/settings/network/interface" {
            (ui::token(signed))
            input type="hidden" name="kind" value=(kind);
            (fields.text(Text {
                name: "name", label: "Name of the interface", required: true,
                hint: "At most 15 characters, such as eth0, eth0.100 or bond0.", ..Text::default()
            }))
            @match kind {
                "vlan" => {
                    (fields.text(Text { name: "parent", label: "Interface below", required: true, ..Text::default() }))
                    (fields.text(Text { name: "id", label: "Number of the VLAN", hint: "1 to 4094.", required: true, ..Text::default() }))
                }
                "bond" => {
                    (fields.text(Text { name: "members", label: "Cards", hint: "Names between commas, at most 8.", required: true, ..Text::default() }))
                    (fields.select("mode", "How they share the work", "active-backup", &[
                        ("active-backup", "One works, the others wait: needs nothing of the switch"),
                        ("lacp", "LACP: the switch has to know it"),
                    ]))
                }
                _ => {}
            }
            (family_fields(&fields, "4", "DHCP, else link-local", ("192.0.2.7/24", "192.0.2.1")))
            (family_fields(&fields, "6", "Router advertisements", ("2001:db8::7/64", "2001:db8::1")))
            (fields.text(Text { name: "mtu", label: "Largest packet, bytes", hint: "1280 to 9216. Empty: what the driver says.", ..Text::default() }))
            button type="submit" { "Change the network" } " " a href="/settings/network" { "Back" }
        }
    };
    let title = match kind {
        "vlan" => "VLAN",
        "bond" => "Bond",
        _ => "Interface",
    };
    Page::new(signed, title).problem(problem).show(content)
}

fn address_method(
    form: &Form,
    [how, addresses, gateway]: [&'static str; 3],
    label: &str,
) -> Result<AddressMethod, Problem> {
    Ok(match form.text(how) {
        "" | "auto" => AddressMethod::Auto,
        "link_local" => AddressMethod::LinkLocal,
        "off" => AddressMethod::Off,
        "static" => {
            let list: Vec<String> = form.list(addresses, label)?;
            if list.is_empty() || list.len() > 8 {
                return Err(Problem::field(addresses, format!("{label}: write 1 to 8 addresses.")));
            }
            for text in &list {
                let fine = text
                    .split_once('/')
                    .is_some_and(|(a, p)| a.parse::<IpAddr>().is_ok() && p.parse::<u8>().is_ok_and(|p| p <= 128));
                if !fine {
                    let wrong = format!("{label}: {text} is no address with a prefix length, such as 192.0.2.7/24.");
                    return Err(Problem::field(addresses, wrong));
                }
            }
            AddressMethod::Static { addresses: list, gateway: form.optional(gateway, "Gateway")? }
        }
        _ => return Err(Problem::field(how, format!("{label}: choose how it gets addresses."))),
    })
}

fn interface_of(form: &Form) -> Result<InterfaceSettings, Problem> {
    let name = form.text("name");
    let fine = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty() || name.len() > 15 || !name.chars().all(fine) || name.starts_with('.') {
        return Err(Problem::field("name", "The name has 1 to 15 characters without white space, / and :."));
    }
    let kind = match form.text("kind") {
        "vlan" => InterfaceKind::Vlan {
            parent: form.value("parent", "Interface below")?,
            id: Some(form.value::<u16>("id", "Number of the VLAN")?)
                .filter(|id| (1..=4094).contains(id))
                .ok_or_else(|| Problem::field("id", "The number of a VLAN is 1 to 4094."))?,
        },
        "bond" => InterfaceKind::Bond {
            members: Some(form.list("members", "Cards")?)
                .filter(|m: &Vec<String>| (1..=8).contains(&m.len()))
                .ok_or_else(|| Problem::field("members", "A bond has 1 to 8 cards."))?,
            mode: if form.text("mode") == "lacp" { BondMode::Lacp } else { BondMode::ActiveBackup },
        },
        _ => InterfaceKind::Ethernet,
    };
    let mtu: Option<u32> = form.optional("mtu", "Largest packet")?;
    if mtu.is_some_and(|m| !(1280..=9216).contains(&m)) {
        return Err(Problem::field("mtu", "The largest packet has 1280 to 9216 bytes."));
    }
    Ok(InterfaceSettings {
        name: name.to_owned(),
        kind,
        ipv4: address_method(form, ["method4", "addresses4", "gateway4"], "IPv4 addresses")?,
        ipv6: address_method(form, ["method6", "addresses6", "gateway6"], "IPv6 addresses")?,
        mtu,
    })
}

/// Changes the settings as they are at this moment; gives what to tell.
async fn change(app: &App, edit: impl FnOnce(&mut NetworkSettings)) -> Result<&'static str, Problem> {
    let mut settings = system(app).await?.network.settings.clone();
    edit(&mut settings);
    app.client.system_network_set(&settings).await?;
    // Learned at once, so that the page that follows asks whether to keep it. The network may be away for a moment.
    let _ = system(app).await;
    Ok("The network is changed. Keep the new settings within two minutes, or the earlier ones come back.")
}

/// `POST /settings/network/interface`.
pub(crate) async fn interface(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let wanted = interface_of(&form)?;
        change(&app, |settings| {
            settings.interfaces.retain(|i| i.name != wanted.name);
            settings.interfaces.push(wanted);
        })
        .await
    };
    match attempt.await {
        Ok(told) => Ok(signed.done("/settings/network", told)),
        Err(problem) => Ok(interface_page(&signed, &form, Some(&problem))),
    }
}

/// `POST /settings/network/remove`.
pub(crate) async fn remove(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let name = form.text("name");
    match change(&app, |settings| settings.interfaces.retain(|i| i.name != name)).await {
        Ok(told) => Ok(signed.done("/settings/network", told)),
        Err(problem) => network_page(&app, &signed, &Form::default(), Some(&problem)).await,
    }
}

/// `POST /settings/network/nameservers`.
pub(crate) async fn nameservers(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let servers: Vec<IpAddr> = form.list("nameservers", "Name servers")?;
        if servers.len() > 8 {
            return Err(Problem::field("nameservers", "There may be at most 8 name servers."));
        }
        change(&app, |settings| settings.nameservers = servers).await
    };
    match attempt.await {
        Ok(told) => Ok(signed.done("/settings/network", told)),
        Err(problem) => network_page(&app, &signed, &form, Some(&problem)).await,
    }
}

/// `POST /settings/network/keep`.
pub(crate) async fn keep(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    app.client.system_network_keep(&Nothing {}).await?;
    let _ = system(&app).await;
    Ok(posted.signed.done("/settings/network", "The new network settings are kept."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_form() {
        let all = [
            InterfaceSettings {
                name: "eth0".into(),
                kind: InterfaceKind::Ethernet,
                ipv4: AddressMethod::Static {
                    addresses: vec!["192.0.2.7/24".into(), "198.51.100.7/25".into()],
                    gateway: Some("192.0.2.1".parse().unwrap()),
                },
                ipv6: AddressMethod::Off,
                mtu: Some(9000),
            },
            InterfaceSettings {
                name: "eth0.100".into(),
                kind: InterfaceKind::Vlan { parent: "eth0".into(), id: 100 },
                ipv4: AddressMethod::Auto,
                ipv6: AddressMethod::LinkLocal,
                mtu: None,
            },
            InterfaceSettings {
                name: "bond0".into(),
                kind: InterfaceKind::Bond { members: vec!["eth1".into(), "eth2".into()], mode: BondMode::Lacp },
                ipv4: AddressMethod::LinkLocal,
                ipv6: AddressMethod::Auto,
                mtu: None,
            },
        ];
        for settings in all {
            assert_eq!(interface_of(&form_of(&settings)).unwrap(), settings);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let form = |text: &str| Form::parse(text.as_bytes()).unwrap();
        for (text, field) in [
            ("name=", "name"),
            ("name=a+b", "name"),
            ("name=a/b", "name"),
            ("name=sixteencharacter", "name"),
            ("name=v&kind=vlan&parent=eth0&id=4095", "id"),
            ("name=v&kind=vlan&id=1", "parent"),
            ("name=b&kind=bond", "members"),
            ("name=e&mtu=100", "mtu"),
            ("name=e&method4=static", "addresses4"),
            ("name=e&method4=static&addresses4=192.0.2.1", "addresses4"),
            ("name=e&method4=static&addresses4=192.0.2.1/24&gateway4=x", "gateway4"),
            ("name=e&method6=what", "method6"),
        ] {
            assert_eq!(interface_of(&form(text)).unwrap_err().field_name(), Some(field), "{text}");
        }
    }
}
