//! What holds for every request, before anybody is asked who they are: where a form comes from, and what a browser may do
//! with the answer.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::page;

/// Largest body of a form. The largest real one is a network interface with eight addresses.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;

/// No script, style or picture but ours, none inline, no frame around us, and forms go to us only.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// No HSTS among them: the certificate is the box's own, and after a reset it is another. A browser that had been told so
/// would then lock its user out with no way around.
///
/// The referrer is `same-origin`, since `no-referrer` makes browsers send `Origin: null` with our own forms.
const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Refuses what another site sent, and adds the headers to whatever is answered.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let allowed = match *request.method() {
        Method::GET | Method::HEAD => true,
        _ => from_our_pages(request.headers()),
    };
    let mut response = if allowed {
        next.run(request).await
    } else {
        page::message(
            StatusCode::FORBIDDEN,
            "Refused",
            "This form did not come from a page of this box.",
            "Open the box's own page and do it there.",
        )
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// True when the browser says that one of our own pages sent this. Every browser of this decade says so with each POST;
/// whoever says nothing at all is refused, too.
fn from_our_pages(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let site = text("sec-fetch-site");
    let origin = text("origin");
    if site.is_none() && origin.is_none() {
        return false;
    }
    let host = text("host").unwrap_or_default();
    site.is_none_or(|s| s == "same-origin")
        && origin.is_none_or(|o| o.strip_prefix("https://").is_some_and(|o| !host.is_empty() && o == host))
}

/// The host of a `Host` header, without the port; none if it is no name or address.
pub(crate) fn host_name(host: &str) -> Option<&str> {
    let name = match host.strip_prefix('[') {
        Some(v6) => {
            let (inside, rest) = v6.split_once(']')?;
            let port = rest.strip_prefix(':').unwrap_or(if rest.is_empty() { "0" } else { "?" });
            let fine = inside.parse::<std::net::Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok();
            return if fine { host.get(..inside.len() + 2) } else { None };
        }
        None => match host.split_once(':') {
            Some((name, port)) => {
                port.parse::<u16>().ok()?;
                name
            }
            None => host,
        },
    };
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (!name.is_empty() && name.len() <= 253 && name.bytes().all(fine)).then_some(name)
}

/// A path of ours that may be gone to after a login: nothing that a browser could read as another host.
pub(crate) fn local_path(text: &str) -> Option<&str> {
    let local = text.starts_with('/') && !text.starts_with("//") && text.len() <= 512;
    (local && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_our_own_pages_may_post() {
        let good: &[&[(&str, &str)]] = &[
            &[("host", "box:8443"), ("origin", "https://box:8443")],
            &[("host", "box"), ("sec-fetch-site", "same-origin")],
            &[("host", "box"), ("sec-fetch-site", "same-origin"), ("origin", "https://box")],
        ];
        let bad: &[&[(&str, &str)]] = &[
            &[("host", "box")],
            &[("host", "box"), ("origin", "null")],
            &[("host", "box"), ("origin", "http://box")],
            &[("host", "box"), ("origin", "https://box:444")],
            &[("host", "box"), ("origin", "https://box.evil.example")],
            &[("host", "box"), ("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
            &[("host", "box"), ("origin", "https://box"), ("sec-fetch-site", "cross-site")],
            &[("host", "box"), ("sec-fetch-site", "same-site")],
            &[("host", "box"), ("sec-fetch-site", "none")],
            &[("origin", "https://")],
        ];
        for pairs in good {
            assert!(from_our_pages(&headers(pairs)), "{pairs:?}");
        }
        for pairs in bad {
            assert!(!from_our_pages(&headers(pairs)), "{pairs:?}");
        }
    }

    #[test]
    fn hosts_and_paths_are_what_they_say() {
        for (host, name) in [
            ("box", Some("box")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]")),
            ("[2001:db8::1]", Some("[2001:db8::1]")),
            ("", None),
            ("a/b", None),
            ("a@b", None),
            ("a:b", None),
            ("[::1", None),
            ("[x]", None),
            ("[::1]x", None),
        ] {
            assert_eq!(host_name(host), name, "{host}");
        }
        for good in ["/", "/volumes/a?x=1"] {
            assert_eq!(local_path(good), Some(good));
        }
        for bad in ["", "x", "//evil", "/\\evil", "https://evil", "/a b", "/a\nb", "/\u{e4}"] {
            assert_eq!(local_path(bad), None, "{bad}");
        }
    }
}
