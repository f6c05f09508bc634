//! The pages, and which path leads to which.

pub(crate) mod account;
pub(crate) mod dashboard;
pub(crate) mod disks;
pub(crate) mod events;
pub(crate) mod groups;
pub(crate) mod hosts;
pub(crate) mod jobs;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod messages;
pub(crate) mod network;
pub(crate) mod pairing;
pub(crate) mod power;
pub(crate) mod settings;
pub(crate) mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};

use super::{App, assets, confirm, guard, live, page};

/// All of it.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(open())
        .merge(daily())
        .merge(machine())
        .fallback(async || page::message(StatusCode::NOT_FOUND, "Not found", "There is no such page.", ""))
        .method_not_allowed_fallback(async |method: axum::http::Method| {
            // Somebody loads a page again that answered a form: what they want is a page.
            match method {
                axum::http::Method::GET => Redirect::to("/").into_response(),
                _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
            }
        })
        .layer(DefaultBodyLimit::max(guard::BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(guard::guard))
        .with_state(app)
}

/// For everybody.
fn open() -> Router<Arc<App>> {
    Router::new()
        .route("/login", get(login::show).post(login::log_in))
        .route("/login/first", get(login::show_first).post(login::first))
        .route("/assets/style.css", get(assets::style))
        .route("/assets/app.js", get(assets::script))
        .route("/assets/icon.svg", get(assets::icon))
}

/// What is looked at and done day by day.
fn daily() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(dashboard::show))
        .route("/live", get(live::stream))
        .route("/logout", post(login::log_out))
        .route("/volumes", get(volumes::list))
        .route("/volumes/new", get(volumes::create_form).post(volumes::create))
        .route("/volumes/adopt", get(volumes::adopt_form).post(volumes::adopt))
        .route("/volumes/{name}", get(volumes::show))
        .route("/volumes/{name}/resize", post(volumes::resize))
        .route("/volumes/{name}/access", post(volumes::access))
        .route("/groups/new", get(groups::create_form).post(groups::create))
        .route("/groups/{name}", get(groups::show))
        .route("/groups/{name}/give-up", get(groups::give_up))
        .route("/groups/{name}/mirror", post(groups::mirror_add))
        .route("/groups/{name}/pause", post(groups::mirror_pause))
        .route("/groups/{name}/resume", post(groups::mirror_resume))
        .route("/groups/{name}/verify", post(groups::verify))
        .route("/groups/{name}/unfence", post(groups::unfence))
        .route("/groups/{name}/reattach", post(groups::reattach))
        .route("/pair", get(pairing::show))
        .route("/pair/listen", post(pairing::listen))
        .route("/pair/dial", post(pairing::dial))
        .route("/peers/{name}/address", post(pairing::set_address))
        .route("/pair/cancel", post(pairing::cancel))
        .route("/peers/{name}/share", post(pairing::set_share))
        .route("/hosts", get(hosts::list))
        .route("/hosts/new", get(hosts::add_form).post(hosts::add))
        .route("/hosts/show", get(hosts::show))
        .route("/hosts/set", post(hosts::set))
        .route("/hosts/remove", post(hosts::remove))
        .route("/events", get(events::list))
        .route("/alerts/ack", post(events::ack))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/confirm", post(confirm::preview))
        .route("/confirm/do", post(confirm::carry_out))
}

/// The machine and who may use it.
fn machine() -> Router<Arc<App>> {
    Router::new()
        .route("/settings", get(settings::show))
        .route("/settings/name", get(settings::name_form).post(settings::name))
        .route("/settings/time", get(settings::time_form).post(settings::time))
        .route("/settings/network", get(network::show))
        .route("/settings/network/interface", get(network::interface_form).post(network::interface))
        .route("/settings/network/remove", post(network::remove))
        .route("/settings/network/nameservers", post(network::nameservers))
        .route("/settings/network/keep", post(network::keep))
        .route("/settings/password", get(account::form).post(account::change))
        .route("/settings/sessions", get(account::sessions))
        .route("/settings/sessions/end", post(account::end_session))
        .route("/settings/sessions/end-others", post(account::end_other_sessions))
        .route("/settings/messages", get(messages::form).post(messages::set))
        .route("/settings/messages/test", post(messages::test))
        .route("/settings/disks", get(disks::show))
        .route("/settings/disks/take", post(disks::take))
        .route("/settings/logs", get(logs::show))
        .route("/settings/support", get(logs::support_form).post(logs::support))
        .route("/settings/power", get(power::show).post(power::set))
        .route("/settings/reset", get(power::reset_form))
}
