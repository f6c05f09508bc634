//! The style, the script and the icon: compiled in, so that nothing is fetched from anywhere.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/app.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Kept by browsers for an hour only: their names do not tell a version, and an update must not meet an old script for long.
fn asset(kind: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600")),
    ];
    (headers, body).into_response()
}

pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

pub(crate) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

pub(crate) async fn icon() -> Response {
    asset("image/svg+xml", ICON)
}

/// The address of an asset, which changes with the version.
macro_rules! asset_url {
    ($name:literal) => {
        concat!("/assets/", $name, "?v=", env!("CARGO_PKG_VERSION"))
    };
}
pub(crate) use asset_url;
