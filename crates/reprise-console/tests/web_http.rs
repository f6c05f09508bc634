//! Every path of the web console over real HTTPS: right, wrong, hostile and expired.
#![allow(clippy::unwrap_used)]

#[path = "web_double/browser.rs"]
mod browser;
mod web_double;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use browser::{Answer, Browser, field};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use reprise_api::*;
use reprise_console::web::{Console, SessionLimits, WebConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use web_double::{CODE, Double};

const PASSWORD: &str = "correct horse battery";
/// What must never reach a page as it stands.
const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>";

struct Bench {
    double: Double,
    address: SocketAddr,
    http: SocketAddr,
    dir: tempfile::TempDir,
    api: Option<tokio::task::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn bench_with(sessions: SessionLimits) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let double = Double::new();
    let socket = dir.path().join("api.sock");
    let api = double.serve(&socket);
    let (cert, key) = web_double::certificate(dir.path());
    let config = WebConfig {
        listen_https: vec!["127.0.0.1:0".parse().unwrap()],
        listen_http: Some("127.0.0.1:0".parse().unwrap()),
        api_socket: socket,
        cert,
        key,
        sessions,
    };
    let console = Console::bind(config).await.unwrap();
    let (address, http) = (console.https_addresses().unwrap()[0], console.http_address().unwrap().unwrap());
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(console.run(stopped));
    Bench { double, address, http, dir, api: Some(api), stop, served }
}

async fn bench() -> Bench {
    bench_with(SessionLimits::default()).await
}

impl Bench {
    async fn logged_in(&self) -> Browser {
        let mut browser = Browser::new(self.address);
        if self.double.world().password.is_none() {
            self.double.world().set_password(PASSWORD);
        }
        let answer = browser.log_in(PASSWORD).await;
        assert_eq!((answer.status, answer.location()), (303, "/"), "{}", answer.body);
        self.double.taken();
        browser
    }
}

/// Every page, with a path that has one.
const PAGES: &[&str] = &[
    "/",
    "/?range=day",
    "/volumes",
    "/volumes/new",
    "/volumes/adopt",
    "/volumes/pg-data",
    "/groups/new",
    "/groups/pg",
    "/groups/mail",
    "/groups/mail/give-up",
    "/pair",
    "/hosts",
    "/hosts/new",
    "/hosts/show?name=iqn.2026-01.com.example%3Ahost",
    "/events",
    "/events?before=100",
    "/events?cleared=yes",
    "/jobs",
    "/jobs/7",
    "/jobs/8",
    "/settings",
    "/settings/name",
    "/settings/time",
    "/settings/network",
    "/settings/network/interface?name=eth1",
    "/settings/network/interface?kind=vlan",
    "/settings/network/interface?kind=bond",
    "/settings/network/interface?name=eth0",
    "/settings/password",
    "/settings/sessions",
    "/settings/messages",
    "/settings/disks",
    "/settings/logs",
    "/settings/logs?source=kernel&lines=5",
    "/settings/support",
    "/settings/power",
    "/settings/reset",
];

type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str, fn() -> Value);

/// Every form, filled in rightly, with the command that comes of it.
const FORMS: &[Case] = &[
    (
        "/volumes/new",
        &[("name", "v"), ("group", "pg"), ("size", "3G"), ("allocation", "thin"), ("block", "4kn"), ("local", "yes")],
        "volume_create",
        || json!({"name": "v", "group": "pg", "size": 3u64 << 30, "thin": true, "local_only": true, "block_size": "4kn", "read_only": false, "mirror": null}),
    ),
    (
        "/volumes/new",
        &[("name", "v"), ("group", "pg"), ("size", "3G"), ("block", "512e"), ("mirror", "turin")],
        "volume_create",
        || json!({"name": "v", "group": "pg", "size": 3u64 << 30, "thin": false, "local_only": false, "block_size": "512e", "read_only": false, "mirror": "turin"}),
    ),
    (
        "/volumes/adopt",
        &[("name", "v"), ("group", "pg"), ("path", "/dev/sdx")],
        "volume_adopt",
        || json!({"name": "v", "group": "pg", "path": "/dev/sdx", "local_only": false}),
    ),
    (
        "/volumes/pg-data/resize",
        &[("size", "100G")],
        "volume_resize",
        || json!({"name": "pg-data", "size": 100u64 << 30}),
    ),
    (
        "/volumes/pg-data/access",
        &[("read_only", "yes")],
        "volume_set",
        || json!({"name": "pg-data", "read_only": true}),
    ),
    (
        "/peers/turin/address",
        &[("address", "192.0.2.9")],
        "peer_set",
        || json!({"peer": "turin", "address": "192.0.2.9:3261"}),
    ),
    ("/groups/new", &[("name", "g")], "group_create", || json!({"name": "g"})),
    ("/groups/pg/mirror", &[("peer", "turin")], "mirror_add", || json!({"group": "pg", "peer": "turin"})),
    ("/groups/pg/pause", &[("peer", "turin")], "mirror_pause", || json!({"group": "pg", "peer": "turin"})),
    ("/groups/pg/resume", &[("peer", "turin")], "mirror_resume", || json!({"group": "pg", "peer": "turin"})),
    (
        "/groups/pg/verify",
        &[("repair", "yes"), ("rate", "50M")],
        "verify_start",
        || json!({"group": "pg", "repair": true, "bytes_per_sec": 50u64 << 20}),
    ),
    ("/groups/pg/unfence", &[], "group_unfence", || json!({"name": "pg"})),
    ("/groups/pg/reattach", &[], "group_reattach", || json!({"name": "pg"})),
    ("/pair/listen", &[], "pair_listen", || json!({"valid_secs": 600})),
    (
        "/pair/dial",
        &[("address", "192.0.2.9"), ("code", "4F7-K2M-9TX")],
        "pair_dial",
        || json!({"address": "192.0.2.9:3261", "code": "4F7-K2M-9TX"}),
    ),
    ("/pair/cancel", &[], "pair_cancel", || json!({})),
    (
        "/peers/turin/share",
        &[("mirrors", "yes"), ("groups_max", "3"), ("bytes_max", "2T")],
        "peer_share",
        || json!({"peer": "turin", "share": {"mirrors": true, "groups_max": 3, "bytes_max": 2u64 << 40}}),
    ),
    (
        "/hosts/new",
        &[
            ("name", "IQN.2026-01.com.example:new"),
            ("groups", "pg, mail"),
            ("addresses", "192.0.2.0/24"),
            ("user", "u"),
            ("secret", "twelve-bytes"),
            ("mutual_user", "b"),
            ("mutual_secret", "other-twelve"),
            ("iops", "10"),
            ("rate", "1M"),
        ],
        "initiator_add",
        || {
            json!({"name": "iqn.2026-01.com.example:new", "groups": ["pg", "mail"], "addresses": ["192.0.2.0/24"],
                "chap": {"user": "u", "secret": "twelve-bytes", "mutual_user": "b", "mutual_secret": "other-twelve"},
                "iops": 10, "bytes_per_sec": 1 << 20})
        },
    ),
    ("/hosts/set", &[("name", "iqn.2026-01.com.example:host"), ("no_chap", "yes")], "initiator_set", || {
        json!({"name": "iqn.2026-01.com.example:host", "groups": [], "addresses": [], "no_chap": true, "iops": 0,
                "bytes_per_sec": 0})
    }),
    (
        "/hosts/remove",
        &[("name", "iqn.2026-01.com.example:host"), ("sure", "yes")],
        "initiator_remove",
        || json!({"name": "iqn.2026-01.com.example:host"}),
    ),
    ("/alerts/ack", &[("id", "12"), ("back", "/")], "alert_ack", || json!({"id": 12})),
    ("/jobs/7/cancel", &[], "job_cancel", || json!({"id": 7})),
    ("/settings/name", &[("name", "turin")], "system_name_set", || json!({"name": "turin"})),
    (
        "/settings/time",
        &[("servers", "a.example, b.example"), ("now", "2026-09-21 15:13:00")],
        "system_time_set",
        || json!({"servers": ["a.example", "b.example"], "unix_ms": 1_790_003_580_000u64}),
    ),
    (
        "/settings/network/interface",
        &[
            ("name", "eth0"),
            ("kind", "ethernet"),
            ("method4", "static"),
            ("addresses4", "192.0.2.8/24"),
            ("gateway4", "192.0.2.1"),
            ("method6", "off"),
        ],
        "system_network_set",
        || {
            json!({"interfaces": [
                {"name": "eth1", "kind": {"kind": "vlan", "parent": "eth0", "id": 100}, "ipv4": {"kind": "off"}, "ipv6": {"kind": "auto"}},
                {"name": "eth0", "kind": {"kind": "ethernet"},
                    "ipv4": {"kind": "static", "addresses": ["192.0.2.8/24"], "gateway": "192.0.2.1"}, "ipv6": {"kind": "off"}}
            ], "nameservers": ["192.0.2.53"]})
        },
    ),
    (
        "/settings/network/remove",
        &[("name", "eth1")],
        "system_network_set",
        || json!({"interfaces": [], "nameservers": ["192.0.2.53"]}),
    ),
    ("/settings/network/nameservers", &[("nameservers", "2001:db8::53")], "system_network_set", || {
        json!({"interfaces": [{"name": "eth1", "kind": {"kind": "vlan", "parent": "eth0", "id": 100},
                "ipv4": {"kind": "off"}, "ipv6": {"kind": "auto"}}], "nameservers": ["2001:db8::53"]})
    }),
    ("/settings/network/keep", &[], "system_network_keep", || json!({})),
    (
        "/settings/password",
        &[("current", PASSWORD), ("new", "another password"), ("again", "another password")],
        "admin_password",
        || json!({"current": PASSWORD, "new": "another password", "from": "127.0.0.1"}),
    ),
    (
        "/settings/messages",
        &[
            ("webhooks", "https://a.example/x"),
            ("server", "mail.example"),
            ("security", "starttls"),
            ("from", "box@example.org"),
            ("to", "a@example.org"),
            ("user", "u"),
            ("password", " p "),
        ],
        "notify_set",
        || {
            json!({"webhooks": [{"url": "https://a.example/x"}], "mail": {"server": "mail.example", "security": "starttls",
                "user": "u", "password": " p ", "from": "box@example.org", "to": ["a@example.org"]}})
        },
    ),
    ("/settings/messages/test", &[], "notify_test", || json!({})),
    (
        "/settings/disks/take",
        &[("path", "/dev/sdc"), ("serial", "FOREIGN1")],
        "system_disk_take",
        || json!({"path": "/dev/sdc", "serial": "FOREIGN1"}),
    ),
    ("/settings/support", &[], "system_support", || json!({})),
    ("/settings/power", &[("action", "reboot"), ("sure", "yes")], "system_power", || json!({"action": "reboot"})),
    (
        "/confirm",
        &[("kind", "volume_erase"), ("volume", "pg-data")],
        "action_preview",
        || json!({"action": {"kind": "volume_erase", "volume": "pg-data"}}),
    ),
];

/// The paths in the source, so that none is forgotten here.
fn routes(method: &str) -> BTreeSet<String> {
    let source = include_str!("../src/web/pages/mod.rs");
    let lines = source.lines().filter(|l| l.trim_start().starts_with(".route("));
    let with = lines.filter(|l| l.contains(&format!("{method}(")));
    with.map(|l| l.split('"').nth(1).unwrap().to_owned()).collect()
}

/// A real path as the source has it.
fn pattern(path: &str) -> String {
    let path = path.split('?').next().unwrap();
    let mut parts: Vec<_> = path.split('/').collect();
    let fixed = ["new", "adopt", "show", "set", "remove"];
    match parts.get(1).copied() {
        Some("volumes" | "groups" | "peers") if parts.len() > 2 && !fixed.contains(&parts[2]) => parts[2] = "{name}",
        Some("jobs") if parts.len() > 2 => parts[2] = "{id}",
        _ => {}
    }
    parts.join("/")
}

#[test]
fn the_tables_of_this_test_name_every_path() {
    let looked: BTreeSet<_> = PAGES.iter().map(|p| pattern(p)).collect();
    let by_themselves = ["/login", "/login/first", "/live", "/assets/style.css", "/assets/app.js", "/assets/icon.svg"];
    let missing: Vec<_> =
        routes("get").into_iter().filter(|p| !looked.contains(p) && !by_themselves.contains(&p.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let sent: BTreeSet<_> = FORMS.iter().map(|(p, ..)| pattern(p)).collect();
    let sessions = ["/settings/sessions/end", "/settings/sessions/end-others"];
    let by_themselves = [&["/login", "/login/first", "/logout", "/confirm/do"], &sessions[..]].concat();
    let missing: Vec<_> =
        routes("post").into_iter().filter(|p| !sent.contains(p) && !by_themselves.contains(&p.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(routes("get").len() > 25 && routes("post").len() > 30);
}

fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.split(&format!(" {name}=\"")).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// What holds for every page.
fn check_page(path: &str, answer: &Answer) {
    let page = &answer.body;
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
    assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
    assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{path}: {page}");
    assert_eq!(page.matches("<h1>").count(), 1, "{path}");
    assert_eq!(page.matches("<main").count(), 1, "{path}");
    assert!(page.contains("name=\"viewport\"") && page.contains("<title>"), "{path}");
    assert_eq!(page.matches("<script").count(), 1, "{path}: one script, of a file");
    assert!(!page.contains("<style") && !page.contains(" style=\"") && !page.contains("javascript:"), "{path}");
    for tag in page.split('<').map(|t| t.split('>').next().unwrap()) {
        // What stands between quotes is a value.
        let names: String = tag.split('"').step_by(2).collect();
        assert!(!names.contains(" on"), "{path}: a handler in <{tag}>");
    }
    for address in attributes(page, "href").iter().chain(&attributes(page, "src")).chain(&attributes(page, "action")) {
        assert!(address.starts_with('/') || address.starts_with('#'), "{path}: {address} is elsewhere");
    }
    let ids = attributes(page, "id");
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{path}: {ids:?}");
    for (name, several) in [("for", false), ("aria-describedby", true), ("aria-labelledby", true), ("list", false)] {
        for value in attributes(page, name) {
            for id in if several { value.split(' ').collect() } else { vec![value] } {
                assert!(unique.contains(&id), "{path}: {name} names {id}");
            }
        }
    }
    let labelled: BTreeSet<_> = attributes(page, "for").into_iter().collect();
    for tag in page.split(['<', '>']).filter(|t| t.starts_with("input ") || t.starts_with("select ")) {
        let hidden = tag.contains("type=\"hidden\"") || tag.contains("aria-hidden");
        let id = tag.split("id=\"").nth(1).map(|r| r.split('"').next().unwrap());
        assert!(hidden || id.is_some_and(|id| labelled.contains(id)), "{path}: no label for {tag}");
    }
    for form in page.split("<form").skip(1) {
        let form = form.split("</form>").next().unwrap();
        let safe = form.contains("method=\"get\"") || form.contains("name=\"csrf\"") || form.contains("name=\"form\"");
        assert!(safe, "{path}: a form without a token: {form}");
    }
    for table in page.split("<table>").skip(1) {
        assert!(table.starts_with("<caption>"), "{path}: a table without a caption");
        for head in table.split("</table>").next().unwrap().split("<th").skip(1).filter(|h| !h.starts_with("ead")) {
            assert!(head.starts_with(" scope=\""), "{path}: {head}");
        }
    }
}

/// Whoever came first owned the box, also after a reset of its settings.
#[tokio::test]
async fn the_first_password_needs_the_code_and_later_logins_the_password() {
    let bench = bench().await;
    let mut browser = Browser::new(bench.address);
    // A stranger sees the same pages before and after, and nobody asks the box for them.
    let strangers = async || {
        let mut pages = Vec::new();
        for path in ["/login", "/login/first"] {
            let mut stranger = Browser::new(bench.address);
            let page = stranger.get(path).await;
            check_page(path, &page);
            pages.push(page.body.replace(&field(&page.body, "form"), ""));
        }
        pages
    };
    let before = strangers().await;
    let token = browser.form("/login/first").await;
    for (code, new, again, told) in [
        (CODE, "short", "short", "at least 10 characters"),
        (CODE, "long enough", "long enougH", "not the same"),
        (CODE, &*"x".repeat(257), &*"x".repeat(257), "at most 256 bytes"),
        (" ", PASSWORD, PASSWORD, "The code is missing"),
    ] {
        let fields = [("form", token.as_str()), ("code", code), ("new", new), ("again", again)];
        let answer = browser.post("/login/first", &fields).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(told), "{}", answer.body);
        assert!(!answer.body.contains(&format!("value=\"{new}\"")), "a password came back");
        check_page("/login/first", &answer);
    }
    assert!(bench.double.taken().is_empty());
    let fields = [("form", token.as_str()), ("code", CODE), ("new", PASSWORD), ("again", PASSWORD)];
    // A form that another browser was sent.
    let mut other = Browser::new(bench.address);
    assert_eq!(other.post("/login/first", &fields).await.status, 403);
    other.get("/login").await;
    assert_eq!(other.post("/login/first", &fields).await.status, 403);
    assert!(bench.double.taken().is_empty());
    // A stranger without the code.
    let evil =
        [("form", token.as_str()), ("code", "000-000-000"), ("new", "evil evil evil"), ("again", "evil evil evil")];
    let refused = browser.post("/login/first", &evil).await;
    assert_eq!((refused.status, bench.double.world().password.clone()), (403, None));
    assert!(refused.body.contains("this is not the code"), "{}", refused.body);
    check_page("/login/first", &refused);

    let answer = browser.post("/login/first", &[&fields[..], &[("next", "/volumes")]].concat()).await;
    assert_eq!((answer.status, answer.location()), (303, "/volumes"));
    let said = bench.double.taken().pop().unwrap();
    assert_eq!(said, ("admin_password".into(), json!({"code": CODE, "new": PASSWORD, "from": "127.0.0.1"})));
    assert_eq!(strangers().await, before);
    assert_eq!(browser.get("/").await.status, 200);
    for path in ["/login", "/login/first"] {
        assert_eq!(browser.get(path).await.location(), "/");
        assert_eq!(browser.get(&format!("{path}?next=/jobs")).await.location(), "/jobs");
        assert_eq!(browser.get(&format!("{path}?next=//evil.example/")).await.location(), "/");
    }

    // The second browser cannot set it again, is told what a wrong code is told, and has to know the password.
    let token = other.form("/login/first").await;
    let evil = [("form", token.as_str()), ("code", CODE), ("new", "evil evil evil"), ("again", "evil evil evil")];
    let again = other.post("/login/first", &evil).await;
    assert_eq!(again.status, refused.status);
    assert!(again.body.contains("this is not the code"), "{}", again.body);
    assert_eq!(bench.double.world().password.as_deref(), Some(PASSWORD));
    let answer = other.post("/login", &[("form", &token), ("password", "wrong password")]).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("this is not the password"), "{}", answer.body);
    check_page("/login", &answer);
    assert_eq!(other.get("/").await.status, 303);
    let long = "x".repeat(300);
    bench.double.taken();
    assert_eq!(other.post("/login", &[("form", &token), ("password", &long)]).await.status, 400);
    assert!(bench.double.taken().is_empty(), "nobody hashes that");
    let refusal = ApiError::new(ErrorCode::LimitReached, "too many wrong passwords", "wait 30 seconds");
    bench.double.world().refuse.insert("admin_login".into(), refusal);
    let answer = other.post("/login", &[("form", &token), ("password", PASSWORD)]).await;
    assert!(answer.body.contains("too many wrong passwords") && answer.body.contains("wait 30 seconds"));
    bench.double.world().refuse.clear();
    let answer = other.post("/login", &[("form", &token), ("password", PASSWORD), ("next", "/pair?x=1")]).await;
    assert_eq!((answer.status, answer.location()), (303, "/pair?x=1"));
    let said = bench.double.taken().pop().unwrap();
    assert_eq!(said, ("admin_login".into(), json!({"password": PASSWORD, "from": "127.0.0.1"})));

    // Out again; the cookie is worth nothing after that.
    let cookies = other.cookies.clone();
    assert_eq!(other.submit("/logout", &[]).await.location(), "/login");
    assert!(!other.cookies.contains_key("__Host-reprise"));
    other.cookies = cookies;
    assert_eq!(other.get("/volumes").await.location(), "/login?next=%2Fvolumes");
    assert_eq!(browser.get("/").await.status, 200, "the other browser stays");
}

#[tokio::test]
async fn a_new_password_ends_every_other_login() {
    let bench = bench().await;
    let (mut one, mut two) = (bench.logged_in().await, bench.logged_in().await);
    let fields = [("current", "wrong"), ("new", "another password"), ("again", "another password")];
    let answer = one.submit("/settings/password", &fields).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("the password so far is another"));
    assert_eq!(two.get("/").await.status, 200);
    let fields = [("current", PASSWORD), ("new", "another password"), ("again", "another password")];
    assert_eq!(one.submit("/settings/password", &fields).await.location(), "/settings");
    assert!(one.get("/settings").await.body.contains("The password is changed."));
    assert_eq!(two.get("/").await.location(), "/login");
}

/// Somebody had taken a cookie. The password was set anew at the serial console, twice, and the cookie went on.
#[tokio::test]
async fn sessions_end_when_the_password_changes_anywhere() {
    let bench = bench().await;
    let (mut taken, mut reading) = (bench.logged_in().await, bench.logged_in().await);
    let csrf = taken.token().await;
    let live = reading.request("GET", "/live").body(Full::default()).unwrap();
    let mut live = reading.open(live).await.into_body();
    assert!(live.frame().await.is_some());
    bench.double.world().set_password("set at the serial console");
    bench.double.taken();
    let answer = taken.post("/hosts/new", &[("csrf", &csrf), ("name", "iqn.2026-01.com.example:evil")]).await;
    assert_eq!(answer.status, 401, "{}", answer.body);
    assert!(bench.double.taken().is_empty(), "nothing was done");
    for path in PAGES {
        assert!(taken.get(path).await.location().starts_with("/login"), "{path}");
    }
    // A page that is open is told, and gets no figures any more.
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(Ok(frame)) = live.frame().await {
            if frame.into_data().is_ok_and(|data| data.starts_with(b"event: gone")) {
                return true;
            }
        }
        false
    });
    assert!(told.await.unwrap(), "the stream ended without a word");
    assert_eq!(reading.get("/").await.location(), "/login");
    let mut owner = Browser::new(bench.address);
    assert_eq!(owner.log_in("set at the serial console").await.location(), "/");
    assert_eq!(owner.get("/volumes").await.status, 200);
    // The end of all sessions is such a change, too.
    bench.double.world().generation += 1;
    assert_eq!(owner.get("/volumes").await.location(), "/login?next=%2Fvolumes");
}

#[tokio::test]
async fn sessions_are_listed_and_can_be_ended() {
    let bench = bench().await;
    let (mut own, mut two, mut three) = (bench.logged_in().await, bench.logged_in().await, bench.logged_in().await);
    let agent = "Mozilla/5.0 <b>two</b>";
    let request = two.request("GET", "/").header("user-agent", agent).body(Full::default()).unwrap();
    assert_eq!(two.send(request).await.status, 200);
    let page = own.get("/settings/sessions").await;
    check_page("/settings/sessions", &page);
    assert_eq!(page.body.matches("127.0.0.1").count(), 3 + 2, "three rows, and two buttons that name theirs");
    assert_eq!(page.body.matches("(this one)").count(), 1);
    assert!(page.body.contains("Mozilla/5.0 &lt;b&gt;two&lt;/b&gt;"), "{}", page.body);
    let row = page.body.split("<tr>").find(|row| row.contains("two&lt;")).unwrap();
    let id = field(row, "id");
    let secrets = |b: &Browser| b.cookies["__Host-reprise"].clone();
    assert!(!page.body.contains(&secrets(&two)) && !page.body.contains(&secrets(&three)));
    // Not without the token of this login.
    for path in ["/settings/sessions/end", "/settings/sessions/end-others"] {
        assert_eq!(own.post(path, &[("id", &id), ("csrf", "x")]).await.status, 403);
    }
    assert_eq!(two.get("/").await.status, 200);
    assert_eq!(own.submit("/settings/sessions/end", &[("id", &id)]).await.location(), "/settings/sessions");
    assert!(own.get("/settings/sessions").await.body.contains("The session is ended."));
    assert_eq!((two.get("/").await.status, three.get("/").await.status), (303, 200));
    own.submit("/settings/sessions/end", &[("id", "nothing")]).await;
    assert!(own.get("/settings/sessions").await.body.contains("That session had ended."));
    own.submit("/settings/sessions/end-others", &[]).await;
    assert_eq!((own.get("/").await.status, three.get("/").await.status), (200, 303));
    assert!(!own.get("/settings/sessions").await.body.contains("End all others"));
}

#[tokio::test]
async fn every_page_can_be_read() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    for path in PAGES {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        check_page(path, &answer);
        assert!(answer.body.contains("class=\"skip\" href=\"#main\""), "{path}");
        assert!(answer.body.contains("aria-label=\"Main\""), "{path}");
    }
    assert!(bench.double.taken().is_empty(), "looking changes nothing");
    for (path, text) in [
        ("/", "Both boxes wrote to the group after record 812."),
        ("/", "Other box: turin"),
        ("/volumes", "pg-old"),
        ("/groups/pg", "iscsiadm -m node -T iqn.2026-01.fr.reprise:lyon.pg -p 127.0.0.1:3260"),
        ("/hosts/show?name=iqn.2026-01.com.example%3Ahost", "node.session.auth.username -v host"),
        ("/events", "Event number 120."),
        ("/events?before=71", "Event number 21."),
        ("/jobs/8", "pg-data"),
        ("/settings/network", "VLAN 100 on eth0"),
        ("/settings/logs", "a line of the log"),
    ] {
        let body = browser.get(path).await.body;
        assert!(body.contains(text), "{path} lacks {text}: {body}");
    }
    assert!(!browser.get("/events?before=71").await.body.contains("Event number 71."));
    for path in
        ["/nothing", "/volumes/none", "/volumes/A%20B", "/groups/none", "/jobs/9", "/jobs/x", "/hosts/show?name=x"]
    {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        check_page(path, &answer);
    }
    for (path, kind) in
        [("/assets/style.css", "text/css"), ("/assets/app.js", "text/javascript"), ("/assets/icon.svg", "image/svg")]
    {
        let answer = Browser::new(bench.address).get(path).await;
        assert!(answer.status == 200 && answer.header("content-type").starts_with(kind), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn without_a_login_nothing_is_shown_or_done() {
    let bench = bench().await;
    bench.logged_in().await;
    let mut stranger = Browser::new(bench.address);
    for cookie in [None, Some("0".repeat(64)), Some("x".to_owned())] {
        stranger.cookies.clear();
        if let Some(cookie) = cookie {
            stranger.cookies.insert("__Host-reprise".into(), cookie);
        }
        for path in PAGES.iter().chain(&["/live"]) {
            let answer = stranger.get(path).await;
            assert!(answer.status == 303 && answer.location().starts_with("/login"), "{path}");
            assert!(!answer.body.contains("turin"), "{path}");
        }
        for (path, fields, ..) in FORMS {
            let answer = stranger.post(path, fields).await;
            assert_eq!(answer.status, 401, "{path}");
            check_page(path, &answer);
        }
        for path in ["/logout", "/confirm/do"] {
            assert_eq!(stranger.post(path, &[]).await.status, 401, "{path}");
        }
    }
    assert!(bench.double.taken().is_empty());
}

#[tokio::test]
async fn a_form_from_elsewhere_does_nothing() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    let token = browser.token().await;
    let foreign = bench.logged_in().await.token().await;
    let here = format!("https://{}", browser.host());
    let all: Vec<_> = FORMS.iter().map(|(path, fields, ..)| (*path, *fields)).collect();
    for (path, fields) in all.into_iter().chain([("/logout", &[][..]), ("/confirm/do", &[][..])]) {
        // No token, another login's, a changed one.
        for token in ["", &foreign, &token[1..], &token.to_uppercase()] {
            let answer = browser.post(path, &[fields, &[("csrf", token)]].concat()).await;
            assert_eq!(answer.status, 403, "{path} with {token:?}");
        }
        // The right token, sent from another place.
        for headers in [
            &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")][..],
            &[("origin", "null")],
            &[("origin", &here), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[],
        ] {
            let body = serde_urlencoded::to_string([fields, &[("csrf", token.as_str())]].concat()).unwrap();
            let mut request = browser.request("POST", path).header("content-type", "application/x-www-form-urlencoded");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = browser.send(request.body(Full::from(body)).unwrap()).await;
            assert_eq!(answer.status, 403, "{path} with {headers:?}");
            check_page(path, &answer);
        }
    }
    assert!(bench.double.taken().is_empty());
    assert_eq!(browser.get("/").await.status, 200);
    // The login, too.
    let mut other = Browser::new(bench.address);
    let form = field(&other.get("/login").await.body, "form");
    let body = serde_urlencoded::to_string([("form", form.as_str()), ("password", PASSWORD)]).unwrap();
    let request = other
        .request("POST", "/login")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("origin", "https://evil.example");
    assert_eq!(other.send(request.body(Full::from(body)).unwrap()).await.status, 403);
    assert!(bench.double.taken().is_empty());
}

#[tokio::test]
async fn every_form_does_what_it_says() {
    for (path, fields, command, request) in FORMS {
        let bench = bench().await;
        let mut browser = bench.logged_in().await;
        let answer = browser.submit(path, fields).await;
        assert!(answer.status == 200 || answer.status == 303, "{path}: {} {}", answer.status, answer.body);
        let calls = bench.double.taken();
        assert_eq!(calls, [((*command).to_owned(), request())], "{path}");
        if answer.status == 303 {
            let next = browser.get(answer.location()).await;
            assert_eq!(next.status, 200, "{path} leads to {}", answer.location());
            check_page(answer.location(), &next);
        } else if *path != "/settings/support" {
            check_page(path, &answer);
        }
    }
}

#[tokio::test]
async fn what_is_typed_wrongly_is_told_and_kept_and_nothing_is_done() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    // A form, its fields, and what the page then says.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        ("/volumes/new", &[("name", "UPPER"), ("group", "pg"), ("size", "1G"), ("block", "512e")], "is not a name"),
        ("/volumes/new", &[("name", "v"), ("group", "pg"), ("size", "lots"), ("block", "512e")], "is not a size"),
        ("/volumes/new", &[("name", "v"), ("group", "pg"), ("size", "1G"), ("block", "7")], "512e, 512n or 4kn"),
        ("/volumes/new", &[("name", ""), ("group", "pg"), ("size", "1G"), ("block", "512e")], "Name is missing"),
        ("/volumes/adopt", &[("name", "v"), ("group", "pg"), ("path", "sdx")], "absolute path"),
        ("/volumes/pg-data/resize", &[("size", "-1")], "is not a size"),
        ("/volumes/pg-data/access", &[("read_only", "maybe")], "whether hosts may write"),
        ("/groups/new", &[("name", "a b")], "is not a name"),
        ("/groups/pg/mirror", &[("peer", "")], "is missing"),
        ("/groups/pg/verify", &[("rate", "fast")], "is not a size"),
        ("/pair/dial", &[("address", "a b"), ("code", "1")], "The address is"),
        ("/pair/dial", &[("address", "192.0.2.1"), ("code", "")], "The code is"),
        ("/hosts/new", &[("name", "bob")], "is no iSCSI name"),
        ("/hosts/new", &[("name", "iqn.x"), ("addresses", "here")], "Addresses"),
        ("/hosts/new", &[("name", "iqn.x"), ("user", "u"), ("secret", "short")], "12 to 255 bytes"),
        ("/hosts/new", &[("name", "iqn.x"), ("mutual_user", "u"), ("secret", "twelve-bytes")], "CHAP user"),
        ("/hosts/new", &[("name", "iqn.x"), ("iops", "many")], "SCSI commands"),
        ("/hosts/set", &[("name", "iqn.2026-01.com.example:host"), ("rate", "x")], "is not a size"),
        ("/hosts/remove", &[("name", "iqn.2026-01.com.example:host")], "Tick the box"),
        ("/alerts/ack", &[("id", "x")], "Alert"),
        ("/settings/name", &[("name", "A B")], "is not a name"),
        ("/settings/time", &[("now", "yesterday")], "is written like"),
        ("/settings/time", &[("servers", "1 2 3 4 5 6 7 8 9")], "at most 8"),
        ("/settings/network/interface", &[("name", "")], "1 to 15 characters"),
        ("/settings/network/interface", &[("name", "e"), ("method4", "static"), ("addresses4", "x")], "prefix length"),
        ("/settings/network/nameservers", &[("nameservers", "x")], "Name servers"),
        ("/settings/password", &[("current", PASSWORD), ("new", "short"), ("again", "short")], "at least 10"),
        ("/settings/messages", &[("webhooks", "ftp://x")], "begins with https"),
        ("/settings/messages", &[("server", "m"), ("to", "a@b")], "Sender is missing"),
        ("/settings/disks/take", &[("path", "/dev/sdc"), ("serial", "WRONG")], "not the serial number"),
        ("/settings/disks/take", &[("path", "/dev/sdc")], "not the serial number"),
        ("/settings/disks/take", &[("path", "/dev/none")], "not there any more"),
        ("/settings/power", &[("action", "explode"), ("sure", "yes")], "Choose what to do"),
        ("/settings/power", &[("action", "reboot")], "Tick the box"),
        ("/confirm", &[("kind", "nothing")], "no such action"),
        ("/confirm", &[("kind", "system_reset"), ("level", "all")], "choose how much"),
    ];
    for (path, fields, told) in cases {
        let answer = browser.submit(path, fields).await;
        assert_eq!(answer.status, 400, "{path} {fields:?}: {}", answer.body);
        assert!(answer.body.contains(told), "{path} {fields:?}: {}", answer.body);
        check_page(path, &answer);
        for (name, value) in *fields {
            let secret = ["secret", "new", "again", "current", "password"].contains(name);
            assert!(!secret || !answer.body.contains(&format!("value=\"{value}\"")), "{path}: {name} came back");
        }
    }
    assert!(bench.double.taken().is_empty());
    // What was typed stands there again, and is named as wrong to those who do not see it.
    let answer =
        browser.submit("/volumes/new", &[("name", "UPPER"), ("group", "pg"), ("size", "7G"), ("block", "4kn")]).await;
    for part in ["value=\"UPPER\"", "value=\"7G\"", "aria-invalid=\"true\"", "<option value=\"4kn\" selected>"] {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_the_box_refuses_is_told_with_what_to_do() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    for (path, fields, command, _) in FORMS {
        let error = ApiError::new(ErrorCode::WrongState, format!("no {HOSTILE}"), "do another thing");
        bench.double.world().refuse.insert((*command).into(), error);
        let answer = browser.submit(path, fields).await;
        bench.double.world().refuse.clear();
        assert_eq!(answer.status, 409, "{path}: {}", answer.body);
        assert!(answer.body.contains("do another thing"), "{path}: {}", answer.body);
        assert!(!answer.body.contains("<script>alert"), "{path}");
        check_page(path, &answer);
    }
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    {
        let mut w = bench.double.world();
        let bad = || HOSTILE.to_owned();
        w.status.this_box.version = bad();
        w.status.this_box.endpoints.iscsi = vec![bad()];
        w.status.this_box.endpoints.link = Some(bad());
        w.status.this_box.pool.data_areas_spare = vec![SpareArea { name: bad(), home: bad(), size_bytes: 1 }];
        w.status.peers[0].version = Some(bad());
        w.status.peers[0].address = Some(bad());
        w.status.peers[0].key_fingerprint = bad();
        for group in &mut w.status.groups {
            group.state = GroupState::Fenced { reason: bad() };
            group.link.as_mut().unwrap().state = LinkState::Refused { reason: bad() };
            for volume in &mut group.volumes {
                (volume.home, volume.serial, volume.naa) = (bad(), bad(), bad());
                volume.state = VolumeState::Missing { reason: bad() };
            }
            for target in &mut group.targets {
                target.iqn = bad();
                for session in &mut target.sessions {
                    (session.initiator, session.address, session.chap_user) = (bad(), bad(), Some(bad()));
                }
            }
        }
        for alert in &mut w.status.alerts {
            (alert.subject, alert.text, alert.what_to_do, alert.acked) = (bad(), bad(), bad(), false);
        }
        w.status.jobs[0].subject = bad();
        w.status.jobs[0].state = JobState::Waiting { reason: bad() };
        for event in &mut w.events {
            (event.subject, event.text, event.what_to_do) = (bad(), bad(), bad());
        }
        let name = format!("iqn.{HOSTILE}").replace(' ', "").parse().unwrap();
        w.initiators.initiators[0].name = name;
        w.initiators.initiators[0].chap_user = Some(bad());
        w.initiators.initiators[0].mutual_user = Some(bad());
        w.pair = PairState::Failed { error: ApiError::new(ErrorCode::PairingFailed, bad(), bad()) };
        w.notify.webhooks = vec![Webhook { url: bad() }];
        w.log = vec![bad(), "\u{1b}[2J".into()];
        let system = w.system.as_mut().unwrap();
        system.firmware.version = bad();
        system.firmware.watchdog = Some(bad());
        system.clock.state = ClockState::Unsynchronized { reason: bad() };
        system.clock.servers = vec![bad()];
        for i in &mut system.network.interfaces {
            (i.name, i.mac, i.addresses) = (bad(), bad(), vec![bad()]);
        }
        for i in &mut system.network.settings.interfaces {
            i.name = bad();
            i.kind = InterfaceKind::Vlan { parent: bad(), id: 1 };
        }
        for disk in &mut system.disks {
            (disk.path, disk.serial, disk.model) = (bad(), bad(), bad());
            disk.usage = DiskUsage::Foreign { what: bad() };
        }
        system.pool = PoolPlace::Missing { serial: bad() };
        system.config = ConfigState::Damaged { reason: bad() };
        system.processes[0].name = bad();
        system.processes[0].last_exit = Some(bad());
        w.bundle.file_name = format!("{HOSTILE}\r\nx: y");
    }
    let host =
        serde_urlencoded::to_string([("name", format!("iqn.{}", HOSTILE.to_lowercase().replace(' ', "")))]).unwrap();
    let host = format!("/hosts/show?{host}");
    let payload = serde_urlencoded::to_string([("name", HOSTILE), ("kind", HOSTILE)]).unwrap();
    let hostile_paths = [
        host.clone(),
        format!("/settings/network/interface?{payload}"),
        format!("/hosts/show?{payload}"),
        format!("/settings/logs?source={payload}"),
        format!("/?range={payload}"),
        "/volumes/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E".into(),
        "/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E".into(),
    ];
    let escaped = "&lt;script&gt;alert(1)";
    let mut shown = 0;
    for path in PAGES.iter().map(|p| (*p).to_owned()).chain(hostile_paths) {
        let answer = browser.get(&path).await;
        assert!(answer.status < 500, "{path}: {}", answer.body);
        assert!(!answer.body.contains("<script>alert") && !answer.body.contains("<img"), "{path}: {}", answer.body);
        if !path.contains("example%3A") && answer.status != 303 {
            check_page(&path, &answer);
        }
        shown += usize::from(answer.body.contains(escaped));
    }
    assert!(shown > 12, "the text was on {shown} pages only");
    assert!(browser.get(&host).await.body.contains("iqn."), "the page of that host");
    // Typed, too.
    for (path, fields, ..) in FORMS {
        let fields: Vec<_> = fields.iter().map(|(name, _)| (*name, HOSTILE)).collect();
        let answer = browser.submit(path, &fields).await;
        assert!(!answer.body.contains("<script>alert") && !answer.body.contains("<img"), "{path}: {}", answer.body);
        let next = answer.location();
        assert!(next.is_empty() || next.starts_with('/') && !next.starts_with("//"), "{path}: {next}");
        if answer.status == 303 {
            assert!(!browser.get(next).await.body.contains("<script>alert"), "{path}");
        }
    }
    let answer = browser.submit("/settings/support", &[]).await;
    assert_eq!(
        answer.header("content-disposition"),
        "attachment; filename=\"scriptalert1scriptimgsrcxonerroralert1xy\""
    );
    let (_, events) = events(&browser).await;
    assert!(!events.contains("\ndata: <"), "{events}");
}

#[tokio::test]
async fn the_bundle_is_what_the_box_gave() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    let answer = browser.submit("/settings/support", &[]).await;
    assert_eq!(answer.body, "bundle");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"support.tar.gz\"");
    assert_eq!(answer.header("content-type"), "application/gzip");
    bench.double.world().bundle.content_base64 = "%".into();
    assert_eq!(browser.submit("/settings/support", &[]).await.status, 400);
}

#[tokio::test]
async fn what_destroys_is_shown_typed_and_done_once() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    let fields = [("kind", "system_reset"), ("level", "wipe")];
    // The name of the box is known after the first look at it.
    tokio::time::timeout(Duration::from_secs(20), async {
        while !browser.get("/settings/reset").await.body.contains("<a href=\"/\">lyon</a>") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let page = browser.submit("/confirm", &fields).await;
    check_page("/confirm", &page);
    for part in ["This will reset the box: wipe.", "50 GiB of data", "wipe lyon"] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    assert!(!page.body.contains("token-0"), "the API's token stays on the box");
    let id = field(&page.body, "id");
    bench.double.taken();
    for typed in ["", "wipe", "WIPE LYON", "wipe turin"] {
        let answer = browser.submit("/confirm/do", &[("id", &id), ("typed", typed)]).await;
        assert_eq!(answer.status, 400, "{typed}");
        assert!(answer.body.contains("50 GiB of data"), "what is lost is shown again");
    }
    // Another login cannot use it.
    let mut other = bench.logged_in().await;
    assert_eq!(other.submit("/confirm/do", &[("id", &id), ("typed", "wipe lyon")]).await.status, 409);
    assert!(bench.double.taken().is_empty());
    let answer = browser.submit("/confirm/do", &[("id", &id), ("typed", " wipe lyon ")]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("starts again"), "{}", answer.body);
    assert_eq!(bench.double.taken(), [("action_confirm".to_owned(), json!({"token": "token-0"}))]);
    let answer = browser.submit("/confirm/do", &[("id", &id), ("typed", "wipe lyon")]).await;
    assert_eq!(answer.status, 409, "it is good once");
    assert!(bench.double.taken().is_empty());

    let page = browser.submit("/confirm", &[("kind", "volume_erase"), ("volume", "pg-data")]).await;
    let id = field(&page.body, "id");
    let answer = browser.submit("/confirm/do", &[("id", &id), ("typed", "pg-data")]).await;
    assert_eq!(answer.location(), "/volumes");
    assert!(browser.get("/volumes").await.body.contains("Erase volume pg-data: done."));
    assert!(!browser.get("/volumes").await.body.contains("Erase volume pg-data: done."), "it is told once");
}

/// The page of a mirror whose source had gone offered one thing to do: to delete the last copy.
#[tokio::test]
async fn an_image_is_not_offered_for_deletion_and_given_up_on_a_page_of_its_own() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    let set = |source: ImageSource, text: &str| {
        let mut w = bench.double.world();
        let volume = VolumeStatus { state: VolumeState::Image, ..web_double::sample().groups[1].volumes[0].clone() };
        w.status.groups.retain(|g| g.role == Role::Mirror);
        let group = &mut w.status.groups[0];
        (group.state, group.volumes) = (GroupState::Disconnected, vec![volume]);
        group.image = Some(ImageStatus {
            complete: true,
            moment_unix_ms: None,
            source,
            silent_since_unix_ms: None,
            text: text.into(),
            what_to_do: "Bring turin back.".into(),
        });
    };
    let danger = "class=\"danger\"";
    set(ImageSource::Silent, "turin has been silent. THIS VERSION CANNOT SERVE IT.");
    for path in ["/", "/volumes", "/volumes/pg-data", "/groups/mail", "/hosts"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        check_page(path, &page);
        for untrue in [danger, "read and write", ">ready<", "Not yet at the mirror", "Delete the group"] {
            assert!(!page.body.contains(untrue), "{path} says {untrue}");
        }
    }
    for path in ["/", "/groups/mail", "/groups/mail/give-up"] {
        let page = browser.get(path).await;
        for said in ["turin has been silent. THIS VERSION CANNOT SERVE IT.", "Bring turin back."] {
            assert!(page.body.contains(said), "{path} does not say {said}");
        }
    }
    assert!(browser.get("/groups/mail").await.body.contains("href=\"/groups/mail/give-up\""));
    assert!(browser.get("/hosts").await.body.contains("Hosts attach to turin."));
    assert!(browser.get("/groups/mail/give-up").await.body.contains(danger));
    set(ImageSource::Sends, "turin sends every write.");
    let page = browser.get("/groups/mail/give-up").await;
    assert!(!page.body.contains(danger) && page.body.contains("End the mirror on"), "{}", page.body);
}

#[tokio::test]
async fn too_much_is_refused() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    let token = browser.token().await;
    let large = "x".repeat(70 << 10);
    let answer = browser.post("/groups/new", &[("csrf", &token), ("name", &large)]).await;
    assert_eq!(answer.status, 413);
    check_page("/groups/new", &answer);
    let many: Vec<(&str, &str)> = [("csrf", token.as_str())].into_iter().chain((0..200).map(|_| ("a", "b"))).collect();
    assert_eq!(browser.post("/groups/new", &many).await.status, 400);
    let request = browser
        .request("POST", "/groups/new")
        .header("origin", format!("https://{}", browser.host()))
        .header("content-type", "application/json")
        .body(Full::from("{}"))
        .unwrap();
    assert_eq!(browser.send(request).await.status, 415);
    let mut stream = browser::tls(bench.address).await.unwrap();
    let head = format!("GET /login HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "y".repeat(300 << 10));
    // Whether all of it could be written before the box hung up does not matter.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    for (method, path) in [("PUT", "/"), ("DELETE", "/volumes/new"), ("TRACE", "/")] {
        let request = browser
            .request(method, path)
            .header("origin", format!("https://{}", browser.host()))
            .body(Full::default())
            .unwrap();
        assert_eq!(browser.send(request).await.status, 405, "{method} {path}");
    }
    assert_eq!(browser.get("/logout").await.location(), "/", "a page that was a form's answer, loaded again");
    assert!(bench.double.taken().is_empty());
}

#[tokio::test]
async fn a_login_ends_by_itself() {
    let limits = SessionLimits { idle: Duration::from_millis(1500), life: Duration::from_secs(60) };
    let bench = bench_with(limits).await;
    let mut browser = bench.logged_in().await;
    let token = browser.token().await;
    let mut stream = browser.open(browser.request("GET", "/live").body(Full::default()).unwrap()).await;
    // What the script asks by itself does not make the login last.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(1600) {
        let request = browser.request("GET", "/").header("x-reprise-refresh", "1").body(Full::default()).unwrap();
        browser.send(request).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(browser.get("/volumes").await.location(), "/login?next=%2Fvolumes");
    let answer = browser.post("/groups/new", &[("csrf", &token), ("name", "g")]).await;
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("expired"), "{}", answer.body);
    assert!(bench.double.taken().is_empty());
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(frame) = stream.frame().await {
            text.push_str(&String::from_utf8_lossy(frame.unwrap().data_ref().unwrap()));
        }
    })
    .await
    .expect("the stream ends with the login");
    assert!(text.contains("event: gone"), "{text}");
}

/// What `/live` sends until the first figures are there.
async fn events(browser: &Browser) -> (hyper::Response<hyper::body::Incoming>, String) {
    let mut answer = browser.open(browser.request("GET", "/live").body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(20), async {
        while !text.contains("event: figures") || !text.ends_with("\n\n") {
            let frame = answer.frame().await.unwrap().unwrap();
            text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
        }
    })
    .await
    .unwrap();
    (answer, text)
}

#[tokio::test]
async fn figures_come_by_themselves() {
    let bench = bench().await;
    let mut browser = bench.logged_in().await;
    let (stream, text) = events(&browser).await;
    let data = text.split("data: ").find(|d| d.contains("texts")).unwrap().trim();
    let message: Value = serde_json::from_str(data).unwrap();
    assert_eq!(message["texts"]["g.pg.lag"], "2.4 s");
    assert_eq!(message["texts"]["j.7.percent"], "37.5 %");
    assert!(message["paths"]["c.pg.lag.lag"].as_str().unwrap().starts_with('M'));
    // Everything that moves on the page has a figure.
    let page = browser.get("/").await.body;
    for key in attributes(&page, "data-live") {
        assert!(message["texts"].get(key).is_some(), "{key}");
    }
    for key in attributes(&page, "data-path") {
        assert!(message["paths"].get(key).is_some(), "{key}");
    }
    drop(stream);
    // So many for one login, then no more.
    let mut held = Vec::new();
    for _ in 0..8 {
        let answer = browser.open(browser.request("GET", "/live").body(Full::default()).unwrap()).await;
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    let answer = browser.open(browser.request("GET", "/live").body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), 429);
}

#[tokio::test]
async fn a_box_that_is_away_or_has_no_disk_is_told() {
    let mut bench = bench().await;
    let mut browser = bench.logged_in().await;
    {
        let mut w = bench.double.world();
        w.pool = false;
        w.system.as_mut().unwrap().pool = PoolPlace::None { reason: "No disk is free.".into() };
    }
    assert_eq!(browser.get("/").await.location(), "/settings/disks");
    let page = browser.get("/settings/disks").await;
    for part in [
        "no pool yet",
        "No disk is free.",
        "Type the serial number of the disk",
        "Make the pool on it",
        "the rest of /dev/sda",
    ] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    check_page("/settings/disks", &page);
    for path in ["/volumes", "/pair", "/hosts", "/events", "/jobs", "/groups/pg"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 409, "{path}");
        assert!(answer.body.contains("href=\"/settings/disks\""), "{path}");
    }
    bench.double.world().system = None;
    let answer = browser.get("/settings/network").await;
    assert_eq!(answer.status, 501);
    assert!(answer.body.contains("this box is no appliance"));
    assert_eq!(browser.get("/settings").await.status, 200);

    if let Some(api) = bench.api.take() {
        api.abort();
    }
    let socket = bench.dir.path().join("api.sock");
    std::fs::remove_file(&socket).unwrap();
    let token = browser.token().await;
    for path in ["/", "/volumes", "/settings/network"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.body.contains("does not answer") && answer.body.contains("http-equiv=\"refresh\""), "{path}");
        check_page(path, &answer);
    }
    let mut stranger = Browser::new(bench.address);
    let form = stranger.form("/login").await;
    assert_eq!(stranger.post("/login", &[("form", &form), ("password", PASSWORD)]).await.status, 503);
    let answer = browser.post("/groups/new", &[("csrf", &token), ("name", "g")]).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("value=\"g\""), "what was typed is kept");
    bench.double.world().pool = true;
    let _api = bench.double.serve(&socket);
    assert_eq!(browser.get("/").await.status, 200, "the login holds");
}

#[tokio::test]
async fn plain_http_only_leads_to_https() {
    let bench = bench().await;
    for (host, path, location) in [
        ("box.example:8080", "/volumes?x=1", format!("https://box.example:{}/volumes?x=1", bench.address.port())),
        ("[2001:db8::1]", "/", format!("https://[2001:db8::1]:{}/", bench.address.port())),
        ("evil.example/@box", "/", String::new()),
        ("", "/", String::new()),
    ] {
        let mut stream = tokio::net::TcpStream::connect(bench.http).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        if location.is_empty() {
            assert!(text.starts_with("HTTP/1.1 400"), "{text}");
        } else {
            assert!(text.starts_with("HTTP/1.1 308") && text.contains(&format!("location: {location}\r\n")), "{text}");
        }
        assert!(!text.to_lowercase().contains("set-cookie"), "{text}");
    }
}

#[tokio::test]
async fn the_certificate_is_waited_for_and_a_stop_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let config = WebConfig {
        listen_https: vec!["127.0.0.1:0".parse().unwrap()],
        listen_http: None,
        api_socket: dir.path().join("none"),
        cert: dir.path().join("https-cert.pem"),
        key: dir.path().join("https-key.pem"),
        sessions: SessionLimits::default(),
    };
    let console = Console::bind(config.clone()).await.unwrap();
    let address = console.https_addresses().unwrap()[0];
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(console.run(stopped));
    web_double::certificate(dir.path());
    let mut browser = Browser::new(address);
    assert_eq!(browser.log_in(PASSWORD).await.status, 503, "no box behind it yet, and HTTPS is there");
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), served).await.expect("it ends").unwrap().unwrap();
    // Before there is one, a stop ends it, too; one that cannot be used is an error.
    std::fs::remove_file(&config.cert).unwrap();
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(reprise_console::web::serve(config.clone(), stopped));
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), served).await.expect("it ends").unwrap().unwrap();
    std::fs::write(&config.cert, "nonsense").unwrap();
    let (_stop, stopped) = watch::channel(false);
    assert!(reprise_console::web::serve(config, stopped).await.is_err());
}

#[tokio::test]
async fn a_stop_ends_open_streams() {
    let bench = bench().await;
    let browser = bench.logged_in().await;
    let (_stream, _) = events(&browser).await;
    bench.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(15), bench.served).await.expect("it ends").unwrap().unwrap();
}

/// Connections that say nothing, or ask and never read, kept every browser out as long as they stayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_keep_no_browser_out() {
    let bench = bench().await;
    let browser = bench.logged_in().await;
    let mut live = browser.open(browser.request("GET", "/live").body(Full::default()).unwrap()).await;
    let knock = async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        socket.connect(bench.address).await.unwrap()
    };
    let mut held = Vec::new();
    let mut asking = Vec::new();
    for n in 0..300 {
        held.push(knock().await);
        if n % 4 == 0 {
            let mut stream = browser::tls_over(knock().await).await.unwrap();
            let asks = "GET /login HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
            let _ = tokio::time::timeout(Duration::from_millis(10), stream.write_all(asks.as_bytes())).await;
            asking.push(stream);
        }
        if n % 50 == 0 {
            let came = tokio::time::timeout(Duration::from_secs(5), bench.logged_in()).await;
            came.expect("a browser gets in");
        }
    }
    let frame = tokio::time::timeout(Duration::from_secs(5), live.body_mut().frame()).await;
    assert!(frame.expect("figures go on moving").is_some_and(|frame| frame.is_ok()));
    // Without a login a connection has so many answers and no more.
    let mut answers = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), asking.last_mut().unwrap().read_to_end(&mut answers)).await;
    assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 ").count(), 32);
}
