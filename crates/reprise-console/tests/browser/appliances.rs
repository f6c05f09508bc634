//! Two machines that were started from the image: `cargo xtask appliance-test --only pair-browser` starts them and this.

use crate::driver::{Driver, Page};
use crate::{STORY_TIME, first_login, within};

/// From the first visit of two flashed boxes to a mirrored volume. `REPRISE_BOXES` names their pages: `https://... https://...`;
/// `REPRISE_CODES` has the codes that their screens show for the first password.
#[test]
#[ignore = "needs two machines: cargo xtask appliance-test --only pair-browser"]
fn two_appliances_are_paired_in_a_browser() {
    let boxes = std::env::var("REPRISE_BOXES").expect("REPRISE_BOXES names the pages of two boxes");
    let [url_a, url_b] = boxes.split_whitespace().collect::<Vec<_>>().try_into().expect("two pages");
    let codes = std::env::var("REPRISE_CODES").expect("REPRISE_CODES has the codes of two boxes");
    let [code_a, code_b] = codes.split_whitespace().collect::<Vec<_>>().try_into().expect("two codes");
    within(STORY_TIME, async {
        let driver = Driver::start();
        let (a, b) = (driver.browser(url_a, true).await, driver.browser(url_b, true).await);
        first_login(&a, code_a).await;
        first_login(&b, code_b).await;
        pair(&a, &b).await;
        mirrored_volume(&a).await;
        for page in [a, b] {
            page.no_errors().await;
            page.close().await;
        }
    });
}

async fn pair(a: &Page, b: &Page) {
    a.go("/pair").await;
    a.click("form[action='/pair/listen'] button").await;
    a.until("a code", "return document.getElementById('pair-code') !== null").await;
    let code = a.js("return document.getElementById('pair-code').textContent").await;
    // Only the cable between the boxes leads there.
    let address = a
        .js("return [...document.querySelectorAll('dd code')].map(c => c.textContent).find(t => t.startsWith('169.254.'))")
        .await;
    assert!(address.starts_with("169.254."), "no link-local address: {address}");
    b.go("/pair").await;
    b.fill("#address", &address).await;
    b.fill("#code", &code).await;
    b.click("form[action='/pair/dial'] button").await;
    for page in [b, a] {
        page.until("a pair", "return document.getElementById('main').textContent.includes('Paired.')").await;
    }
}

async fn mirrored_volume(page: &Page) {
    page.go("/volumes/new").await;
    page.fill("#name", "data").await;
    page.fill("#group", "data").await;
    page.fill("#size", "320M").await;
    page.js("document.getElementById('mirror').selectedIndex = 1; return ''").await;
    page.click("main button[type=submit]").await;
    page.until("the group", "return location.pathname === '/groups/data'").await;
    page.until("order", "return document.getElementById('main').textContent.includes('in order')").await;
}
