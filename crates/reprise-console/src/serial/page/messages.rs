//! Who is told when something happens.

use reprise_api::{MailSecurity, MailSettings, Nothing, NotifySettings, RECEIVERS_MAX, Webhook};

use super::{Talk, nothing};
use crate::serial::call;
use crate::serial::field::{
    MAIL_FROM, MAIL_PASSWORD, MAIL_PORT, MAIL_SECURITY, MAIL_SERVER, MAIL_TO, MAIL_USER, PICK_WEBHOOK, WEBHOOK,
    at_most, host, mail_address, number, one_of, url, words,
};
use crate::serial::text::{labelled, wrap};
use crate::serial::ui::{Form, Ui};

const SECURITIES: [(&str, MailSecurity); 3] =
    [("tls", MailSecurity::Tls), ("starttls", MailSecurity::Starttls), ("none", MailSecurity::None)];

/// Who is told.
pub(super) fn table(s: &NotifySettings) -> Vec<String> {
    let mut lines = wrap("One message when an alert begins, grows worse or ends.", 2);
    lines.extend(s.webhooks.iter().flat_map(|w| labelled("Webhook", &w.url)));
    match &s.mail {
        Some(mail) => {
            let by = security_text(mail.security);
            lines.extend(labelled("Mail", &format!("to {}", mail.to.join(" "))));
            lines.extend(labelled("", &format!("from {} by {} ({by})", mail.from, mail.server)));
        }
        None => lines.extend(labelled("Mail", "none")),
    }
    lines
}

fn security_text(security: MailSecurity) -> &'static str {
    SECURITIES.iter().find(|(_, s)| *s == security).map_or("tls", |(text, _)| text)
}

async fn settings(ui: &Ui) -> Talk<NotifySettings> {
    Ok(ui.get(call::notify_show(Nothing {})).await?)
}

async fn set(ui: &Ui, form: &mut Form<'_>, settings: NotifySettings, done: &str) -> Talk {
    let confirmed = form.confirm("yes").await?;
    ui.change(call::notify_set(settings), &confirmed).await?;
    ui.say_line(done);
    Ok(())
}

/// Another webhook.
pub(super) async fn webhook_add(ui: &Ui) -> Talk {
    let mut settings = settings(ui).await?;
    if settings.webhooks.len() >= RECEIVERS_MAX {
        return Err(nothing("There are 8 webhooks, which is the most.", "remove one first: 2"));
    }
    let mut form = Form::new(ui, "New webhook");
    let url = form.ask(&WEBHOOK, None, url).await?;
    settings.webhooks.push(Webhook { url });
    set(ui, &mut form, settings, "Done. Try it: 5.").await
}

/// One webhook less.
pub(super) async fn webhook_remove(ui: &Ui) -> Talk {
    let mut settings = settings(ui).await?;
    if settings.webhooks.is_empty() {
        return Err(nothing("There is no webhook.", ""));
    }
    let mut form = Form::new(ui, "Remove a webhook");
    let rows: Vec<String> = settings.webhooks.iter().map(|w| w.url.clone()).collect();
    settings.webhooks.remove(form.pick(&PICK_WEBHOOK, &rows).await?);
    set(ui, &mut form, settings, "Removed.").await
}

/// How mail is sent.
pub(super) async fn mail_set(ui: &Ui) -> Talk {
    let mut settings = settings(ui).await?;
    let now = settings.mail.clone();
    let mut form = Form::new(ui, "Set mail");
    let server = form.ask(&MAIL_SERVER, now.as_ref().map(|m| m.server.as_str()), host).await?;
    let by = security_text(now.as_ref().map(|m| m.security).unwrap_or_default());
    let texts = SECURITIES.map(|(text, _)| text);
    let at = form.ask(&MAIL_SECURITY, Some(by), |t| one_of(t, &texts)).await?;
    let security = SECURITIES.get(at).map(|(_, s)| *s).unwrap_or_default();
    let port = now.as_ref().and_then(|m| m.port).map_or("auto".to_owned(), |p| p.to_string());
    let port = form
        .ask(&MAIL_PORT, Some(&port), |t| {
            if t == "auto" { Ok(None) } else { Ok(u16::try_from(number(t, 1, 65_535)?).ok()) }
        })
        .await?;
    let user_now = now.as_ref().and_then(|m| m.user.clone()).unwrap_or_else(|| "none".to_owned());
    let login = |t: &str| match t {
        "" => Err("An answer is needed.".to_owned()),
        "none" => Ok(None),
        _ if t.len() > 255 => Err("That is longer than 255 characters.".to_owned()),
        _ => Ok(Some(t.to_owned())),
    };
    let user = form.ask(&MAIL_USER, Some(&user_now), login).await?;
    let password = match &user {
        None => None,
        Some(user) => {
            let kept = now.as_ref().is_some_and(|m| m.user.as_ref() == Some(user));
            let check = |t: &str| match t.len() {
                0 if !kept => Err("An answer is needed.".to_owned()),
                0..=255 => Ok(t.to_owned()),
                _ => Err("That is longer than 255 characters.".to_owned()),
            };
            Some(form.ask(&MAIL_PASSWORD, kept.then_some(""), check).await?)
        }
    };
    let from = form.ask(&MAIL_FROM, now.as_ref().map(|m| m.from.as_str()), mail_address).await?;
    let to_now = now.as_ref().map(|m| m.to.join(" "));
    let to = form
        .ask(&MAIL_TO, to_now.as_deref(), |t| {
            let to = words(t).into_iter().map(mail_address).collect::<Result<Vec<String>, String>>()?;
            at_most(to, RECEIVERS_MAX, "receivers")
        })
        .await?;
    settings.mail = Some(MailSettings { server, port, security, user, password, from, to });
    set(ui, &mut form, settings, "Done. Try it: 5.").await
}

/// No mail any more.
pub(super) async fn mail_off(ui: &Ui) -> Talk {
    let mut settings = settings(ui).await?;
    if settings.mail.take().is_none() {
        return Err(nothing("No mail is sent.", ""));
    }
    let mut form = Form::new(ui, "No mail");
    form.say("The mail server's settings are forgotten, with the password.");
    set(ui, &mut form, settings, "No mail is sent any more.").await
}

/// Sends everybody a message that says it is a test.
pub(super) async fn test(ui: &Ui) -> Talk {
    let settings = settings(ui).await?;
    if settings.webhooks.is_empty() && settings.mail.is_none() {
        return Err(nothing("Nobody is told.", "add a webhook or set mail first"));
    }
    let mut form = Form::new(ui, "Send a test message");
    form.list(table(&settings));
    let confirmed = form.confirm("yes").await?;
    let test = ui.change(call::notify_test(Nothing {}), &confirmed).await?;
    let line = |r: &reprise_api::NotifyResult| match &r.error {
        None => labelled("Taken", &r.to),
        Some(error) => labelled("FAILED", &format!("{}: {error}", r.to)),
    };
    let lines: Vec<String> = test.results.iter().flat_map(line).collect();
    ui.show("Test message", &lines, false).await?;
    Ok(())
}
