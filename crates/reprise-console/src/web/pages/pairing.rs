//! Pairing with another box.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use reprise_api::{
    ByteSize, Nothing, PairDial, PairListen, PairOffer, PairState, PairStatus, PeerSet, PeerShare, PeerShareSet,
    PeerStatus, Status,
};

use super::volumes::name_of;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text, Tone};
use crate::web::{App, figures, lock, units};

/// How long the page waits for the other box before it shows that it is being talked to.
const DIAL_WAIT: Duration = Duration::from_secs(2);
/// Port of the link where none is typed.
const LINK_PORT: u16 = 3261;
/// Longest address that is taken.
const ADDRESS_CHARS_MAX: usize = 261;

/// What the API says once and the page shows for a while.
#[derive(Default)]
pub(crate) struct Memory {
    /// The code on show, and until when.
    offer: Option<(PairOffer, Instant)>,
    /// Why the last call to another box did not come about, where the box's own state does not tell.
    refused: Option<Problem>,
}

/// `GET /pair`.
pub(crate) async fn show(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    let problem = lock(&app.pairing).refused.take();
    pair_page(&app, &signed, &Form::default(), problem.as_ref()).await
}

async fn pair_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let status = app.client.status(&Nothing {}).await?;
    let pair = app.client.pair_status(&Nothing {}).await?;
    let offer = {
        let mut memory = lock(&app.pairing);
        let on_show = matches!(pair.state, PairState::Listening { .. } | PairState::Exchanging { .. });
        if !on_show || memory.offer.as_ref().is_some_and(|(_, until)| *until < Instant::now()) {
            memory.offer = None;
        }
        memory.offer.as_ref().map(|(offer, _)| offer.clone())
    };
    let under_way = matches!(pair.state, PairState::Listening { .. } | PairState::Exchanging { .. });
    let content = html! {
        p class="hidden" role="status" aria-live="polite" id="live-says" {}
        div data-part="pair" { (pair_state(app, signed, &pair, offer.as_ref())) }
        @if !under_way { (wizard(app, signed, form, problem)) }
        (peers(signed, &status))
    };
    let reload = under_way.then_some(3);
    Ok(Page::new(signed, "Pairing").problem(problem).live(reload).show(content))
}

fn pair_state(app: &App, signed: &Signed, pair: &PairStatus, offer: Option<&PairOffer>) -> Markup {
    let cancel = || ui::button(signed, "/pair/cancel", &[], html! { "Cancel the pairing" });
    html! {
        @match &pair.state {
            PairState::Idle => {}
            PairState::Listening { .. } => section class="card" aria-labelledby="pair-now" {
                h2 id="pair-now" { "This box waits for the other one" }
                @if let Some(offer) = offer {
                    p { "On the other box choose “Enter the code of the other box” and type:" }
                    dl {
                        dt { "Code" } dd { strong class="code" id="pair-code" { (offer.code) } }
                        dt { "Address of this box" }
                        dd { @for address in &offer.addresses { code { (address) } " " } }
                        dt { "Fingerprint of this box's certificate" }
                        dd { code class="fingerprint" { (units::fingerprint(&app.fingerprint)) } }
                    }
                } @else {
                    p { "The code was asked for somewhere else and is shown there. Cancel to begin again here." }
                }
                p { "The code is good for " (ui::live("pair.left", &figures::pair_left(pair))) ", for one right answer or three wrong ones." }
                (cancel())
            },
            PairState::Exchanging { address } => section class="card" aria-labelledby="pair-now" {
                h2 id="pair-now" { "Talking to the other box" }
                p { (ui::badge(Tone::Busy, "exchanging keys")) " with " (address) }
                (cancel())
            },
            PairState::Paired { peer, address, .. } => div class="notice good" role="status" {
                p { strong { "Paired." } " The other box is " (peer) " at " (address) "." }
                p { "Next: open a group under " a href="/volumes" { "Volumes" } " and begin its mirror." }
            },
            PairState::Failed { error } => div class="notice bad" role="alert" {
                p { strong { "The pairing failed." } " " (error.message) }
                @if !error.what_to_do.is_empty() { p { (error.what_to_do) } }
            },
            PairState::Expired => div class="notice warn" role="status" { p { "The code expired before the other box used it. Begin again." } },
            PairState::Cancelled => div class="notice warn" role="status" { p { "The pairing was cancelled." } },
        }
    }
}

fn wizard(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Markup {
    let fields = Fields { form, problem, prefix: "" };
    html! {
        p { "Pairing needs both boxes. One shows a code, the other one is told the code. It does not matter which is which." }
        div class="boxes" {
            section class="card" aria-labelledby="listen-title" {
                h2 id="listen-title" { "Show a code here" }
                p { "Begin here, then go to the other box." }
                (ui::button(signed, "/pair/listen", &[], html! { "Show a code" }))
            }
            section class="card" aria-labelledby="dial-title" {
                h2 id="dial-title" { "Enter the code of the other box" }
                form method="post" action="/pair/dial" {
                    (ui::token(signed))
                    (fields.text(Text {
                        name: "address", label: "Address of the other box", required: true,
                        hint: "As it shows it, such as 192.0.2.7:3261.", ..Text::default()
                    }))
                    (fields.text(Text { name: "code", label: "Code it shows", required: true, ..Text::default() }))
                    button type="submit" { "Pair" }
                }
            }
        }
        p class="quiet" { "Fingerprint of this box's certificate: " code { (units::fingerprint(&app.fingerprint)) } }
    }
}

fn peers(signed: &Signed, status: &Status) -> Markup {
    html! {
        section aria-labelledby="peers-title" {
            h2 id="peers-title" { "Paired boxes" }
            @if status.peers.is_empty() { p { "None." } }
            @for peer in &status.peers { (peer_card(signed, peer, &status.peers)) }
        }
    }
}

fn peer_card(signed: &Signed, peer: &PeerStatus, all: &[PeerStatus]) -> Markup {
    let others: Vec<_> = all.iter().filter(|p| p.id != peer.id).collect();
    let name = peer.name.as_str();
    html! {
        section class="card" {
            h3 { (name) " " @if peer.connected { (ui::badge(Tone::Good, "connected")) } @else { (ui::badge(Tone::Bad, "not connected")) } }
            dl {
                dt { "Address" } dd { (units::or_unknown(peer.address.clone(), |a| a)) }
                @if let Some(told) = &peer.learned_address { dt { "Says it is at" } dd { (told) } }
                dt { "Paired" } dd { (ui::time(peer.paired_unix_ms)) }
                dt { "Fingerprint of its key" } dd { code class="fingerprint" { (units::fingerprint(&peer.key_fingerprint)) } }
                dt { "Groups" }
                dd {
                    @if peer.groups.is_empty() { "none" }
                    @for group in &peer.groups { a href=(format!("/groups/{group}")) { (group) } " " }
                }
                dt { "May have here" } dd { (peer.share) }
            }
            form method="post" action=(format!("/peers/{name}/address")) {
                (ui::token(signed))
                div class="field" {
                    label for=(format!("address-{name}")) { "Has moved; it is at (empty: where it says itself)" }
                    input id=(format!("address-{name}")) name="address" maxlength=(ADDRESS_CHARS_MAX)
                        value=(peer.address.as_deref().unwrap_or_default());
                }
                button type="submit" { "Change address" }
            }
            (share_form(signed, peer))
            (ui::ask_button(signed, "peer_remove", &[("peer", name)], html! { "Forget this box…" (ui::hidden(name)) }))
            @if !others.is_empty() && !peer.groups.is_empty() {
                form method="post" action="/confirm" {
                    (ui::token(signed))
                    input type="hidden" name="kind" value="peer_replace";
                    input type="hidden" name="peer" value=(name);
                    div class="field" {
                        label for=(format!("with-{name}")) { "Is gone; put in its place" }
                        select id=(format!("with-{name}")) name="with" { @for p in others { option value=(p.name) { (p.name) } } }
                    }
                    button type="submit" class="danger" { "Replace…" }
                }
            }
        }
    }
}

fn share_form(signed: &Signed, peer: &PeerStatus) -> Markup {
    let (name, share) = (peer.name.as_str(), &peer.share);
    let id = |field: &str| format!("{field}-{name}");
    html! {
        details {
            summary { "What it may mirror here" (ui::hidden(name)) }
            form method="post" action=(format!("/peers/{name}/share")) {
                (ui::token(signed))
                div class="field" {
                    label for=(id("mirrors")) { "It may make mirrors here" }
                    select id=(id("mirrors")) name="mirrors" {
                        option value="yes" selected[share.mirrors] { "yes" }
                        option value="no" selected[!share.mirrors] { "no; what it has stays" }
                    }
                }
                div class="field" {
                    label for=(id("groups_max")) { "Groups at most (empty: no limit)" }
                    input id=(id("groups_max")) name="groups_max" inputmode="numeric" maxlength="3"
                        value=(share.groups_max.map(|n| n.to_string()).unwrap_or_default());
                }
                div class="field" {
                    label for=(id("bytes_max")) { "Space at most, such as 2T (empty: no limit)" }
                    input id=(id("bytes_max")) name="bytes_max" maxlength="24"
                        value=(share.bytes_max.map(|b| b.bytes().to_string()).unwrap_or_default());
                }
                button type="submit" { "Change" }
            }
        }
    }
}

fn share_of(form: &Form) -> Result<PeerShare, Problem> {
    let mirrors = match form.text("mirrors") {
        "yes" => true,
        "no" => false,
        _ => return Err(Problem::input("say whether it may make mirrors here")),
    };
    let number = |_| Problem::field("groups_max", "The number of groups is a whole number, or empty for no limit.");
    let groups_max = Some(form.text("groups_max")).filter(|t| !t.is_empty());
    let groups_max = groups_max.map(|t| t.parse::<u32>().map_err(number)).transpose()?;
    let bytes_max = Some(form.text("bytes_max")).filter(|t| !t.is_empty());
    let size = bytes_max.map(|t| t.parse::<ByteSize>().map_err(|e| Problem::field("bytes_max", e.to_string())));
    Ok(PeerShare { mirrors, groups_max, bytes_max: size.transpose()? })
}

/// `POST /peers/{name}/share`.
pub(crate) async fn set_share(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let set = match (name_of(&path), share_of(&form)) {
        (Ok(peer), Ok(share)) => app.client.peer_share(&PeerShareSet { peer, share }).await.map_err(Problem::from),
        (Err(problem), _) | (_, Err(problem)) => Err(problem),
    };
    match set {
        Ok(peer) => Ok(signed.done("/pair", &format!("{} may have here: {}.", peer.name, peer.share))),
        Err(problem) => pair_page(&app, &signed, &Form::default(), Some(&problem)).await,
    }
}

/// `POST /pair/listen`.
pub(crate) async fn listen(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    match app.client.pair_listen(&PairListen::default()).await.map_err(Problem::from) {
        Ok(offer) => {
            let until = Instant::now() + Duration::from_secs(offer.expires_in_secs.into());
            lock(&app.pairing).offer = Some((offer, until));
            Ok(Redirect::to("/pair").into_response())
        }
        Err(problem) => pair_page(&app, &posted.signed, &Form::default(), Some(&problem)).await,
    }
}

/// An address as people type it: a port may be left out.
fn address(text: &str) -> Result<String, Problem> {
    let wrong =
        || Problem::field("address", "The address is a name or an address, and a port, such as 192.0.2.7:3261.");
    if text.is_empty() || text.len() > ADDRESS_CHARS_MAX || text.contains(|c: char| c.is_control() || c == ' ') {
        return Err(wrong());
    }
    if let Ok(v6) = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::Ipv6Addr>() {
        return Ok(format!("[{v6}]:{LINK_PORT}"));
    }
    Ok(if text.contains(':') { text.to_owned() } else { format!("{text}:{LINK_PORT}") })
}

/// `POST /pair/dial`.
pub(crate) async fn dial(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let address = match address(form.text("address")) {
        Ok(address) => address,
        Err(problem) => return pair_page(&app, &signed, &form, Some(&problem)).await,
    };
    let code = form.text("code").to_owned();
    if code.is_empty() || code.len() > 64 {
        let problem = Problem::field("code", "The code is what the other box shows.");
        return pair_page(&app, &signed, &form, Some(&problem)).await;
    }
    let dialling = app.clone();
    let mut dial = tokio::spawn(async move { dialling.client.pair_dial(&PairDial { address, code }).await });
    match tokio::time::timeout(DIAL_WAIT, &mut dial).await {
        Ok(Ok(Ok(_))) => Ok(Redirect::to("/pair").into_response()),
        Ok(Ok(Err(error))) => pair_page(&app, &signed, &form, Some(&error.into())).await,
        Ok(Err(_)) => Err(Problem::input("the call to the other box ended")),
        Err(_) => {
            // The page shows the exchange; should the box refuse later, the next page says why.
            tokio::spawn(async move {
                if let Ok(Err(error)) = dial.await {
                    lock(&app.pairing).refused = Some(error.into());
                }
            });
            Ok(Redirect::to("/pair").into_response())
        }
    }
}

/// `POST /peers/{name}/address`.
pub(crate) async fn set_address(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let told = form.text("address");
    let address = if told.is_empty() { Ok(String::new()) } else { address(told) };
    let set = match address {
        Ok(address) => {
            let request = PeerSet { peer: name_of(&path)?, address };
            app.client.peer_set(&request).await.map_err(Problem::from)
        }
        Err(problem) => Err(problem),
    };
    match set {
        Ok(peer) => {
            let at = peer.address.as_deref().unwrap_or("no address");
            Ok(signed.done("/pair", &format!("{} is tried at {at} first.", peer.name)))
        }
        Err(problem) => pair_page(&app, &signed, &Form::default(), Some(&problem)).await,
    }
}

/// `POST /pair/cancel`.
pub(crate) async fn cancel(State(app): State<Arc<App>>, _posted: Posted) -> Result<Response, Problem> {
    app.client.pair_cancel(&Nothing {}).await?;
    lock(&app.pairing).offer = None;
    Ok(Redirect::to("/pair").into_response())
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_needs_no_port() {
        for (typed, taken) in [
            ("192.0.2.7", "192.0.2.7:3261"),
            ("192.0.2.7:99", "192.0.2.7:99"),
            ("turin.example", "turin.example:3261"),
            ("2001:db8::7", "[2001:db8::7]:3261"),
            ("[2001:db8::7]", "[2001:db8::7]:3261"),
            ("[2001:db8::7]:99", "[2001:db8::7]:99"),
        ] {
            assert_eq!(address(typed).unwrap(), taken);
        }
        for bad in ["", "a b", "a\nb", &"x".repeat(300)] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
