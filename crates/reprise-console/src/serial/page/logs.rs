//! Logs, and the support bundle.

use reprise_api::{LogQuery, LogSource, Nothing};

use super::{Talk, home, nothing, system};
use crate::serial::call;
use crate::serial::text::{bytes, secs, wrap};
use crate::serial::ui::{Back, Form, Ui};

/// Lines of a log that are fetched: as many as somebody pages through.
const LINES: u32 = 500;
/// Columns of a line of base64, as in MIME.
const BASE64_COLUMNS: usize = 76;
/// Lines written at once; Esc is seen in between.
const LINES_AT_ONCE: usize = 32;
/// Largest bundle written to a serial line: 12 minutes at 115200 baud.
const BUNDLE_CHARS_MAX: usize = 8 << 20;
/// Bytes a second at 115200 baud.
const LINE_BYTES_PER_SEC: f64 = 11_520.0;

pub(super) fn about() -> Vec<String> {
    wrap("The last lines of each log. The support bundle holds them all, with status and settings, without secrets.", 2)
}

/// The last lines of a log, the latest on the page that is shown first.
pub(super) async fn show(ui: &Ui, source: LogSource) -> Talk {
    let title = match source {
        LogSource::Daemon => "Log of the daemon",
        LogSource::System => "Log of the system",
        LogSource::Kernel => "Log of the kernel",
    };
    let log = ui.get(call::system_logs(LogQuery { source, lines: Some(LINES) })).await?;
    let lines: Vec<String> = log.lines.iter().flat_map(|l| wrap(l, 4)).collect();
    ui.show(title, &lines, true).await?;
    Ok(())
}

/// Ways to the support bundle.
pub(super) async fn support_how(ui: &Ui) -> Talk {
    let address = system(ui).await.ok().as_ref().and_then(home::browser_address);
    let mut lines = wrap("Best in a browser: log in, open Support, press Download.", 2);
    if let Some(address) = address {
        lines.push(format!("  https://{address}/support"));
    }
    lines.push(String::new());
    lines.extend(wrap("Or over this line, without a network: choose \"write it here\". Have your terminal program log what it receives, then make the file of it with", 2));
    lines.push("  sed -n '/^-----BEGIN/,/^-----END/p' LOG | grep -v -- ----- |".to_owned());
    lines.push("    tr -d '\\r' | base64 -d > bundle.tar.gz".to_owned());
    lines.push(String::new());
    lines.extend(wrap("The bundle holds no passwords, keys, secrets or content of volumes.", 2));
    ui.show("Support bundle", &lines, false).await?;
    Ok(())
}

/// Writes the support bundle over the line, as base64.
pub(super) async fn support_write(ui: &Ui) -> Talk {
    let bundle = ui.get(call::system_support(Nothing {})).await?;
    let text: String =
        bundle.content_base64.chars().filter(|c| c.is_ascii_alphanumeric() || "+/=".contains(*c)).collect();
    if text.len() > BUNDLE_CHARS_MAX {
        return Err(nothing(
            &format!("The bundle has {}, too much for this line.", bytes(text.len() as u64)),
            "use a browser",
        ));
    }
    let mut form = Form::new(ui, "Support bundle");
    form.say(&format!("{}, {} in base64.", bundle.file_name, bytes(text.len() as u64)));
    form.say(&format!("It takes {} at 115200 baud. Esc ends it.", secs(text.len() as f64 / LINE_BYTES_PER_SEC)));
    form.say("Begin to log in your terminal program before you go on.");
    form.confirm("yes").await?;
    let mut lines = vec![String::new(), "-----BEGIN SUPPORT BUNDLE-----".to_owned()];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(BASE64_COLUMNS).unwrap_or((rest, ""));
        lines.push(line.to_owned());
        rest = after;
    }
    lines.push("-----END SUPPORT BUNDLE-----".to_owned());
    for some in lines.chunks(LINES_AT_ONCE) {
        if let Err(Back) = ui.write(some.to_vec()).await {
            ui.write(vec!["-----NOT COMPLETE-----".to_owned()]).await?;
            ui.say_line("You ended it: the bundle is not complete.");
            return Ok(());
        }
    }
    ui.say_line("The bundle is written.");
    Ok(())
}
