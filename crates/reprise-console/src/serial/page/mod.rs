//! The pages and dialogs. Each says what it does; what changes something needs a word that was typed for it.

mod admin;
mod alerts;
mod disks;
mod home;
mod initiators;
mod logs;
mod messages;
mod network;
mod pairing;
mod volumes;

use reprise_api::{Action, Confirm, Nothing, Preview, PreviewRequest, ResetLevel, Status, SystemStatus};

use super::call::{self, Refusal};
use super::menu::{About, Act, Go, Menu};
use super::text::{labelled, plain};
use super::ui::{Back, Chosen, Form, Ui};

/// Why a dialog ended before its end.
#[derive(Debug)]
enum Stop {
    /// The person went back.
    Back,
    /// The box said no.
    Refused(Refusal),
}

impl From<Back> for Stop {
    fn from(_: Back) -> Self {
        Self::Back
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A dialog's outcome.
type Talk<T = ()> = Result<T, Stop>;

/// There is nothing this could be done to.
fn nothing(message: &str, what_to_do: &str) -> Stop {
    Stop::Refused(Refusal { code: None, message: message.to_owned(), what_to_do: what_to_do.to_owned() })
}

/// The whole console: the status page, and whatever is chosen there. Ends when the person leaves.
pub(super) async fn console(ui: Ui) {
    loop {
        ui.set_at_home(true);
        let item = home::home(&ui).await;
        ui.set_at_home(false);
        match item.go {
            Go::Do(Act::Quit) if ui.mode().may_quit => return,
            Go::Do(Act::Quit) => ui.say_line("This console stays. Nothing has to be closed: unplug the cable."),
            Go::Do(act) => perform(&ui, act).await,
            Go::Menu(menu) => below(&ui, menu).await,
        }
    }
}

/// A menu below the status page, until the person goes back.
async fn below(ui: &Ui, menu: &'static Menu) {
    loop {
        let body = match Box::pin(overview(ui, menu.about)).await {
            Ok(lines) => lines,
            Err(refusal) => refusal.lines(),
        };
        match ui.choose(menu, &body).await {
            Err(Back) => return,
            Ok(Chosen::Again) => {}
            Ok(Chosen::Item(item)) => match item.go {
                Go::Do(act) => perform(ui, act).await,
                Go::Menu(menu) => Box::pin(below(ui, menu)).await,
            },
        }
    }
}

/// What stands above the choices of a menu.
async fn overview(ui: &Ui, about: About) -> Result<Vec<String>, Refusal> {
    match about {
        About::Status => Ok(Vec::new()),
        About::Volumes => Ok(volumes::table(&status(ui).await?)),
        About::Mirrors => Ok(volumes::mirror_table(&status(ui).await?)),
        About::Peers => Ok(pairing::peer_table(&status(ui).await?)),
        About::Disks => Ok(disks::table(&system(ui).await?)),
        About::Initiators => Ok(initiators::table(&ui.get(call::initiator_list(Nothing {})).await?)),
        About::Network => Ok(network::table(&system(ui).await?.network)),
        About::Clock => Ok(admin::clock_lines(&system(ui).await?.clock)),
        About::Alerts => Ok(alerts::table(&status(ui).await?)),
        About::Messages => Ok(messages::table(&ui.get(call::notify_show(Nothing {})).await?)),
        About::Logs => Ok(logs::about()),
        About::Admin => admin::about(ui).await,
        About::Power => Ok(admin::power_lines(&system(ui).await?)),
        About::Reset => Ok(admin::reset_lines()),
    }
}

async fn perform(ui: &Ui, act: Act) {
    // A fresh page, so that a long wait does not stand below the page of before.
    if let Err(Stop::Refused(refusal)) = Box::pin(dialog(ui, act)).await {
        ui.say(refusal.lines());
    }
}

async fn dialog(ui: &Ui, act: Act) -> Talk {
    match act {
        Act::PairListen => pairing::listen(ui).await,
        Act::PairDial => pairing::dial(ui).await,
        Act::PairCancel => pairing::cancel(ui).await,
        Act::PeerShow => pairing::show(ui).await,
        Act::PeerShare => pairing::set_share(ui).await,
        Act::PeerForget => pairing::forget(ui).await,
        Act::PeerAddress => pairing::set_address(ui).await,
        Act::VolumeMirrored => volumes::create_mirrored(ui).await,
        Act::VolumeCreate => volumes::create(ui).await,
        Act::VolumeResize => volumes::resize(ui).await,
        Act::VolumeAccess => volumes::access(ui).await,
        Act::VolumeAdopt => volumes::adopt(ui).await,
        Act::VolumeRemove => volumes::leave(ui, false).await,
        Act::VolumeErase => volumes::leave(ui, true).await,
        Act::MirrorAdd => volumes::mirror_add(ui).await,
        Act::MirrorPause => volumes::mirror_pause(ui, true).await,
        Act::MirrorResume => volumes::mirror_pause(ui, false).await,
        Act::MirrorEnd => volumes::mirror_end(ui).await,
        Act::ImageGiveUp => volumes::image_give_up(ui).await,
        Act::DiskTake => disks::take(ui).await,
        Act::InitiatorAdd => initiators::add(ui).await,
        Act::InitiatorRemove => initiators::remove(ui).await,
        Act::Interface => network::interface(ui).await,
        Act::Vlan => network::vlan(ui).await,
        Act::Bond => network::bond(ui).await,
        Act::InterfaceForget => network::forget(ui).await,
        Act::NameServers => network::name_servers(ui).await,
        Act::NetworkKeep => network::keep(ui).await,
        Act::TimeServers => admin::time_servers(ui).await,
        Act::TimeByHand => admin::time_by_hand(ui).await,
        Act::Alerts => alerts::show(ui).await,
        Act::AlertAck => alerts::ack(ui).await,
        Act::Events => alerts::events(ui).await,
        Act::Jobs => alerts::jobs(ui).await,
        Act::WebhookAdd => messages::webhook_add(ui).await,
        Act::WebhookRemove => messages::webhook_remove(ui).await,
        Act::MailSet => messages::mail_set(ui).await,
        Act::MailOff => messages::mail_off(ui).await,
        Act::MessageTest => messages::test(ui).await,
        Act::LogDaemon => logs::show(ui, reprise_api::LogSource::Daemon).await,
        Act::LogSystem => logs::show(ui, reprise_api::LogSource::System).await,
        Act::LogKernel => logs::show(ui, reprise_api::LogSource::Kernel).await,
        Act::SupportHow => logs::support_how(ui).await,
        Act::SupportWrite => logs::support_write(ui).await,
        Act::Password => admin::password(ui).await,
        Act::SessionsEnd => admin::sessions_end(ui).await,
        Act::Name => admin::name(ui).await,
        Act::Reboot => admin::power(ui, reprise_api::PowerAction::Reboot).await,
        Act::PowerOff => admin::power(ui, reprise_api::PowerAction::PowerOff).await,
        Act::ResetSettings => admin::reset(ui, ResetLevel::Settings).await,
        Act::ResetForget => admin::reset(ui, ResetLevel::Forget).await,
        Act::ResetWipe => admin::reset(ui, ResetLevel::Wipe).await,
        Act::Plain => {
            ui.toggle_plain();
            let now = if ui.mode().plain { "Plain: nothing moves, Enter shows it again." } else { "Full screen." };
            ui.say_line(now);
            Ok(())
        }
        Act::Help => home::help(ui).await,
        Act::Quit => Ok(()),
    }
}

async fn status(ui: &Ui) -> Result<Status, Refusal> {
    ui.get(call::status(Nothing {})).await
}

async fn system(ui: &Ui) -> Result<SystemStatus, Refusal> {
    ui.get(call::system_show(Nothing {})).await
}

/// The name of the box, as it has to be typed.
async fn box_name(ui: &Ui) -> String {
    if let Ok(system) = system(ui).await {
        return system.name.to_string();
    }
    match ui.box_name() {
        name if name.is_empty() => "reprise".to_owned(),
        name => name,
    }
}

/// Says what an action takes away, has `word` typed, and has it done.
async fn destroy(ui: &Ui, title: &str, action: Action, word: &str) -> Talk {
    let Preview { summary, losses, token, .. } = ui.get(call::action_preview(PreviewRequest { action })).await?;
    let mut form = Form::new(ui, title);
    form.say(&summary);
    if losses.is_empty() {
        form.say("Nothing is lost by it.");
    }
    for loss in losses {
        form.list(labelled("LOST", &loss));
    }
    let confirmed = form.confirm(word).await?;
    let done = ui.change(call::action_confirm(Confirm { token }), &confirmed).await?;
    match done.job {
        Some(job) => ui.say_line(&format!("Begun as job {} ({}).", job.id, plain(&job.subject))),
        None => ui.say_line("Done."),
    }
    Ok(())
}
