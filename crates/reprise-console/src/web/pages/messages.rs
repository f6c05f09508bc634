//! Who is told about alerts.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::html;
use reprise_api::{MailSecurity, MailSettings, Nothing, NotifySettings, NotifyTest, RECEIVERS_MAX, Webhook};

use crate::web::App;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text, Tone};

/// Longest address of a webhook.
const URL_CHARS_MAX: usize = 1024;

/// `GET /settings/messages`.
pub(crate) async fn form(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    messages_page(&app, &signed, None, None, None).await
}

fn form_of(settings: &NotifySettings) -> Form {
    let hooks: Vec<_> = settings.webhooks.iter().map(|w| w.url.as_str()).collect();
    let form = Form::default().with("webhooks", hooks.join(" "));
    let Some(mail) = &settings.mail else { return form };
    form.with("server", &mail.server)
        .with("port", mail.port.map(|p| p.to_string()).unwrap_or_default())
        .with(
            "security",
            match mail.security {
                MailSecurity::Tls => "tls",
                MailSecurity::Starttls => "starttls",
                MailSecurity::None => "none",
            },
        )
        .with("user", mail.user.as_deref().unwrap_or_default())
        .with("from", &mail.from)
        .with("to", mail.to.join(", "))
}

async fn messages_page(
    app: &App,
    signed: &Signed,
    typed: Option<&Form>,
    problem: Option<&Problem>,
    test: Option<&NotifyTest>,
) -> Result<Response, Problem> {
    let settings = app.client.notify_show(&Nothing {}).await?;
    let as_is = form_of(&settings);
    let fields = Fields { form: typed.unwrap_or(&as_is), problem, prefix: "" };
    let anybody = !settings.webhooks.is_empty() || settings.mail.is_some();
    let content = html! {
        p { "One message is sent when an alert begins, grows worse or ends." }
        @if let Some(test) = test {
            section class="card" role="status" {
                h2 { "How the test went" }
                @if test.results.is_empty() { p { "There is nobody to tell." } }
                ul {
                    @for result in &test.results {
                        li {
                            (result.to) ": "
                            @match &result.error {
                                None => (ui::badge(Tone::Good, "taken")),
                                Some(error) => { (ui::badge(Tone::Bad, "failed")) " " (error) }
                            }
                        }
                    }
                }
            }
        }
        form method="post" action="/settings/messages" {
            (ui::token(signed))
            (fields.text(Text {
                name: "webhooks", label: "Webhooks", hint: "Addresses that are called with JSON, https:// or http://, between spaces, at most 8.",
                ..Text::default()
            }))
            fieldset {
                legend { "Mail" }
                (fields.text(Text { name: "server", label: "Mail server", hint: "Empty: no mail is sent.", ..Text::default() }))
                (fields.select("security", "Protection", "tls", &[
                    ("tls", "TLS from the first byte (port 465)"),
                    ("starttls", "STARTTLS (port 587)"),
                    ("none", "None (port 25): on the same network only"),
                ]))
                (fields.text(Text { name: "port", label: "Port", hint: "Empty: as the protection says.", ..Text::default() }))
                (fields.text(Text { name: "user", label: "User", ..Text::default() }))
                (fields.text(Text {
                    name: "password", label: "Password", kind: "password", autocomplete: "new-password",
                    hint: "Empty: the one there is.", ..Text::default()
                }))
                (fields.text(Text { name: "from", label: "Sender", ..Text::default() }))
                (fields.text(Text { name: "to", label: "Receivers", hint: "Between commas, at most 8.", ..Text::default() }))
            }
            button type="submit" { "Change" } " " a href="/settings" { "Back" }
        }
        @if anybody {
            section class="card" {
                h2 { "Test" }
                p { "Sends everybody above a message that says it is a test." }
                (ui::button(signed, "/settings/messages/test", &[], html! { "Send a test" }))
            }
        }
    };
    Ok(Page::new(signed, "Messages").problem(problem).show(content))
}

fn settings_of(form: &Form) -> Result<NotifySettings, Problem> {
    let urls: Vec<String> = form.list("webhooks", "Webhooks")?;
    if urls.len() > RECEIVERS_MAX {
        return Err(Problem::field("webhooks", format!("There may be at most {RECEIVERS_MAX} webhooks.")));
    }
    for url in &urls {
        let known = url.starts_with("https://") || url.starts_with("http://");
        if !known || url.len() > URL_CHARS_MAX {
            return Err(Problem::field(
                "webhooks",
                "A webhook begins with https:// or http:// and has at most 1024 characters.",
            ));
        }
    }
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    let mail = match form.text("server") {
        "" => None,
        server => {
            let to: Vec<String> = form.list("to", "Receivers")?;
            if to.is_empty() || to.len() > RECEIVERS_MAX {
                return Err(Problem::field("to", format!("Write 1 to {RECEIVERS_MAX} receivers.")));
            }
            Some(MailSettings {
                server: server.to_owned(),
                port: form.optional("port", "Port")?,
                security: match form.text("security") {
                    "starttls" => MailSecurity::Starttls,
                    "none" => MailSecurity::None,
                    _ => MailSecurity::Tls,
                },
                user: some(form.text("user")),
                password: some(form.raw("password")),
                from: form.value("from", "Sender")?,
                to,
            })
        }
    };
    Ok(NotifySettings { webhooks: urls.into_iter().map(|url| Webhook { url }).collect(), mail })
}

/// `POST /settings/messages`.
pub(crate) async fn set(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        app.client.notify_set(&settings_of(&form)?).await?;
        Ok::<_, Problem>(())
    };
    match attempt.await {
        Ok(()) => Ok(signed.done("/settings/messages", "Who is told is changed. Send a test to see that it arrives.")),
        Err(problem) => messages_page(&app, &signed, Some(&form), Some(&problem), None).await,
    }
}

/// `POST /settings/messages/test`.
pub(crate) async fn test(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let signed = posted.signed;
    match app.client.notify_test(&Nothing {}).await.map_err(Problem::from) {
        Ok(test) => messages_page(&app, &signed, None, None, Some(&test)).await,
        Err(problem) => messages_page(&app, &signed, None, Some(&problem), None).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_form_without_their_password() {
        let mail = MailSettings {
            server: "mail.example".into(),
            port: Some(2525),
            security: MailSecurity::Starttls,
            user: Some("box".into()),
            password: Some("secret".into()),
            from: "box@example.org".into(),
            to: vec!["a@example.org".into(), "b@example.org".into()],
        };
        let hook = |url: &str| Webhook { url: url.into() };
        let settings = NotifySettings {
            webhooks: vec![hook("https://a.example/x?y"), hook("http://b.example")],
            mail: Some(mail.clone()),
        };
        let without = NotifySettings { mail: Some(MailSettings { password: None, ..mail }), ..settings.clone() };
        assert_eq!(settings_of(&form_of(&settings)).unwrap(), without);
        assert_eq!(settings_of(&Form::default()).unwrap(), NotifySettings::default());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (text, field) in [
            ("webhooks=ftp://x", "webhooks"),
            ("webhooks=javascript:alert(1)", "webhooks"),
            ("server=m&from=a@b", "to"),
            ("server=m&to=a@b", "from"),
            ("server=m&to=a@b&from=c@d&port=70000", "port"),
        ] {
            let form = Form::parse(text.as_bytes()).unwrap();
            assert_eq!(settings_of(&form).unwrap_err().field_name(), Some(field), "{text}");
        }
    }
}
