//! Clock, name, password, power and reset.

use reprise_api::{
    Action, ClockState, ClockStatus, NameSet, Nothing, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PasswordReset, Power,
    PowerAction, ResetLevel, SystemStatus, TimeSet,
};

use super::{Refusal, Talk, box_name, destroy, system};
use crate::serial::call;
use crate::serial::field::{
    BOX_NAME, PASSWORD, PASSWORD_AGAIN, TIME_NOW, TIME_SERVERS, at_most, host, name as name_check, words,
};
use crate::serial::text::{bytes, labelled, parse_utc, secs, utc, wrap};
use crate::serial::ui::{Form, Ui};

/// Most time servers.
const SERVERS_MAX: usize = 8;

/// The clock in full.
pub(super) fn clock_lines(c: &ClockStatus) -> Vec<String> {
    let mut lines = labelled("Now", &format!("{} UTC", utc(c.unix_ms)));
    let state = match &c.state {
        ClockState::Synchronized { server, offset_us } => {
            format!("synchronized by {server}, last difference {:.3} ms", *offset_us as f64 / 1000.0)
        }
        ClockState::Unsynchronized { reason } => format!("NOT SYNCHRONIZED: {reason}"),
        ClockState::Manual => "set by hand, no server is asked".to_owned(),
    };
    lines.extend(labelled("State", &state));
    let servers = if c.servers.is_empty() { "none".to_owned() } else { c.servers.join(" ") };
    lines.extend(labelled("Servers", &servers));
    lines.extend(wrap("The order of writes never depends on the clock; times in events and logs do.", 2));
    lines
}

/// Servers that are asked for the time.
pub(super) async fn time_servers(ui: &Ui) -> Talk {
    let now = system(ui).await?.clock.servers;
    let mut form = Form::new(ui, "Ask time servers");
    let now = now.join(" ");
    let default = (!now.is_empty()).then_some(now.as_str());
    let check =
        |t: &str| at_most(words(t).into_iter().map(host).collect::<Result<_, String>>()?, SERVERS_MAX, "servers");
    let servers: Vec<String> = form.ask(&TIME_SERVERS, default, check).await?;
    let confirmed = form.confirm("yes").await?;
    ui.change(call::system_time_set(TimeSet { servers, unix_ms: None }), &confirmed).await?;
    ui.say_line("Done. The servers are asked; Enter shows what came of it.");
    Ok(())
}

/// Sets the clock by hand.
pub(super) async fn time_by_hand(ui: &Ui) -> Talk {
    let mut form = Form::new(ui, "Set by hand");
    form.say("No server is asked any more.");
    let check =
        |t: &str| parse_utc(t).ok_or_else(|| format!("{t:?} is no time.", t = t.chars().take(30).collect::<String>()));
    let unix_ms = form.ask(&TIME_NOW, None, check).await?;
    let confirmed = form.confirm("yes").await?;
    ui.change(call::system_time_set(TimeSet { servers: Vec::new(), unix_ms: Some(unix_ms) }), &confirmed).await?;
    ui.say_line(&format!("The clock is set to {} UTC.", utc(unix_ms)));
    Ok(())
}

/// Name and password as they are.
pub(super) async fn about(ui: &Ui) -> Result<Vec<String>, Refusal> {
    let code = ui.get(call::admin_code(Nothing {})).await?.code;
    let mut lines = labelled("Name", &box_name(ui).await);
    lines.extend(labelled("Password", &password_state(code.as_deref())));
    lines.extend(wrap("The password is for the web page. This console asks for none: who is here has the box.", 2));
    Ok(lines)
}

/// Whether there is a password, and what sets the first one in a browser.
pub(super) fn password_state(code: Option<&str>) -> String {
    code.map_or_else(|| "set".to_owned(), |code| format!("NOT SET: in a browser it is set with the code {code}"))
}

fn password_check(text: &str) -> Result<String, String> {
    if text.chars().count() < PASSWORD_CHARS_MIN {
        return Err(format!("That is too short: at least {PASSWORD_CHARS_MIN} characters."));
    }
    if text.len() > PASSWORD_BYTES_MAX {
        return Err(format!("That is too long: at most {PASSWORD_BYTES_MAX} characters."));
    }
    Ok(text.to_owned())
}

/// Sets the administrator's password.
pub(super) async fn password(ui: &Ui) -> Talk {
    let mut form = Form::new(ui, "Password of the administrator");
    let new = form.ask(&PASSWORD, None, password_check).await?;
    form.ask(&PASSWORD_AGAIN, None, |t| {
        if t == new { Ok(()) } else { Err("This is another one. Type it again, or . to go back.".to_owned()) }
    })
    .await?;
    form.say("Sessions of the web page end.");
    let confirmed = form.confirm("yes").await?;
    ui.change(call::admin_password_reset(PasswordReset { new }), &confirmed).await?;
    ui.say_line("The password is set.");
    Ok(())
}

/// Ends the sessions of the web console.
pub(super) async fn sessions_end(ui: &Ui) -> Talk {
    let mut form = Form::new(ui, "End all sessions of the web page");
    form.say("Every browser has to log in again. The password stays as it is.");
    let confirmed = form.confirm("yes").await?;
    ui.change(call::admin_sessions_end(Nothing {}), &confirmed).await?;
    ui.say_line("All sessions are ended.");
    Ok(())
}

/// Names the box.
pub(super) async fn name(ui: &Ui) -> Talk {
    let now = box_name(ui).await;
    let mut form = Form::new(ui, "Name of the box");
    let name = form.ask(&BOX_NAME, Some(&now), name_check).await?;
    form.say("The daemon starts again for it: hosts wait for some seconds.");
    let confirmed = form.confirm("yes").await?;
    ui.change(call::system_name_set(NameSet { name: name.clone() }), &confirmed).await?;
    ui.say_line(&format!("The box is called {name}."));
    Ok(())
}

/// What runs, before it is ended.
pub(super) fn power_lines(s: &SystemStatus) -> Vec<String> {
    let mut lines = labelled("Up", &secs(s.uptime_secs as f64));
    let used = s.memory_bytes_total.saturating_sub(s.memory_bytes_available);
    lines.extend(labelled("Memory", &format!("{} of {} in use", bytes(used), bytes(s.memory_bytes_total))));
    for p in &s.processes {
        let ended = p.last_exit.as_ref().map(|e| format!(", ended last: {e}")).unwrap_or_default();
        let state = if p.running { "runs" } else { "DOES NOT RUN" };
        lines.extend(labelled(&p.name, &format!("{state}, started again {} times{ended}", p.restarts)));
    }
    lines.extend(wrap("Writes that were acknowledged are safe in any case. Hosts wait while the box is away.", 2));
    lines
}

/// Restarts or powers off.
pub(super) async fn power(ui: &Ui, action: PowerAction) -> Talk {
    let (title, word) = match action {
        PowerAction::Reboot => ("Restart", "RESTART"),
        PowerAction::PowerOff => ("Power off", "POWEROFF"),
    };
    let mut form = Form::new(ui, title);
    form.say("Hosts of this box wait until it is back. A mirror goes on by itself then.");
    if action == PowerAction::PowerOff {
        form.say("Somebody has to press the button of the machine to start it again.");
    }
    let confirmed = form.confirm(&format!("{word} {}", box_name(ui).await)).await?;
    ui.change(call::system_power(Power { action }), &confirmed).await?;
    ui.say_line("It begins now.");
    Ok(())
}

/// What the levels of a reset are.
pub(super) fn reset_lines() -> Vec<String> {
    let mut lines = wrap(
        "Each level includes the ones before. The box starts again to do it; a power cut in between only delays it.",
        2,
    );
    lines.extend(wrap("You see what is lost before you confirm.", 2));
    lines
}

/// Resets the box.
pub(super) async fn reset(ui: &Ui, level: ResetLevel) -> Talk {
    let word = match level {
        ResetLevel::Settings => "RESET",
        ResetLevel::Forget => "FORGET",
        ResetLevel::Wipe => "WIPE",
    };
    let word = format!("{word} {}", box_name(ui).await);
    destroy(ui, "Reset", Action::SystemReset { level }, &word).await
}
