//! The web console in headless Chromium, against two real boxes: `reprise run` and `reprise web`, each twice. `appliances` does it
//! with two machines that start from the image.
//!
//! The first process of an appliance is not there on a developer's machine; `first` answers the daemon in its place, over the
//! real system socket. Pictures go to `target/web-screens`.
#![allow(clippy::unwrap_used)]

mod appliances;
mod boxes;
mod driver;
mod first;
mod look;

use std::time::Duration;

use boxes::Pair;
use driver::{Driver, Page};

const PASSWORD: &str = "correct horse battery";
/// Longest wait for anything: the machine of a test may be busy.
const WAIT: Duration = Duration::from_secs(90);

/// Longest time of a whole story.
const STORY_TIME: Duration = Duration::from_secs(600);

/// Pages of which pictures are taken and that are looked at in every way: path and name.
const PAGES: &[(&str, &str)] = &[
    ("/", "overview"),
    ("/?range=day", "overview-day"),
    ("/volumes", "volumes"),
    ("/volumes/new", "volume-new"),
    ("/volumes/data", "volume"),
    ("/groups/pg", "group"),
    ("/pair", "pairing"),
    ("/hosts", "hosts"),
    ("/hosts/new", "host-new"),
    ("/events", "events"),
    ("/jobs", "jobs"),
    ("/settings", "settings"),
    ("/settings/network", "network"),
    ("/settings/network/interface?name=eth0", "network-interface"),
    ("/settings/time", "time"),
    ("/settings/messages", "messages"),
    ("/settings/disks", "disks"),
    ("/settings/logs", "logs"),
    ("/settings/password", "password"),
    ("/settings/sessions", "sessions"),
    ("/settings/power", "power"),
    ("/settings/reset", "reset"),
];

/// One test, since one story: two boxes out of the cardboard until a mirrored volume is written down as such.
#[test]
fn two_boxes_are_set_up_in_a_browser() {
    within(STORY_TIME, async {
        let driver = Driver::start();
        let mut pair = Pair::start().await;
        let a = driver.browser(&pair.a.url, true).await;
        let b = driver.browser(&pair.b.url, true).await;

        first_login(&a, &pair.a.code().await).await;
        pair_by_keyboard(&a, &b, &pair.b.code().await).await;
        make_a_mirrored_volume(&a).await;
        let (wide, wide_dark, narrow) = (look::Kind::Light, look::Kind::Dark, look::Kind::Phone);
        for kind in [wide, wide_dark, narrow] {
            for (path, name) in PAGES {
                look::at(&a, path, name, kind).await;
            }
        }
        figures_move(&a).await;
        nothing_is_destroyed_by_chance(&a).await;
        the_mirror_says_so_too(&b).await;
        without_script(&driver, &pair).await;
        the_box_goes_away_and_comes_back(&a, &mut pair).await;
        for page in [a, b] {
            page.no_errors().await;
            page.close().await;
        }
        // Not before: a page would tell that its box is gone.
        drop(pair);
    });
}

/// Runs a story; one that stands still fails.
fn within(limit: Duration, story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, story).await });
    // What still waits must not hold the test.
    runtime.shutdown_background();
    assert!(outcome.is_ok(), "not at its end after {limit:?}");
}

/// The first login, with the keyboard alone.
async fn first_login(page: &Page, code: &str) {
    page.go("/").await;
    assert!(page.url().await.ends_with("/login"), "{}", page.url().await);
    look::at(page, "/login", "login", look::Kind::Light).await;
    page.tab_to("main a[href='/login/first']").await;
    page.keys("\u{e007}").await;
    page.until("the page of the first password", "return location.pathname === '/login/first'").await;
    look::at(page, "/login/first", "first-login", look::Kind::Phone).await;
    look::at(page, "/login/first", "first-login", look::Kind::Light).await;
    page.tab_to("#code").await;
    page.keys(code).await;
    page.tab_to("#new").await;
    page.keys(PASSWORD).await;
    page.tab_to("#again").await;
    page.keys(PASSWORD).await;
    page.keys("\u{e007}").await;
    page.until(
        "the overview",
        "return location.pathname === '/' && document.querySelector('h1')?.textContent === 'Overview'",
    )
    .await;
}

/// Pairing on both boxes without touching a mouse.
async fn pair_by_keyboard(a: &Page, b: &Page, first_code: &str) {
    a.go("/").await;
    // The skip link is the first stop and leads into the content.
    a.press("\u{e004}").await;
    assert_eq!(a.js("return document.activeElement.className").await, "skip");
    a.press("\u{e007}").await;
    a.until("the content has the focus", "return document.activeElement.id === 'main'").await;
    a.go("/").await;
    a.tab_to("nav a[href='/pair']").await;
    a.press("\u{e007}").await;
    a.until("the pairing page", "return location.pathname === '/pair'").await;
    a.tab_to("form[action='/pair/listen'] button").await;
    a.press("\u{e007}").await;
    a.until("a code", "return document.getElementById('pair-code') !== null").await;
    look::at(a, "/pair", "pairing-code", look::Kind::Light).await;
    let code = a.js("return document.getElementById('pair-code').textContent").await;
    let address = a.js("return document.querySelector('dd code').textContent").await;
    let port = address.rsplit(':').next().unwrap();

    first_login(b, first_code).await;
    b.tab_to("nav a[href='/pair']").await;
    b.press("\u{e007}").await;
    b.until("the pairing page", "return location.pathname === '/pair'").await;
    // A wrong code first: it is told, and the other box goes on waiting.
    for (typed, outcome) in [("WRO-NGC-ODE", "failed"), (code.as_str(), "Paired.")] {
        b.tab_to("#address").await;
        b.keys(&format!("127.0.0.1:{port}")).await;
        b.press("\u{e004}").await;
        b.keys(typed).await;
        b.press("\u{e007}").await;
        let told = format!("return document.getElementById('main').textContent.includes('{outcome}')");
        b.until(outcome, &told).await;
        look::at(b, "/pair", &format!("pairing-{}", outcome.trim_end_matches('.').to_lowercase()), look::Kind::Light)
            .await;
    }
    // What the browser says about the answer to a wrong code is no fault of a page.
    b.forget_errors("409 (Conflict)").await;
    // The first box's page learns of it by itself.
    a.until("the other side", "return document.getElementById('main').textContent.includes('Paired.')").await;
    a.press("\u{e004}").await;
}

async fn make_a_mirrored_volume(page: &Page) {
    page.go("/volumes/new").await;
    page.fill("#name", "data").await;
    page.fill("#group", "pg").await;
    page.fill("#size", "lots").await;
    page.click("main button[type=submit]").await;
    page.until("what is wrong", "return document.querySelector('#size[aria-invalid=true]') !== null").await;
    assert_eq!(page.js("return document.getElementById('name').value").await, "data");
    look::at_here(page, "volume-new-wrong", look::Kind::Light).await;
    // The browser puts the answer to a wrong form among the errors.
    page.forget_errors("400 (Bad Request)").await;
    page.fill("#size", "16M").await;
    page.click("main button[type=submit]").await;
    page.until("the group", "return location.pathname === '/groups/pg'").await;
    page.until("a volume that is ready", "return document.getElementById('main').textContent.includes('ready')").await;
    page.click("form[action='/groups/pg/mirror'] button").await;
    page.until("order", "return document.getElementById('main').textContent.includes('in order')").await;
    page.click("form[action='/groups/pg/verify'] button").await;
    page.until("a job", "return location.pathname.startsWith('/jobs/')").await;
    page.until(
        "equal images",
        "return document.getElementById('main').textContent.includes('Both images are the same')",
    )
    .await;
    look::at_here(page, "compared", look::Kind::Light).await;
    page.go("/hosts/new").await;
    page.fill("#name", "iqn.2026-01.com.example:host").await;
    page.fill("#user", "host").await;
    page.fill("#secret", "a secret of 20 bytes").await;
    page.click("main button[type=submit]").await;
    page.until("the host", "return location.pathname === '/hosts/show'").await;
    let text = page.js("return document.getElementById('main').textContent").await;
    assert!(text.contains("node.session.auth.username -v host"), "{text}");
    assert!(!text.contains("a secret of 20 bytes"));
    page.js("document.querySelectorAll('details').forEach(d => d.open = true)").await;
    look::at_here(page, "host", look::Kind::Light).await;
    look::at_here(page, "host", look::Kind::Phone).await;
}

async fn figures_move(page: &Page) {
    page.wide().await;
    page.go("/").await;
    page.until("live figures", "return document.getElementById('live-state').textContent.startsWith('Figures of')")
        .await;
    let at = page.js("return document.getElementById('live-state').textContent").await;
    let drawn = page.js("return document.querySelector('path.line').getAttribute('d')").await;
    let drawn = drawn.len();
    page.until(
        "later figures",
        &format!("return document.getElementById('live-state').textContent !== {}", serde_json::json!(at)),
    )
    .await;
    page.until(
        "a longer line",
        &format!("return document.querySelector('path.line').getAttribute('d').length > {drawn}"),
    )
    .await;
    let says = page.js("return document.getElementById('live-says').textContent").await;
    assert!(says.contains("Group pg: ordered."), "{says}");
    let table = page.js("return document.querySelector('.chart details table').textContent").await;
    assert!(table.contains("now"), "{table}");
}

async fn nothing_is_destroyed_by_chance(page: &Page) {
    page.go("/groups/pg").await;
    page.click("input[value=mirror_remove] ~ button").await;
    page.until("what is lost", "return document.getElementById('typed') !== null").await;
    look::at_here(page, "confirm", look::Kind::Light).await;
    page.fill("#typed", "something else").await;
    page.click("main button[type=submit]").await;
    page.until("it is refused", "return document.querySelector('#typed[aria-invalid=true]') !== null").await;
    page.forget_errors("400 (Bad Request)").await;
    page.go("/groups/pg").await;
    let text = page.js("return document.getElementById('main').textContent").await;
    assert!(text.contains("in order"), "{text}");
}

async fn the_mirror_says_so_too(page: &Page) {
    page.go("/").await;
    let text = page.js("return document.getElementById('main').textContent").await;
    assert!(text.contains("Other box: lyon") && text.contains("mirror"), "{text}");
    look::at_here(page, "overview-mirror", look::Kind::Light).await;
}

/// A browser that runs no script logs in, makes a group and takes it away again.
async fn without_script(driver: &Driver, pair: &Pair) {
    let page = driver.browser(&pair.a.url, false).await;
    page.go("/").await;
    page.fill("#password", PASSWORD).await;
    page.click("main button[type=submit]").await;
    page.says("footer", "as of this page").await;
    page.go("/groups/new").await;
    page.fill("#name", "plain").await;
    page.click("main button[type=submit]").await;
    page.says("h1", "Group plain").await;
    page.click("input[value=group_delete] ~ button").await;
    page.says("main", "Type").await;
    page.fill("#typed", "plain").await;
    page.click("main button[type=submit]").await;
    page.says("main", "Delete group plain").await;
    // Script would have put a live word there.
    page.says("footer", "as of this page").await;
    page.close().await;
}

async fn the_box_goes_away_and_comes_back(page: &Page, pair: &mut Pair) {
    page.go("/").await;
    pair.a.daemon.stop();
    page.until(
        "the page tells that its figures are old",
        "return document.getElementById('live-state').textContent.includes('does not answer')",
    )
    .await;
    page.go("/volumes").await;
    look::at_here(page, "away", look::Kind::Light).await;
    assert!(page.text("h1").await.contains("does not answer"));
    pair.a.start_daemon().await;
    page.until("the page comes by itself", "return document.querySelector('h1').textContent === 'Volumes and groups'")
        .await;
    // What the browser says about answers of 503 is no fault of a page.
    page.forget_errors("503").await;
}
