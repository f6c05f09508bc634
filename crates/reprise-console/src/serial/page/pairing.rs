//! Pairing, and the boxes that are paired.

use reprise_api::{
    Action, Nothing, PairDial, PairListen, PairOffer, PairState, PairStatus, PeerSet, PeerShare, PeerShareSet,
    PeerStatus, Status, SystemStatus,
};

use super::{Talk, destroy, home, nothing, status, system};
use crate::serial::call;
use crate::serial::field::{
    PAIR_CODE, PEER_ADDRESS, PICK_PEER, SHARE_GROUPS, SHARE_MIRRORS, SHARE_SPACE, limit, number, one_of, pair_code,
    parsed, peer_address,
};
use crate::serial::text::{fingerprint, labelled, secs, utc, wrap};
use crate::serial::ui::{Event, Form, Ui, Waiting};

/// Between two looks at a pairing.
const LOOK_MS: u64 = 1_500;
const LISTEN_TITLE: &str = "Pair: show a code";

/// Shows a code, and what becomes of it.
pub(super) async fn listen(ui: &Ui) -> Talk {
    let offer = ui.get(call::pair_listen(PairListen::default())).await?;
    // It only adds to the page.
    let machine = system(ui).await.ok();
    let head = offer_lines(&offer, machine.as_ref());
    let mut state = PairState::Listening { expires_in_secs: offer.expires_in_secs };
    let mut waiting: Option<Waiting<PairStatus>> = None;
    let mut next_look_ms = ui.now_ms() + LOOK_MS;
    let mut shown = String::new();
    loop {
        let (line, over) = progress(&state);
        if over {
            break;
        }
        let body: Vec<String> = head.iter().cloned().chain(wrap(&line, 2)).collect();
        let prompt = "q: leave, the code stays good ";
        // Time that runs is no news for a plain terminal.
        let kind = line.split(',').next().unwrap_or_default().to_owned();
        if shown == kind {
            ui.redraw(LISTEN_TITLE, &body, &[], &[], prompt);
        } else {
            ui.draw(LISTEN_TITLE, &body, &[], &[], prompt);
            shown = kind;
        }
        if ui.now_ms() >= next_look_ms && waiting.is_none() {
            next_look_ms = ui.now_ms() + LOOK_MS;
            waiting = Some(ui.start(call::pair_status(Nothing {})));
        }
        match ui.event().await {
            Event::Answer(id, result) => {
                if let Some(waiting) = waiting.take_if(|w| w.is(id)) {
                    state = waiting.answer(result)?.state;
                }
            }
            Event::Line(line) if matches!(line.trim(), "q" | "Q" | "0" | ".") => return Ok(()),
            Event::Line(_) => shown.clear(),
            Event::Back => return Ok(()),
            Event::Tick | Event::Written => {}
        }
    }
    outcome(ui, LISTEN_TITLE, &state).await
}

fn offer_lines(offer: &PairOffer, machine: Option<&SystemStatus>) -> Vec<String> {
    let mut lines = labelled("Code", &offer.code);
    lines.push(String::new());
    lines.extend(wrap("On the other box: choose 2, type one of these addresses, then the code.", 2));
    lines.extend(offer.addresses.iter().flat_map(|a| labelled("Address", a)));
    if offer.addresses.is_empty() {
        let address = machine.and_then(home::browser_address);
        lines.extend(labelled("Address", address.as_deref().unwrap_or("none yet: is a cable plugged in?")));
    }
    lines.push(String::new());
    lines.extend(wrap("Three wrong codes, or one right one, use the code up.", 2));
    if let Some(print) = machine.and_then(|m| m.certificate_fingerprint.as_ref()) {
        lines.extend(wrap("In a browser, the certificate of this box has to have this SHA-256 fingerprint:", 2));
        lines.extend(fingerprint(print).map(|l| format!("  {l}")));
    }
    lines.push(String::new());
    lines
}

/// What to say of a pairing, and whether it is over.
fn progress(state: &PairState) -> (String, bool) {
    match state {
        PairState::Listening { expires_in_secs } => {
            (format!("Waiting for the other box, {} left.", secs((*expires_in_secs).into())), false)
        }
        PairState::Exchanging { address } => (format!("Talking to {address}."), false),
        PairState::Paired { peer, address, .. } => (format!("Paired with {peer} at {address}."), true),
        PairState::Failed { error } => (format!("Not paired: {}. {}", error.message, error.what_to_do), true),
        PairState::Expired => ("Not paired: the code expired. Show another one.".to_owned(), true),
        PairState::Cancelled => ("Not paired: somebody made the code void.".to_owned(), true),
        PairState::Idle => ("Not paired: no pairing is under way.".to_owned(), true),
    }
}

async fn outcome(ui: &Ui, title: &str, state: &PairState) -> Talk {
    let (line, _) = progress(state);
    let PairState::Paired { peer_id, .. } = state else {
        ui.say_line(&line);
        return Ok(());
    };
    let mut lines = wrap(&line, 2);
    if let Ok(status) = status(ui).await {
        lines.push(String::new());
        lines.extend(status.peers.iter().filter(|p| p.id == *peer_id).flat_map(peer_lines));
    }
    lines.push(String::new());
    lines.extend(wrap("Next: choose 3, then 1, for a volume that is mirrored there.", 2));
    ui.show(title, &lines, false).await?;
    Ok(())
}

/// Pairs with a box that shows a code.
pub(super) async fn dial(ui: &Ui) -> Talk {
    let title = "Pair: enter a code";
    let mut form = Form::new(ui, title);
    form.say("On the other box: choose 1. It shows its addresses and a code.");
    let address = form.ask(&PEER_ADDRESS, None, peer_address).await?;
    let (code, confirmed) = form.ask_confirming(&PAIR_CODE, pair_code).await?;
    let status = ui.change(call::pair_dial(PairDial { address, code }), &confirmed).await?;
    outcome(ui, title, &status.state).await
}

/// Makes the shown code void.
pub(super) async fn cancel(ui: &Ui) -> Talk {
    let status = ui.get(call::pair_cancel(Nothing {})).await?;
    ui.say_line(&match status.state {
        PairState::Cancelled => "The code is void.".to_owned(),
        state => progress(&state).0,
    });
    Ok(())
}

/// The paired boxes, a line each.
pub(super) fn peer_table(s: &Status) -> Vec<String> {
    if s.peers.is_empty() {
        return wrap("No box is paired. Choose 1 on the status page of one box and 2 on that of the other.", 2);
    }
    let head = Form::row(&[("Box", 20), ("State", 14), ("Address", 28), ("Groups", 14)]);
    std::iter::once(head).chain(s.peers.iter().map(row)).collect()
}

fn row(p: &PeerStatus) -> String {
    let state = if p.connected { "connected" } else { "NOT CONNECTED" };
    let groups: Vec<&str> = p.groups.iter().map(reprise_api::Name::as_str).collect();
    let address = p.address.as_deref().unwrap_or("it calls us");
    Form::row(&[(p.name.as_str(), 20), (state, 14), (address, 28), (&groups.join(" "), 14)])
}

fn peer_lines(p: &PeerStatus) -> Vec<String> {
    let mut lines = labelled("Box", p.name.as_str());
    let [first, second] = fingerprint(&p.key_fingerprint);
    lines.extend(labelled("Key", &first));
    lines.extend(labelled("", &second));
    lines.extend(labelled("Address", p.address.as_deref().unwrap_or("not known: it calls us")));
    if let Some(told) = &p.learned_address {
        lines.extend(labelled("Says it is at", told));
    }
    lines.extend(labelled("State", if p.connected { "connected" } else { "NOT CONNECTED" }));
    lines.extend(labelled("Version", p.version.as_deref().unwrap_or("not known")));
    lines.extend(labelled("Paired", &format!("{} UTC", utc(p.paired_unix_ms))));
    if let Some(seen) = p.last_seen_unix_ms {
        lines.extend(labelled("Last seen", &format!("{} UTC", utc(seen))));
    }
    lines.extend(labelled("May have", &p.share.to_string()));
    if let Some(offset) = p.clock_offset_secs {
        let text = format!("{} {} ours", secs(offset.abs()), if offset < 0.0 { "behind" } else { "before" });
        lines.extend(labelled("Clock", &text));
    }
    lines
}

async fn pick(ui: &Ui, title: &str) -> Talk<PeerStatus> {
    let mut peers = status(ui).await?.peers;
    if peers.is_empty() {
        return Err(nothing("No box is paired.", "pair one: 1 and 2 on the status pages of the two boxes"));
    }
    let rows: Vec<String> = peers.iter().map(row).collect();
    let at = Form::new(ui, title).pick(&PICK_PEER, &rows).await?;
    Ok(peers.swap_remove(at))
}

/// Shows all of a paired box.
pub(super) async fn show(ui: &Ui) -> Talk {
    let peer = pick(ui, "Paired box").await?;
    ui.show("Paired box", &peer_lines(&peer), false).await?;
    Ok(())
}

/// Says where a paired box is, when it has moved.
pub(super) async fn set_address(ui: &Ui) -> Talk {
    let peer = pick(ui, "Say where a box is").await?;
    let mut form = Form::new(ui, "Say where a box is");
    form.say(&format!("{} is tried at {}.", peer.name, peer.address.as_deref().unwrap_or("no address")));
    let known = peer.learned_address.as_deref().or(peer.address.as_deref());
    let address = form.ask(&PEER_ADDRESS, known, peer_address).await?;
    let confirmed = form.confirm("yes").await?;
    let set = ui.change(call::peer_set(PeerSet { peer: peer.name, address }), &confirmed).await?;
    ui.say_line(&format!("{} is tried at {} first.", set.name, set.address.as_deref().unwrap_or("no address")));
    Ok(())
}

/// Says what a paired box may have mirrored to this one.
pub(super) async fn set_share(ui: &Ui) -> Talk {
    let title = "What a box may mirror here";
    let PeerStatus { name: peer, share: now, .. } = pick(ui, title).await?;
    let mut form = Form::new(ui, title);
    form.say(&format!("{peer} may have here: {now}."));
    let all = || "all".to_owned();
    let (groups, bytes) =
        (now.groups_max.map_or_else(all, |n| n.to_string()), now.bytes_max.map_or_else(all, |b| b.bytes().to_string()));
    let may = if now.mirrors { "yes" } else { "no" };
    let mirrors = form.ask(&SHARE_MIRRORS, Some(may), |t| one_of(t, &["yes", "no"])).await? == 0;
    let groups_max = form.ask(&SHARE_GROUPS, Some(&groups), |t| limit(t, |t| number(t, 0, 32))).await?;
    let bytes_max = form.ask(&SHARE_SPACE, Some(&bytes), |t| limit(t, parsed)).await?;
    let confirmed = form.confirm("yes").await?;
    let share = PeerShare { mirrors, groups_max, bytes_max };
    let set = ui.change(call::peer_share(PeerShareSet { peer, share }), &confirmed).await?;
    ui.say_line(&format!("{} may have here: {}.", set.name, set.share));
    Ok(())
}

/// Forgets a paired box.
pub(super) async fn forget(ui: &Ui) -> Talk {
    let peer = pick(ui, "Forget a box").await?.name;
    let word = format!("FORGET {peer}");
    destroy(ui, "Forget a box", Action::PeerRemove { peer }, &word).await
}
